"""Metrics are written whatever is installed, and read whatever a kill left."""

import sys

import numpy as np
import pytest

from echojepa_jax.utils.metrics_writer import MetricsWriter, read_lines


@pytest.mark.parametrize("missing", ["clu", "tensorflow"])
def test_without_tensorboard_it_says_so_once_and_goes_on(tmp_path, monkeypatch, caplog, missing):
    for name in [name for name in sys.modules if name.split(".")[0] in ("clu", missing)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    writer = MetricsWriter(tmp_path, 0, tensorboard=True)
    writer.write(1, {"loss": 0.5})
    writer.write(2, {"loss": float("nan")})
    writer.close()
    assert len(caplog.records) == 1
    assert "no TensorBoard events" in caplog.text
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, None)]


def test_pictures_are_not_in_the_lines(tmp_path):
    writer = MetricsWriter(tmp_path, 0, tensorboard=False)
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    writer.write(1, {"probe/ef": picture})
    writer.write(2, {"probe/ef/mae": 0.5, "probe/ef": picture})
    writer.close()
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert line.keys() == {"step", "time", "probe/ef/mae"}


def test_lines_after_the_step_of_a_resume_and_cut_off_ones_are_dropped(tmp_path):
    writer = MetricsWriter(tmp_path, 0, tensorboard=False)
    for step in range(1, 5):
        writer.write(step, {"loss": step})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-4])
    MetricsWriter(tmp_path, 2, tensorboard=False).close()
    assert [line["step"] for line in read_lines(path)] == [1, 2]
