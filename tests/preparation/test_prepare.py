"""Preparation: shards do not depend on how they were made, and contain no names."""

import dataclasses
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable
from functools import partial
from glob import glob
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest

from echojepa_jax.data import manifest, shards
from echojepa_jax.data.clips.pipeline import training_batches
from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.data.formats import bucket_cache, decode, video_record
from echojepa_jax.data.sources import read_source
from echojepa_jax.data.units import unit_of
from echojepa_jax.preparation import duplicates, plan
from echojepa_jax.preparation import make as preparation
from echojepa_jax.preparation import verify as checks
from echojepa_jax.preparation.beam import make_with_beam
from echojepa_jax.preparation.plan import Options, Work
from echojepa_jax.preparation.verify import verify
from echojepa_jax.report.data_page import write_summary
from echojepa_jax.utils.errors import UserError
from tests import programs
from tests.makers import recordings
from tests.makers.dicom import as_jpeg, make, region
from tests.makers.prepared import OPTIONS, left_out, prepared
from tests.makers.screen import BANNER, patient_page, screen

pytestmark = pytest.mark.slow

NAMES = ("DOE^JANE", "DOE JANE", "DOE_JANE", "MRN00", "19570302", "1957-03-02", "1.2.3.4.")


WHOLE = Options(size=64, sector="never")


