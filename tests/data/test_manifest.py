"""Loading sources: splits, patients, bad shares, the quarantine file and the fingerprint."""

import dataclasses
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from echojepa_jax.data import manifest
from echojepa_jax.data.manifest import Rejected, Sample
from echojepa_jax.utils.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ECHOJEPA_CACHE", str(tmp_path / "cache"))


def load(*sources: str, **kwargs) -> list[Sample]:
    return manifest.load(sources, **({"quarantine": None, "workers": 2} | kwargs))


@pytest.fixture
def folder(numbered) -> Path:
    """Three good videos in a folder of their own."""
    (numbered.folder / "videos").mkdir()
    for k in range(3):
        numbered.mjpeg(f"videos/{k}.avi", 5 + k)
    return numbered.folder / "videos"


def table(folder: Path, rows: str, name: str = "m.csv") -> str:
    (folder / name).write_text("path,patient,split\n" + rows)
    return f"csv:{folder / name}"


def test_load_measures_every_file(folder, caplog):
    caplog.set_level(logging.INFO)
    samples = load(f"videos:{folder}")
    assert [(s.name, s.frames, s.fps) for s in samples] == [
        ("0.avi", 5, 25.0),
        ("1.avi", 6, 25.0),
        ("2.avi", 7, 25.0),
    ]
    assert f"videos:{folder}: 3 videos, 0 rejected, 0 stills" in caplog.messages


def test_stills_of_a_folder_that_holds_videos_as_well(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for k in range(2):
        cv2.imwrite(str(folder / f"still{k}.png"), np.full((40, 48), 60 * k, np.uint8))
    (folder / "broken.png").write_bytes(b"no picture")
    quarantine = tmp_path / "quarantine.jsonl"

    def stills(**limits):
        settings = {"quarantine": quarantine, "workers": 2} | limits
        return manifest.load((f"videos:{folder}",), **settings, stills=True)

    found = stills(max_bad_share=0.2)
    assert [(s.name, s.frames) for s in found] == [("still0.png", 1), ("still1.png", 1)]
    assert "6 files, 1 rejected (1 not a video file), 3 videos" in caplog.text
    (line,) = quarantine.read_text().splitlines()
    assert "broken.png" in line
    with pytest.raises(UserError, match=r"1 of 6 files .* were rejected"):
        stills()
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"^no still of .* can be used \(3 video\)"):
        stills()


def test_split_is_chosen_before_the_scan(folder):
    source = table(folder, "0.avi,a,TRAIN\n1.avi,b,val\nmissing.avi,c,val\n2.avi,d,train\n")
    assert [s.name for s in load(source, split="train")] == ["0.avi", "2.avi"]
    assert [s.name for s in load(source, split="Train")] == ["0.avi", "2.avi"]
    assert len(load(source, max_bad_share=0.5)) == 3
    with pytest.raises(UserError, match=r"no video of split 'test': use one of train: 2, val: 2"):
        load(source, split="test")


def test_a_source_without_splits_is_kept_whole(folder, caplog):
    caplog.set_level(logging.INFO)
    assert len(load(f"videos:{folder}", split="train")) == 3
    assert f"videos:{folder} has no splits: all its videos are used" in caplog.messages


def test_f06_patient_in_two_splits(folder, numbered):
    both = table(folder, "0.avi,jane,train\n1.avi,jane,test\n2.avi,joe,train\n")
    for split in ("", "train", "test"):
        with pytest.raises(UserError, match=r"^patient jane .*'train'.*'test'"):
            load(both, split=split)
    one = table(folder, "0.avi,jane,train\n", "train.csv")
    other = table(folder, "1.avi,jane,test\n", "test.csv")
    with pytest.raises(UserError, match=r"^patient jane .*train\.csv.*test\.csv"):
        load(one, other)


def test_f06_unknown_patient_counts_by_file(folder):
    one = table(folder, "0.avi,,train\n1.avi,,train\n", "train.csv")
    other = table(folder, "2.avi,,test\n0.avi,,test\n", "test.csv")
    with pytest.raises(UserError, match=r"^file .*0\.avi is in"):
        load(one, other)


def test_f06_splits_of_separate_loads(folder):
    train = load(table(folder, "0.avi,a,\n1.avi,b,\n", "x.csv"))
    test = load(table(folder, "1.avi,b,\n2.avi,c,\n", "y.csv"))
    manifest.check_patients({"train": train[:1], "test": test})
    with pytest.raises(UserError, match=r"^patient b is in split 'train' .*'test'"):
        manifest.check_patients({"train": train, "test": test})


