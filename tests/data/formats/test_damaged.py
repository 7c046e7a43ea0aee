"""Three hundred files that are damaged or strange, and eight good ones between them."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID, JPEG2000Lossless

from echojepa_jax.data import shards
from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.video_info import MAX_FRAME_PIXELS
from echojepa_jax.preparation import plan
from tests.makers.dicom import make
from tests.makers.prepared import left_out, prepared
from tests.makers.videos import write_video

pytestmark = pytest.mark.slow

TOO_LONG = 10_000


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory) -> dict[str, Path]:
    """A good file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    frames = [decode.decode(str(video), np.arange(24)) for video in videos[:2]]
    shutil.copy(videos[2], folder / "a.avi")
    h264(folder / "b.mp4", frames[0])
    make(folder / "c.dcm", frames[1][..., 0], FrameTime=20.0)
    return {
        kind: folder / f"{name}.{kind}"
        for name, kind in zip("abc", ("avi", "mp4", "dcm"), strict=True)
    }


def h264(path: Path, frames, times=None) -> None:
    height, width = (n - n % 2 for n in frames.shape[1:3])
    times = 20 * np.arange(len(frames)) if times is None else times
    write_video(str(path), frames[:, :height, :width], "libx264", times=times.tolist(), clock=1000)


def strange(folder: Path, whole, hearts) -> set[str]:
    """Makes one file of every strange kind; the names of those that are good nevertheless."""
    video = decode.decode(str(whole["avi"]), np.arange(40))
    (folder / "zero.avi").touch()
    (folder / "notes.dcm").write_text("not an image")
    shutil.copy(whole["avi"], folder / "wrong_name.dcm.mp4")  # the same pictures as a.avi
    shutil.copy(whole["mp4"], folder / "wrong.dcm")
    os.symlink(folder, folder / "loop")
    os.symlink(folder / "nowhere.avi", folder / "broken_link.avi")
    os.mkfifo(folder / "pipe.avi")
    h264(folder / "variable.mp4", video, times=np.cumsum(np.where(np.arange(40) % 9, 20, 90)))
    # With its first frames hidden by an edit list, as a cut without coding anew leaves it.
    h264(folder / "edited.mp4", video[::-1], times=20 * np.arange(40) - 100)
    h264(folder / "odd.mp4", video[:, :61, :57])
    h264(folder / "one.mp4", video[:1])
    h264(folder / "short.mp4", video[:7])
    h264(folder / "long.mp4", np.resize(video[:, ::4, ::4], (TOO_LONG, 16, 16, 3)))
    grey = video[..., 0]
    make(folder / "no_rate.dcm", grey)
    for name, tags in (("more", {"NumberOfFrames": 400}), ("fewer", {"NumberOfFrames": 20})):
        make(folder / f"{name}.dcm", grey, FrameTime=20.0, **tags)
    make(folder / "huge.dcm", grey, FrameTime=20.0, Rows=60_000, Columns=60_000)
    assert MAX_FRAME_PIXELS < 60_000**2
    make(folder / "syntax.dcm", grey, FrameTime=20.0)
    for name, syntax in (("syntax", UID("1.2.840.10008.1.2.4.94")), ("liar", JPEG2000Lossless)):
        dataset = pydicom.dcmread(whole["dcm"])
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset["PixelData"].is_undefined_length = True
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51nonsense"] * 24)
        dataset.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    return {"edited.mp4", "odd.mp4"}


def test_damaged_files_cost_themselves_only(hearts, whole, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    good = strange(folder, whole, hearts)
    for kind, path in whole.items():
        shutil.copy(path, folder / f"0_whole.{kind}")
        good.add(f"0_whole.{kind}")
    for video in sorted((hearts / "Videos").glob("*.avi"))[3:8]:
        shutil.copy(video, folder / video.name)
        good.add(video.name)
    rng = np.random.default_rng(0)
    kinds = itertools.cycle(whole.items())
    while len(list(folder.iterdir())) < 300 + len(good):
        kind, path = next(kinds)
        data = bytearray(path.read_bytes())
        k = len(list(folder.iterdir()))
        if k % 3 == 0:
            data = data[: int(rng.integers(1, len(data)))]
        else:  # a few bits, most often where the file tells of itself
            end = len(data) if k % 2 else min(len(data), 3000)
            for position in rng.integers(0, end, 1 + k % 40):
                data[position] ^= 1 << int(rng.integers(8))
        (folder / f"damaged_{k}.{kind}").write_bytes(data)

    out = tmp_path / "shards"
    options = plan.Options(size=64, splits="train:1", sector="never", file_seconds=60)
    told = prepared(f"videos:{folder}", out, options, workers=2)
    rows = shards.rows(str(out))
    reasons = left_out(out)
    files = {path.name for path in folder.iterdir()} - {"loop"}
    assert len(rows) + len(reasons) == len(files) >= 300, told
    assert not good & set(reasons), {name: reasons[name] for name in good & set(reasons)}
    expected = {
        "zero.avi": "empty",
        "notes.dcm": "not a video file",
        "wrong_name.dcm.mp4": "duplicate",
        "wrong.dcm": "not a video file",
        "broken_link.avi": "missing",
        "pipe.avi": "not a video file",
        "variable.mp4": "variable frame rate",
        "one.mp4": "still",
        "short.mp4": "too short",
        "long.mp4": "too long",
        "no_rate.dcm": "no frame rate",
        "more.dcm": "truncated",
        "fewer.dcm": "wrong NumberOfFrames",
        "huge.dcm": "unsupported",
        "syntax.dcm": "unsupported",
        "liar.dcm": "damaged",
    }
    assert {name: reasons[name].partition(":")[0] for name in expected} == expected
    assert json.loads((out / "prepared.json").read_text())["left_out"]["truncated"] > 30
    # What looked whole is whole: as many frames as the index says, and they decode.
    for sample in shards.samples(str(out), "x"):
        assert decode.decode(sample.path, np.arange(sample.frames)).shape[0] == sample.frames


def test_names_that_lead_out_of_the_set(hearts, tmp_path):
    root = Path(shutil.copytree(hearts, tmp_path / "set"))
    outside = shutil.copy(root / "Videos" / "adult-0-00000-A4C.avi", tmp_path / "secret.avi")
    lines = (root / "FileList.csv").read_text().splitlines()
    lines.append(lines[1].replace(lines[1].split(",")[0], "../../secret"))
    (root / "FileList.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out" / "shards"
    prepared(f"echonet_dynamic:{root}", out, plan.Options(size=64))
    assert left_out(out)[Path(outside).name].startswith("unsafe name")
    assert len(shards.rows(str(out))) == 8
    assert {path.name for path in tmp_path.iterdir()} == {"set", "secret.avi", "out"}