def write_table(path: Path, header: str, rows: Iterable[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def archive(videos, tmp_path_factory) -> Path:
    """Seven DICOMs of three people, as machines export them, names burned in; and a copy of one."""
    folder = tmp_path_factory.mktemp("archive")
    for k in range(7):
        heart = decode.decode(str(videos[k]), np.arange(0, 60, 2)[:24])[..., 0]  # a beat
        frames = screen(heart, f"{BANNER} MRN00{k % 3}")
        tags = {
            "PatientName": "Doe^Jane",
            "PatientID": f"MRN00{k % 3}",
            "StudyInstanceUID": f"1.2.3.4.{k % 3}",
            "PatientBirthDate": "19570302",
            "FrameTime": 20.0,
        }
        if k % 2:
            tags["SequenceOfUltrasoundRegions"] = [region(100, 50, 400, 340)]
        if k == 3:  # colour Doppler
            frames = np.repeat(frames[..., None], 3, axis=3)
            frames[::2, 180:220, 230:270] = (220, 30, 20)
            frames[1::2, 180:220, 230:270] = (20, 30, 220)
        photometric = "RGB" if k == 3 else "MONOCHROME2"
        make(folder / f"doe_jane_{k}.dcm", frames, photometric, **tags)
    shutil.copy(folder / "doe_jane_0.dcm", folder / "jane_again.dcm")
    return folder


@pytest.fixture(scope="module")
def salt(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("salt") / "salt"
    path.write_text("a secret that is long enough\n")
    return path


@pytest.fixture(scope="module")
def options(salt) -> Options:
    return dataclasses.replace(OPTIONS, salt_file=str(salt))


# As summary.html shows it: the set may be given away, so no folder is named.
COMMAND = (
    "python -m echojepa_jax.prepare --source=dicom:... --out=shards --size=160 "
    "--splits=train:0.6,val:0.4 --salt_file=... --shard_videos=2"
)


@pytest.fixture(scope="module")
def made(archive, options, tmp_path_factory) -> Path:
    """The archive, prepared by one process, with its page."""
    out = tmp_path_factory.mktemp("made") / "shards"
    summary = prepared(f"dicom:{archive}", out, options, workers=1)
    assert "7 videos in" in summary
    assert "1 rejected (1 duplicate)" in summary
    write_summary(out, COMMAND)
    return out


# --- what is made does not depend on how ----------------------------------------------------------


def test_interrupted_and_with_more_processes(made, archive, salt, options, tmp_path):
    out = tmp_path / "shards"
    flags = [f"--source=dicom:{archive}", f"--out={out}", f"--salt_file={salt}", "--size=160"]
    flags += ["--shard_videos=2", "--splits=train:0.6,val:0.4", "--workers=2"]
    # Killed while it plans, and again while it makes shards.
    for come_to in (Work(out).private / "state", out / "echo-*"):
        killed = programs.start("prepare", *flags)
        until = time.monotonic() + 60
        while not glob(str(come_to)) and killed.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        programs.finish(killed)
        assert not (out / "prepared.json").exists(), "it was killed in the middle"
    done = programs.run("prepare", *flags)
    assert done.returncode == 0, done.stderr
    assert "7 videos in" in done.stdout
    assert content(out) == content(made)
    assert "is complete, with 7 videos" in prepared(f"dicom:{archive}", out, options)
    assert content(out) == content(made)
    # A disk that was full, or a copy that was broken off: what is not whole is made anew.
    damaged = max(out.glob("echo-*"))
    damaged.write_bytes(damaged.read_bytes()[:-70000])
    assert "7 videos in" in prepared(f"dicom:{archive}", out, options)
    write_summary(out, COMMAND)
    assert content(out) == content(made)


def test_with_beam(made, archive, options, tmp_path):
    out = tmp_path / "shards"
    make = partial(make_with_beam, runner="DirectRunner", flags=())
    prepared(f"dicom:{archive}", out, options, make=make)
    write_summary(out, COMMAND)
    assert content(out) == content(made)


def test_a_patient_of_two_sources_keeps_split_and_pseudonym(made, archive, salt, tmp_path):
    """With the same salt; two sources in one command are an error that explains this."""
    frames = np.random.default_rng(0).integers(0, 255, (8, 40, 40), np.uint8)
    for k in range(3):
        tags = {"PatientID": f"MRN00{k}", "FrameTime": 20.0}
        make(tmp_path / "more" / f"{k}.dcm", np.roll(frames, k, axis=2), **tags)
    out = tmp_path / "shards"
    options = dataclasses.replace(OPTIONS, salt_file=str(salt), sector="never")
    prepared(f"dicom:{tmp_path}/more", out, options)
    before, after = (
        {row["patient"]: row["split"] for row in shards.rows(str(folder))} for folder in (made, out)
    )
    assert before == after
    sources = f"--source=dicom:{archive}", f"--source=dicom:{tmp_path}/more"
    done = programs.run("prepare", *sources, f"--out={tmp_path}/both")
    assert "error: --source is given 2 times: prepare each source with its own" in done.stderr


def test_interrupted_between_two_shards(made, archive, options, tmp_path):
    out = tmp_path / "shards"

    def one_only(work, missing, options, guard):
        preparation.make_here(work, missing[:1], options, guard)
        (work.out / ".echo-val.array_record-00000-of-00001.partial").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(f"dicom:{archive}", out, options, make=one_only)
    first = next(out.glob("echo-*"))
    before = first.stat().st_mtime_ns
    prepared(f"dicom:{archive}", out, options)
    write_summary(out, COMMAND)
    assert first.stat().st_mtime_ns == before, "what was done is kept"
    assert content(out) == content(made)


# --- nobody's name --------------------------------------------------------------------------------


def test_names_appear_nowhere(made, archive):
    for name, data in content(made).items():
        for secret in NAMES:
            assert secret.encode() not in data.upper(), f"{secret} is in {name}"
    assert verify(made, workers=1) == []
    rows = shards.rows(str(made))
    assert len({row["patient"] for row in rows}) == len({row["study"] for row in rows}) == 3
    assert all(len(row["patient"]) == 16 for row in rows)


def test_nothing_but_the_heart_is_left_in_the_pixels(made):
    for sample in shards.samples(str(made), "x"):
        features = video_record.read(sample.path)
        video = decode.decode(sample.path, np.arange(sample.frames))
        assert video.shape[1:3] == (160, 160)
        inside = np.zeros((160, 160), np.uint8)
        cv2.fillConvexPoly(inside, np.array(features["sector"], np.int32).reshape(-1, 2), 1)
        inside = cv2.dilate(inside, np.ones((5, 5), np.uint8))
        assert 0.3 < inside.mean() < 0.95
        assert video[:, inside == 0].max() < 40
        # The banner stood over the heart, from edge to edge, where the sector has its apex.
        assert np.flatnonzero(inside.any(axis=1))[0] < 20
        assert inside[:8].mean() < 0.5


def test_colours_are_kept_and_grey_is_one_channel(made):
    kinds = {sample.name: sample.grey for sample in shards.samples(str(made), "x")}
    assert sorted(kinds.values()) == [False] + [True] * 6
    for sample in shards.samples(str(made), "x"):
        (frame,) = video_record.frames(sample.path, [0])
        assert frame.shape == (160, 160, 1 if sample.grey else 3)
        if not sample.grey:
            red = frame[..., 0].astype(int) - frame[..., 2]
            assert red.max() > 120, "red stays red"
            (jpeg, *_) = video_record.read(sample.path)["frames"]
            header = jpeg[jpeg.index(b"\xff\xc0") :]  # its first component: id, sampling, table
            assert header[11] == 0x11, "no colours are shared between pixels"


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def rewrite(folder: Path, change) -> None:
    """Applies `change(features)` to the first record of the first shard."""
    name = min(json.loads((folder / "prepared.json").read_text())["files"])
    rows = [row for row in shards.rows(str(folder)) if row["shard"] == name]
    features = [video_record.read(f"{folder / name}#{k}") for k in range(len(rows))]
    change(features[0])
    shards.write(folder / name, [video_record.pack(entry) for entry in features])
    video_record._reader.cache_clear()  # it holds the file as it was
    about = json.loads((folder / "prepared.json").read_text())
    about["files"][name] = (folder / name).stat().st_size
    (folder / "prepared.json").write_text(json.dumps(about))


def with_text(features) -> None:
    frames = [
        cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
        for jpeg in features["frames"]
    ]
    for frame in frames:
        cv2.putText(frame, "DOE JANE", (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1)
    features["frames"] = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]


def with_page(features) -> None:
    page = cv2.resize(patient_page(), tuple(features["height"] * 2))
    features["frames"][5] = cv2.imencode(".jpg", page)[1].tobytes()


def with_comment(features) -> None:
    jpeg = features["frames"][0]
    features["frames"][0] = jpeg[:2] + b"\xff\xfe\x00\x0aDoe Jane" + jpeg[2:]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda f: f.update(patient=["Doe Jane"]), "patient is not a pseudonym"),
        (lambda f: f.update(view=["seen by Dr. A. Smith, Tuesday"]), "unusual characters"),
        (with_text, "is not black outside"),
        (with_comment, "contains a comment"),
        (lambda f: f["frames"].pop(), "frames do not match"),
        (lambda f: f.update(sector=[]), "states no sector"),
        (lambda f: f.update(sector=[1, 2, 3]), "is malformed"),
        (lambda f: f.update(fps=[7.0]), "fps differs from the index"),
        (lambda f: f.update(spacing=[7.0, 7.0]), "spacing differs from the index"),
        (
            lambda f: f.update(target_names=["phone"], target_values=[5551234.0]),
            "target names differ from the index",
        ),
        (with_page, "shows another screen"),
    ],
)
def test_verify_finds(copy, monkeypatch, change, finding):
    rewrite(copy, change)
    if change in (with_text, with_comment, with_page):  # somebody who knows of checksums
        monkeypatch.setattr(video_record, "checksum", lambda jpegs: row_of(copy)["checksum"])
        found = check_here(copy)
    else:
        found = verify(copy, workers=1)
    assert any(finding in text for text in found), found


