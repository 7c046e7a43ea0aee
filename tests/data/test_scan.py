"""The scan: facts in order, bad files and stills apart, nothing measured twice."""

import json
import logging
import os
import re
from pathlib import Path

import pytest

from echojepa_jax.data import scan as scan_module
from echojepa_jax.data.formats import decode
from echojepa_jax.data.sample import Sample
from echojepa_jax.data.scan import CACHE_FILE, scan
from echojepa_jax.utils import progress
from echojepa_jax.utils.errors import UserError
from tests.makers.calls import before


def sample(path: str) -> Sample:
    return Sample(name=Path(path).name, path=path, source="videos:/here", patient="p")


@pytest.fixture
def samples(numbered, cut, tmp_path) -> list[Sample]:
    """Two good files of different lengths, and between them a file of every bad kind."""
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.avi").write_text("no video")
    paths = [
        numbered.mjpeg("long.avi", 20),
        str(tmp_path / "missing.avi"),
        str(tmp_path / "empty.avi"),
        numbered.mjpeg("still.avi", 1),
        cut(numbered.mjpeg("whole.avi"), 0.5),
        str(tmp_path / "text.avi"),
        numbered.write("short.mp4", "libx264", 7),
    ]
    return [sample(path) for path in paths]


@pytest.fixture
def probed(monkeypatch) -> list[str]:
    """The names of the files that are probed, as they are."""
    names: list[str] = []
    before(monkeypatch, decode, "probe", lambda path: names.append(os.path.basename(path)))
    return names


@pytest.mark.parametrize("workers", [1, 4])
def test_good_bad_and_still_files(samples, tmp_path, workers):
    good, rejected = scan(samples, cache_dir=tmp_path / "cache", workers=workers)
    assert [(s.name, s.frames, s.fps, s.height, s.width) for s in good] == [
        ("long.avi", 20, 25.0, 64, 96),
        ("short.mp4", 7, 25.0, 64, 96),
    ]
    assert all(s.patient == "p" and s.source == "videos:/here" for s in good)
    assert [(r.sample.name, r.kind, r.reason.partition(":")[0]) for r in rejected] == [
        ("missing.avi", "bad", "missing"),
        ("empty.avi", "bad", "empty"),
        ("still.avi", "still", "still"),
        ("cut-whole.avi", "bad", "truncated"),
        ("text.avi", "bad", "not a video file"),
    ]


def test_order_does_not_depend_on_workers_or_batches(numbered, tmp_path, monkeypatch):
    monkeypatch.setattr(scan_module, "IN_FLIGHT", 4)
    samples = [sample(numbered.mjpeg(f"{k}.avi", 2 + k)) for k in range(11)]
    good, rejected = scan(samples, cache_dir=tmp_path / "cache", workers=3)
    assert [s.frames for s in good] == list(range(2, 13))
    assert rejected == []


def test_good_files_are_measured_once(samples, tmp_path, probed):
    first = scan(samples, cache_dir=tmp_path / "cache", workers=2)
    assert len(probed) == len(samples)
    probed.clear()
    assert scan(samples, cache_dir=tmp_path / "cache", workers=2) == first
    assert sorted(probed) == ["cut-whole.avi", "empty.avi", "missing.avi", "text.avi"]


def test_changed_file_is_measured_again(numbered, tmp_path, probed):
    path = numbered.mjpeg("a.avi", 5)
    cache = tmp_path / "cache"
    assert scan([sample(path)], cache_dir=cache, workers=1)[0][0].frames == 5
    numbered.mjpeg("a.avi", 8)
    assert scan([sample(path)], cache_dir=cache, workers=1)[0][0].frames == 8
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # same size, later
    scan([sample(path)], cache_dir=cache, workers=1)
    assert probed == ["a.avi"] * 3


def test_damaged_cache_lines_are_ignored(numbered, tmp_path, probed):
    samples = [sample(numbered.mjpeg(f"{k}.avi", 3 + k)) for k in range(3)]
    cache = tmp_path / "cache"
    expected = scan(samples, cache_dir=cache, workers=1)
    lines = (cache / CACHE_FILE).read_text().splitlines()
    entries = [json.loads(line) for line in lines if line]
    entries[1]["frames"] = "many"
    damaged = b'\xff\xfe not json\n[1, 2]\n{"path": 3}\nnull\n'
    damaged += "\n".join(map(json.dumps, entries)).encode()[:-9]  # the writer was stopped here
    (cache / CACHE_FILE).write_bytes(damaged)
    probed.clear()
    assert scan(samples, cache_dir=cache, workers=1) == expected
    assert sorted(probed) == ["1.avi", "2.avi"]
    probed.clear()
    assert scan(samples, cache_dir=cache, workers=1) == expected
    assert probed == [], "what was damaged has been written anew, on a line of its own"


def test_cache_that_cannot_be_written(numbered, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="ECHOJEPA_CACHE"):
        scan([sample(numbered.mjpeg())], cache_dir=tmp_path / "file" / "below", workers=1)


def test_progress_only_of_long_scans(samples, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    scan(samples, cache_dir=tmp_path / "a", workers=1)
    assert "scan: " not in caplog.text
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    scan(samples, cache_dir=tmp_path / "b", workers=1)
    assert re.search(r"scan: 2 of 7, (less than 1|\d+)s left", caplog.text)
    assert "scan: 7 of 7\n" in caplog.text


def test_files_without_a_region_are_counted_in_the_log(tmp_path, caplog):
    path = pytest.importorskip("pydicom.data").get_testdata_file("examples_ybr_color.dcm")
    good, _ = scan([sample(str(path))], cache_dir=tmp_path, workers=1)
    assert good[0].frames == 30
    assert f"1 file, such as {path}: stale ultrasound region: the whole" in caplog.text