def test_bad_files_are_quarantined_once(folder, cut, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cut(str(folder / "2.avi"), 0.5)
    (tmp_path / "cut-2.avi").rename(folder / "2.avi")
    (folder / "notes.bin").write_text("not a video")
    source, file = f"videos:{folder}", tmp_path / "run" / "quarantine.jsonl"
    for _ in range(2):
        assert len(load(source, quarantine=file, max_bad_share=0.5)) == 2
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    facts = {"stage": "scan", "source": source, "kind": "bad"}
    assert [line | {"reason": line["reason"].partition(":")[0]} for line in lines] == [
        facts | {"path": f"{folder}/{name}", "reason": why}
        for name, why in [("2.avi", "truncated"), ("notes.bin", "not a video file")]
    ]
    summary = f"{source}: 4 videos, 2 rejected (1 truncated, 1 not a video file), 0 stills"
    assert summary in caplog.messages


def test_too_many_bad_files(folder, tmp_path):
    (folder / "bad.avi").touch()
    file = tmp_path / "quarantine.jsonl"
    assert len(load(f"videos:{folder}", max_bad_share=0.25)) == 3
    with pytest.raises(UserError) as error:
        load(f"videos:{folder}", max_bad_share=0.2, quarantine=file)
    for part in ("1 of 4 files (25.0%)", "1 empty", "data.max_bad_share = 0.2", "bad.avi", file):
        assert str(part) in str(error.value)
    assert "expect_stills" not in str(error.value)
    assert file.exists()


def test_stills_count_as_bad_unless_expected(folder, numbered, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    numbered.mjpeg("videos/still.avi", 1)
    file = tmp_path / "quarantine.jsonl"
    with pytest.raises(UserError, match=r"1 of 4 files .*1 still.*data\.expect_stills"):
        load(f"videos:{folder}", quarantine=file)
    assert len(load(f"videos:{folder}", quarantine=file, expect_stills=True)) == 3
    assert f"videos:{folder}: 4 videos, 0 rejected, 1 still" in caplog.messages
    assert [json.loads(line)["kind"] for line in file.read_text().splitlines()] == ["still"]


def test_files_without_a_frame_rate_are_bad_where_it_is_needed(tmp_path):
    two_frames = get_testdata_file("OBXXXX1A_2frame.dcm")
    source, file = f"dicom:{two_frames}", tmp_path / "quarantine.jsonl"
    (sample,) = manifest.load([source], quarantine=file, workers=1)
    assert (sample.frames, sample.fps) == (2, 0)
    with pytest.raises(UserError, match=r"1 of 1 files .*\(1 no frame rate\).*OBXXXX1A_2frame"):
        manifest.load([source], quarantine=file, need_rate=True, workers=1)
    assert "data.sample_by to stride" in json.loads(file.read_text())["reason"]


def test_nothing_left(folder, numbered, tmp_path):
    (tmp_path / "stills").mkdir()
    numbered.mjpeg("stills/a.avi", 1)
    with pytest.raises(UserError, match=r"^all videos of .* were rejected \(1 still\)"):
        load(f"videos:{tmp_path}/stills", expect_stills=True)
    (folder / "m.csv").write_text("path\n")
    with pytest.raises(UserError, match="lists no video"):
        load(f"csv:{folder}/m.csv")


def test_name_twice_in_a_source(folder):
    with pytest.raises(UserError, match=r"lists the video '0\.avi' 2 times"):
        load(table(folder, "0.avi,a,\n1.avi,b,\n0.avi,a,\n"))


def test_file_in_two_sources_is_kept_and_logged(folder, caplog):
    samples = load(f"videos:{folder}", f"videos:{folder}/0.avi", f"videos:{folder}")
    assert [s.name for s in samples] == ["0.avi", "1.avi", "2.avi", "0.avi"]
    assert f"listed more than once: 1 file, such as {folder}/0.avi" in caplog.messages


def test_quarantine_keeps_what_is_there(tmp_path):
    file = tmp_path / "run" / "quarantine.jsonl"
    bad = [Rejected(Sample(f"{k}", f"/v/{k}", "videos:/v"), "missing: gone", "bad") for k in "ab"]
    manifest.quarantine(file, bad[:1], "scan")
    manifest.quarantine(file, [*bad, *bad], "scan")
    manifest.quarantine(file, bad[:1], "decode")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["stage"], line["path"]) for line in lines] == [
        ("scan", "/v/a"),
        ("scan", "/v/b"),
        ("decode", "/v/a"),
    ]


SAMPLES = [
    Sample("a", "/x/a", "csv:/x/m.csv", "p", "s", "A4C", "train", {"ef": 1.5, "z": 2}, 9, 50, 8, 8),
    Sample("b", "/x/b", "csv:/x/m.csv", frames=7),
]


def test_fingerprint_does_not_depend_on_the_place():
    moved = [dataclasses.replace(s, path=f"/y{s.path}", source="csv:/y/n.csv") for s in SAMPLES]
    assert manifest.fingerprint(moved) == manifest.fingerprint(SAMPLES)
    turned = dataclasses.replace(SAMPLES[0], targets={"z": 2, "ef": 1.5})
    assert manifest.fingerprint([turned, SAMPLES[1]]) == manifest.fingerprint(SAMPLES)
    assert len(manifest.fingerprint([])) == 64


@pytest.mark.parametrize(
    "change",
    [
        *({"name": "c"}, {"frames": 8}, {"fps": 25.0}, {"height": 9}, {"width": 9}),
        *({"split": "val"}, {"source": "videos:/x"}, {"patient": "q"}, {"view": "A2C"}),
        *({"targets": {"ef": 1.25, "z": 2}}, {"targets": {"ef": 1.5}}),
    ],
)
def test_fingerprint_changes_with(change):
    changed = [dataclasses.replace(SAMPLES[0], **change), SAMPLES[1]]
    assert manifest.fingerprint(changed) != manifest.fingerprint(SAMPLES)
    assert manifest.fingerprint(SAMPLES[::-1]) != manifest.fingerprint(SAMPLES)


_MEMBERS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["train", "val", "test"])))


@settings(deadline=None, max_examples=50)
@given(_MEMBERS)
def test_patients_are_checked_exactly(members):
    splits: dict[str, list[Sample]] = {}
    for k, (patient, split) in enumerate(members):
        splits.setdefault(split, []).append(Sample(str(k), f"/v/{k}", "csv:/m", patient))
    leaks = len({patient for patient, _ in members}) < len(set(members))
    if leaks:
        with pytest.raises(UserError):
            manifest.check_patients(splits)
    else:
        manifest.check_patients(splits)