def test_verify_finds_a_tag(copy, monkeypatch):
    packed = video_record.pack

    def with_tag(features):
        example = video_record._parsed(packed(features))
        example.features.feature["PatientName"].bytes_list.value.append(b"Doe^Jane")
        return example.SerializeToString(deterministic=True)

    monkeypatch.setattr(video_record, "pack", with_tag)
    rewrite(copy, lambda features: None)
    assert any("PatientName" in text for text in verify(copy, workers=1))


def row_of(folder: Path):
    name = min(json.loads((folder / "prepared.json").read_text())["files"])
    return next(row for row in shards.rows(str(folder)) if row["shard"] == name)


def check_here(folder: Path) -> list[str]:
    """Verifies one record in this process."""
    row = row_of(folder)
    return list(checks._check_record(f"{folder / row['shard']}#0", row, checks._AT_THE_RIM, True))


@pytest.mark.parametrize("side", [64, 112, 200])
def test_verify_finds_text_inside_the_sector(side):
    lowest, highest = np.full((2, side, side), 30, np.uint8)
    highest += 60
    for picture in (lowest, highest):
        at = (side // 4, side - 11)
        cv2.putText(picture, "JANE", at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
    last = side - 1
    corners = np.array([[0, 0], [last, 0], [last, last], [0, last]], np.int32)
    (found,) = checks._check_pixels(lowest, highest, corners)
    assert "looks like text" in found


def test_a_set_that_is_prepared_again_stays_the_same(made, tmp_path):
    out = tmp_path / "again"
    assert "7 videos in" in prepared(f"shards:{made}", out, Options(size=80))
    before, now = shards.about(str(made)), shards.about(str(out))
    assert (now["clean"], now["hashed_ids"]) == (before["clean"], before["hashed_ids"])
    assert verify(out, workers=1) == []
    for fact in ("split", "content"):
        assert {row["id"]: row[fact] for row in shards.rows(str(out))} == {
            row["id"]: row[fact] for row in shards.rows(str(made))
        }


def test_files_without_an_ultrasound_region_are_counted(archive, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        prepared(f"dicom:{archive}/doe_jane_[012].dcm", tmp_path / "shards")
    assert "2 files, such as " in caplog.text
    assert "no ultrasound region: the whole frame is used, then cut to the sector" in caplog.text


def test_a_recording_with_another_screen_is_rejected(archive, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    shutil.copy(archive / "doe_jane_0.dcm", folder / "good.dcm")
    for name, page in (("dark", patient_page()), ("bright", 255 - patient_page())):
        frames = pydicom.dcmread(archive / "doe_jane_2.dcm").pixel_array.copy()
        frames[10:13] = page
        make(folder / f"{name}.dcm", frames, FrameTime=20.0)
    out = tmp_path / "shards"
    assert "1 video in" in prepared(f"dicom:{folder}", out)
    reason = "another screen: frame 10 has nothing in common with the frame before it"
    assert left_out(out) == {"dark.dcm": reason, "bright.dcm": reason}


def test_a_folder_that_cannot_be_read_is_rejected(archive, tmp_path, monkeypatch):
    moved = Path(shutil.copytree(archive, tmp_path / "archive"))
    (moved / "locked").mkdir()
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    out = tmp_path / "shards"
    assert "7 videos in" in prepared(f"dicom:{moved}", out)
    assert "folder" in left_out(out)["locked"]
    with pytest.raises(UserError, match=r"locked' cannot be read \(Permission denied\)"):
        read_source(f"dicom:{moved}/locked")


def test_verify_finds_text_in_what_was_not_cut_to_a_sector(archive, tmp_path):
    out = tmp_path / "shards"
    prepared(f"dicom:{archive}/doe_jane_[24].dcm", out, Options(size=400, sector="never"))
    found = verify(out, workers=1)
    assert len(found) == 2, found
    assert all("looks like text" in text for text in found)


def test_verify_counts_records(copy):
    table = pq.read_table(copy / "index.parquet")
    pq.write_table(table.slice(1), copy / "index.parquet")
    assert any("contains 2 records, the index lists 1" in text for text in verify(copy, workers=1))


def test_verify_reads_the_index(copy):
    table = pq.read_table(copy / "index.parquet")
    names = pa.array(["Doe Jane"] * len(table))
    pq.write_table(table.append_column("name", names), copy / "index.parquet")
    found = "\n".join(verify(copy, workers=1))
    assert "index.parquet: has unknown columns: name" in found
    assert "index.parquet: was changed after the set was made" in found


def test_verify_finds_strange_and_missing_files(copy, capsys):
    (copy / "notes.txt").write_text("Jane")
    shard = min(copy.glob("echo-*"))
    shard.write_bytes(shard.read_bytes()[:-70000])
    found = "\n".join(verify(copy, workers=1))
    assert "notes.txt: does not belong" in found
    assert f"{shard}: is missing, or is not" in found
    with pytest.raises(UserError, match="long instead of"):
        read_source(f"shards:{copy}")
    done = programs.run("prepare", f"--verify={copy}")
    assert done.returncode == 1
    assert "problems, listed above" in done.stderr


# --- what is in a record --------------------------------------------------------------------------


def test_frame_k_is_frame_k(hearts, tmp_path):
    out = tmp_path / "shards"
    prepared(f"echonet_dynamic:{hearts}", out, Options(size=96))
    listed = manifest.load([f"echonet_dynamic:{hearts}"], quarantine=None, workers=1)
    source = {sample.name: sample for sample in listed}
    found = shards.samples(str(out), "x")
    assert len(found) == 8
    for sample in found:
        before = source[sample.name]
        assert (sample.split, sample.targets) == (before.split, before.targets)
        assert (sample.frames, sample.fps, sample.patient) == (60, 50, before.patient)
        assert (sample.grey, sample.units["edv"]) == (True, "ml")
        mine = decode.decode(sample.path, np.arange(60)).astype(float)
        theirs = decode.decode(before.path, np.arange(60)).astype(float)
        theirs = cv2.cvtColor(theirs[..., 0].reshape(-1, 64).astype(np.uint8), cv2.COLOR_GRAY2RGB)
        theirs = theirs.reshape(mine.shape).astype(float)
        noise = np.mean((mine - theirs) ** 2, axis=(1, 2, 3))
        assert (10 * np.log10(255**2 / noise)).min() >= 40
        other = np.mean((mine[1:] - theirs[:-1]) ** 2, axis=(1, 2, 3))
        assert (other > 4 * noise[1:]).all(), "no frame looks like its neighbour"


def test_a_patient_is_one_person_whichever_source_names_the_study(archive, tmp_path):
    """The header names the patient if the source does not."""
    files = [archive / f"doe_jane_{k}.dcm" for k in (0, 3, 1)]  # MRN000 twice, MRN001
    rows = (f"{file},exam{k}" for k, file in enumerate(files))
    table, out = write_table(tmp_path / "clips.csv", "path,study", rows), tmp_path / "shards"
    prepared(f"csv:{table}", out, WHOLE)
    rows = shards.rows(str(out))
    assert len({row["study"] for row in rows}) == 3
    assert len({row["patient"] for row in rows} - {""}) == 2


def test_a_study_is_of_one_patient(archive, tmp_path):
    nameless = pydicom.dcmread(archive / "doe_jane_3.dcm")
    nameless.PatientID = nameless.PatientName = ""
    nameless.save_as(tmp_path / "nameless.dcm")
    first, second, third = (f"{archive}/doe_jane_{k}.dcm" for k in range(3))
    rows = [f"{first},a", f"{tmp_path}/nameless.dcm,a", f"{second},b"]
    table = write_table(tmp_path / "clips.csv", "path,study", rows)
    prepared(f"csv:{table}", tmp_path / "shards", WHOLE)
    found = shards.rows(str(tmp_path / "shards"))
    assert len({row["patient"] for row in found}) == len({row["study"] for row in found}) == 2
    write_table(table, "path,study", [*rows, f"{third},a"])
    with pytest.raises(UserError, match=r"study 'a' has 2 patients .* name the patient of every"):
        prepared(f"csv:{table}", tmp_path / "others", WHOLE)
    # Whoever the table names is believed.
    write_table(table, "path,study,patient", [f"{first},a,x", f"{third},a,"])
    prepared(f"csv:{table}", tmp_path / "third", WHOLE)
    assert len({row["patient"] for row in shards.rows(str(tmp_path / "third"))}) == 1


@pytest.mark.parametrize(("whole", "cut"), [("a.dcm", "b.dcm"), ("b.dcm", "a.dcm")])
def test_a_copy_whose_header_was_cut_is_a_copy(archive, tmp_path, whole, cut):
    folder = tmp_path / "archive"
    folder.mkdir()
    shutil.copy(archive / "doe_jane_1.dcm", folder / whole)
    other = pydicom.dcmread(archive / "doe_jane_1.dcm")
    del other.SequenceOfUltrasoundRegions
    other.PatientID = "ANON7"
    other.save_as(folder / cut)
    out = tmp_path / "shards"
    assert "1 video in" in prepared(f"dicom:{folder}", out)
    assert left_out(out)[cut].startswith("duplicate: the same pictures as")


def test_large_pictures_are_brought_down_with_their_distances(archive, made):
    sample = shards.samples(str(made), "x")[0]
    assert (sample.height, sample.width) == (160, 160)
    recording = plan.Recording(path=str(archive / "doe_jane_1.dcm"), id="a", frames=24, fps=50)
    from echojepa_jax.preparation.recording import encode

    whole = encode(dataclasses.replace(recording, clean=False, spacing=(0.2, 0.4)), size=145)
    assert whole.facts["spacing"] == pytest.approx([0.4, 0.8], rel=0.05)
    features = video_record.unpack(whole.record)
    assert features["height"] == features["width"] == [145]


def test_tfds_reads_the_shards(made):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(made)
    rows = shards.rows(str(made))
    splits = {name: info.num_examples for name, info in builder.info.splits.items()}
    assert splits == {name: sum(r["split"] == name for r in rows) for name in ("train", "val")}
    source = builder.as_data_source("train")
    first = next(row for row in rows if row["split"] == "train")
    example = source[0]
    assert example["id"].decode() == first["id"]
    assert len(example["frames"]) == first["frames"] == 24
    assert cv2.imdecode(np.frombuffer(example["frames"][3], np.uint8), 0).shape == (160, 160)
    assert example["fps"] == 50


def test_training_batches_from_shards(made, hearts, tmp_path):
    clip = ClipSpec(frames=8, size=32, by="stride", value=2)

    def first_batch(samples):
        batches = training_batches(
            samples, clip=clip, masks=(), grid=(4, 2, 2), seed=0, global_batch=4, first_step=0,
            last_step=1,
        )  # fmt: skip
        return next(iter(batches))

    mixed = manifest.load([str(made)], quarantine=None, workers=1)
    assert first_batch(mixed)["clips"].shape == (4, 8, 32, 32, 3)
    grey = [sample for sample in mixed if sample.grey]
    batch = first_batch(grey)
    assert batch["clips"].shape == (4, 8, 32, 32, 1)
    assert batch["valid"].all()
    assert batch["clips"].std() > 10
    moved = Path(shutil.copytree(made, tmp_path / "moved"))
    assert manifest.fingerprint(mixed) == manifest.fingerprint(
        shards.samples(str(moved), "shards:x")
    )


def test_the_same_content_in_two_splits_is_an_error(made):
    first, *others = shards.samples(str(made), "x")
    copy = dataclasses.replace(first, name="copy", patient="somebody else", split="test")
    with pytest.raises(
        UserError, match=r"content \w{64} is in split 'train' .* and in split 'test'"
    ):
        manifest.check_patients({"train": [first, *others], "test": [copy]})


def test_shards_in_a_bucket_are_copied_once(made, bucket, monkeypatch):
    opened = []
    fsspec.filesystem("s3").put(str(made), f"{bucket}/shards", recursive=True)

    class Counted(type(bucket)):
        def open(self, *args, **kwargs):
            opened.append(self.name)
            return super().open(*args, **kwargs)

    monkeypatch.setattr(bucket_cache.epath, "Path", Counted)
    samples = read_source(f"{bucket}/shards")
    mine = [decode.decode(sample.path, np.arange(3)) for sample in samples]
    theirs = [decode.decode(s.path, np.arange(3)) for s in read_source(f"shards:{made}")]
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    names = [name for name in opened if name.startswith("echo-")]
    assert len(names) == len(set(names)), "each shard once"
    # Another program, after the set was made anew under the same name.
    bucket_cache._version.cache_clear()
    described = bucket / "shards" / "prepared.json"
    described.write_text(described.read_text() + "\n")
    decode.decode(samples[0].path, np.arange(3))
    assert opened.count(samples[0].path.rpartition("/")[2].partition("#")[0]) == 2


def test_the_other_shards_of_a_bucket_follow_ahead(made, bucket):
    fsspec.filesystem("s3").put(str(made), f"{bucket}/ahead", recursive=True)
    (first, *_) = read_source(f"{bucket}/ahead")
    decode.decode(first.path, np.arange(3))
    folder = Path(bucket_cache.local(first.path.partition("#")[0])).parent
    until = time.monotonic() + 60
    wanted = {path.name for path in made.glob("echo-*")}
    while {path.name for path in folder.glob("echo-*-of-?????")} != wanted:
        assert time.monotonic() < until
        time.sleep(0.05)


# --- mistakes -------------------------------------------------------------------------------------


def test_other_options_or_files_are_errors(made, archive, options, tmp_path):
    source = f"dicom:{archive}"
    with pytest.raises(UserError, match=r"was started with another size \(160 there, 64 now\)"):
        prepared(source, made, dataclasses.replace(options, size=64))
    moved = Path(shutil.copytree(archive, tmp_path / "archive"))
    out = tmp_path / "shards"
    prepared(f"dicom:{moved}", out, options)
    (moved / "doe_jane_2.dcm").unlink()
    with pytest.raises(UserError, match=r"files of dicom:.* have changed"):
        prepared(f"dicom:{moved}", out, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"salt_file": "absent"}, "--salt_file=absent cannot be read"),
        ({"size": 4}, "--size=4 must be 16 or more"),
        ({"file_seconds": 0}, "--file_seconds=0 must be more than 0"),
        ({"splits": "train:0.5"}, "must add up to 1"),
        ({"splits": "all"}, "must be like train:0.8"),
        ({"max_frames": 3}, "--max_frames=3 is below"),
        ({"min_frames": 2000, "max_frames": 3000}, "all 8 files of .* were rejected"),
    ],
)
def test_mistakes_are_errors_of_one_sentence(archive, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        prepared(f"dicom:{archive}", tmp_path / "out", Options(**options))


def test_folders_with_other_files_are_left_alone(hearts, archive, tmp_path):
    with pytest.raises(UserError, match="contains files that prepare did not write"):
        prepared(f"dicom:{archive}", Path(shutil.copytree(hearts, tmp_path / "mine")))
    short = tmp_path / "salt"
    short.write_text("short")
    with pytest.raises(UserError, match="is shorter than 16 bytes"):
        prepared(f"dicom:{archive}", tmp_path / "out", Options(salt_file=str(short)))
    with pytest.raises(UserError, match=r"has no effect, because .* has splits"):
        prepared(f"echonet_dynamic:{hearts}", tmp_path / "echonet")


def test_missing_labels_are_an_error(hearts, tmp_path):
    source = f"echonet_dynamic:{hearts}"
    with pytest.raises(UserError, match=r"has no label 'EF'; it has edv, ef, esv$"):
        prepared(source, tmp_path / "out", Options(targets="ef,EF"))
    table = tmp_path / "table.csv"
    table.write_text(f"path,LV EF\n{next((hearts / 'Videos').glob('*.avi'))},55\n")
    with pytest.raises(
        UserError, match="the label name 'LV EF' is not allowed: use up to 24 letters"
    ):
        prepared(f"csv:{table}", tmp_path / "out", Options(targets="LV EF"))


def test_unknown_patients_are_reported_and_names_may_contain_them(hearts, tmp_path, caplog):
    source = f"videos:{hearts}/Videos"
    # Two patients of two views: files that are patients of their own come to several splits.
    options = Options(size=64, sector="never", splits="train:0.5,test:0.5")
    for k, pattern in enumerate(("", r"^(adult-\d+-\d+)", r"0000[01]")):
        out = tmp_path / str(k)
        salt = tmp_path / "salt"
        salt.write_text("a secret that parts them so\n")
        chosen = dataclasses.replace(options, salt_file=str(salt), patient_from=pattern)
        caplog.clear()
        prepared(source, out, chosen)
        rows = shards.rows(str(out))
        summary = write_summary(out).read_text()
        assert "<td>60 frames in all videos</td>" in summary  # a single bar would be no picture
        assert "as in the source; nothing was blackened" in summary
        unknown = "he patient of 8 of 8 videos is unknown"
        assert (unknown in caplog.text) == (unknown in summary) == (pattern == "")
        assert ("again with --patient_from" in caplog.text) == (pattern == "")
        if pattern:
            people = {row["patient"]: set() for row in rows}
            for row in rows:
                people[row["patient"]].add(row["split"])
            assert all(len(found) == 1 for found in people.values())
            assert len(people) == (4 if k == 1 else 2)
            assert verify(out, 1) == []
    assert len(left_out(out)) == 4
    assert set(left_out(out).values()) == {
        "no patient: --patient_from finds none in the file's name"
    }
    with pytest.raises(UserError, match="was started with another patient_from"):
        prepared(source, out, dataclasses.replace(chosen, patient_from="0"))


def test_classes_are_kept_where_they_are_named_and_numbers_keep_their_unit(videos, tmp_path):
    """Through shards and through shards prepared again; other columns of a table are not kept."""
    out, grades = tmp_path / "out", ("nicht schwer, früh", "severe", "")
    files = zip(videos[:3], grades, strict=True)
    lines = (f'{video},4.2,Jane,"{grade}",train' for video, grade in files)
    table = write_table(tmp_path / "table.csv", "path,rvsp [kPa],who,grade,split", lines)
    options = dataclasses.replace(OPTIONS, targets="rvsp,grade", splits="", sector="never")
    prepared(f"csv:{table}", out, options)
    prepared(str(out), tmp_path / "again", Options(size=32))
    for folder in (out, tmp_path / "again"):
        samples = read_source(str(folder))
        assert sorted(s.classes.get("grade", "") for s in samples) == sorted(grades)
        assert all(set(s.classes) <= {"grade"} for s in samples)
        assert all(s.targets["rvsp"] == pytest.approx(4.2) for s in samples)
        assert unit_of(samples, "rvsp") == "kPa"
        assert verify(folder, 1) == []
        assert "nicht schwer, früh" in write_summary(folder).read_text()
    assert "class_values" in (out / "features.json").read_text()
    index = pq.read_table(out / shards.INDEX)
    pq.write_table(index.drop_columns(["class:grade"]), out / shards.INDEX)
    assert any("classes differ from the index" in problem for problem in verify(out, 1))


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([f"Doe {k}" for k in range(51)], "'who' has 51 different texts, too many"),
        (["a", "what somebody has written about the patient, at length"], "1 of 2 classes of the"),
    ],
)
def test_texts_that_cannot_be_classes_are_errors(videos, tmp_path, texts, sentence):
    lines = (f'{videos[0]},{k},"{text}"' for k, text in enumerate(texts))
    table = write_table(tmp_path / "table.csv", "path,name,who", lines)
    with pytest.raises(UserError, match=sentence):
        prepared(f"csv:{table}", tmp_path / "out", Options(targets="who"))


def test_splits_flag_with_a_source_that_has_splits_is_an_error(videos, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(f"path,split\n{videos[0]},train\n{videos[1]},\n")
    with pytest.raises(UserError, match=r"has no effect, because .* has splits"):
        prepared(f"csv:{table}", tmp_path / "out", Options(splits="train:0.9,val:0.1"))


def test_a_file_whose_patient_cannot_be_read_is_rejected(archive, tmp_path, monkeypatch):
    """Or videos of one patient could come to two splits."""
    in_processes = duplicates.guarded

    def refusing(function, guard, paths):
        results = in_processes(function, guard, paths)
        for path, result in zip(paths, results, strict=True):
            failed = function is decode.identity and path.endswith("jane_2.dcm")
            yield "missing: the disk does not answer" if failed else result

    monkeypatch.setattr(duplicates, "guarded", refusing)
    out = tmp_path / "out"
    assert "6 videos in" in prepared(f"dicom:{archive}", out)
    assert left_out(out)["doe_jane_2.dcm"] == "missing: the disk does not answer"


def test_only_one_program_at_a_time(tmp_path):
    work = Work(tmp_path / "out")
    with work.claimed():
        for _ in range(2):  # the first one that is refused leaves everything where it is
            with pytest.raises(UserError, match="another process"), work.claimed():
                pass
        assert {path.name for path in tmp_path.iterdir()} == {"out", "out.private"}
        assert (work.private / "state").is_dir()
    assert not any(tmp_path.iterdir()), "nothing was made"


# --- what reviews have found ----------------------------------------------------------------------


def test_jpeg_dicoms_of_one_shape_are_not_copies(videos, tmp_path):
    for k in range(3):
        frames = decode.decode(str(videos[k % 2]), np.arange(0, 60, 3))[..., 0]
        path = make(tmp_path / f"{k}.dcm", frames, FrameTime=20.0, PatientID=f"patient {k}")
        as_jpeg(path, frames)
    hashes = [decode.content(str(tmp_path / f"{k}.dcm")) for k in range(3)]
    assert hashes[0] == hashes[2] != hashes[1]
    out = tmp_path / "out" / "shards"
    prepared(f"dicom:{tmp_path}/*.dcm", out, WHOLE)
    assert len(shards.rows(str(out))) == 2
    assert left_out(out)["2.dcm"].endswith("0.dcm, of another patient")


def test_tables_of_users(hearts, videos, tmp_path, caplog):
    """Phone numbers are not labels, sentences not views, and a path listed twice is kept once."""
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.avi")
    shutil.copy(videos[2], strange)
    rows = [
        f"{videos[0]},a,5551234,55,A4C,train",
        f"{videos[1]},b,5551235,56,seen by Jane 1957,train",
        f"{videos[1]},c,5551235,56,A4C,train",
        f"{videos[3]},d,5551236,57,A4C,",
    ]
    table = write_table(tmp_path / "table.csv", "path,name,phone,ef,view,split", rows)
    out = tmp_path / "out" / "shards"
    options = dataclasses.replace(WHOLE, targets="ef")
    prepared(f"csv:{table}", out, options)
    found = sorted((row["targets"]["ef"], row["view"]) for row in shards.rows(str(out)))
    assert found == [(55, "A4C"), (56, "")]
    assert all(set(row["targets"]) == {"ef"} for row in shards.rows(str(out)))
    assert left_out(out)[videos[3].name].startswith("no split")
    assert left_out(out)[videos[1].name].startswith("duplicate")
    prepared(f"videos:{tmp_path}/*.avi", tmp_path / "out" / "other", WHOLE)
    assert len(shards.rows(str(tmp_path / "out" / "other"))) == 1, "whatever its name"
    assert "these splits have no patient: test, val" in caplog.text
    root = Path(shutil.copytree(hearts, tmp_path / "set"))  # keeps its names
    with (root / "FileList.csv").open("ab") as file:
        file.write(b"two\xe9,55,1,1,64,64,50,60,TRAIN\n")
    shutil.copy(videos[2], os.fsdecode(os.fsencode(root) + b"/Videos/two\xe9.avi"))
    (root / "Videos" / videos[2].name).unlink()
    prepared(f"echonet_dynamic:{root}", tmp_path / "out" / "named", Options(size=64))
    assert "two\\xe9" in {row["id"] for row in shards.rows(str(tmp_path / "out" / "named"))}
    assert verify(tmp_path / "out" / "named", 1) == []
    table.write_text(f"path,ef,split\n{videos[0]},55,fold 1/2\n")
    with pytest.raises(UserError, match="the split name 'fold 1/2' is not allowed"):
        prepared(f"csv:{table}", tmp_path / "out" / "third", options)


def test_files_from_reports_are_prepared_or_the_reason_is_true(tmp_path):
    """With the program's own defaults: 12 frames are enough."""
    folder = tmp_path / "cases"
    folder.mkdir()
    for path in recordings.FOLDER.iterdir():
        if path.suffix in (".dcm", ".mp4", ".avi"):
            shutil.copy(path, folder)
    out = tmp_path / "shards"
    prepared(f"dicom:{folder}", out, Options(size=112))
    reasons = left_out(out)
    copies = {"jpeg_labelled_ybr_partial_420.dcm", "jpeg_without_planar_configuration.dcm"}
    assert reasons.pop(max(copies)) == (
        f"duplicate: the same pictures as {folder / min(copies)}, of another patient"
    )
    uneven = reasons.pop("frame_time_vector_by_pointer_stale_frame_time.dcm")
    assert uneven == "variable frame rate: the time between frames varies"
    halves = ("jpeg_frame_7_half.dcm", "jpegls_frame_7_half.dcm", "mjpeg_frame_half.avi")
    assert reasons == dict.fromkeys(halves, "damaged: frame 7 does not decode")
    rows = shards.rows(str(out))
    assert len(rows) == len(list(folder.iterdir())) - 5
    assert {row["frames"] for row in rows} == {12, 24}
