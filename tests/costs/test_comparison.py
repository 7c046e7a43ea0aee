"""A baseline that is matched by updates, clips, FLOPs and time."""

import json

import pytest

from configs import demo, demo_mae
from echojepa_jax.costs import flops
from echojepa_jax.costs.comparison import Run, as_json, lines, matched_updates, seconds_measured
from echojepa_jax.utils.errors import UserError
from tests import programs

pytestmark = pytest.mark.slow


def runs():
    mine = demo_mae.get_config()
    mine.optim.global_batch = 32
    return Run("demo_mae", mine, 0.2), Run("demo", demo.get_config(), 0.5)


def test_a_run_is_matched_in_four_ways():
    mine, other = runs()
    found = matched_updates(mine, other)
    assert found["updates"] == 1200
    assert found["clips"] == 600
    assert found["device time"] == pytest.approx(3000)
    ours, theirs = (flops.of_step(run.config) for run in (mine, other))
    assert found["FLOPs"] * ours == pytest.approx(1200 * theirs)
    text = "\n".join(lines(mine, other, "measured"))
    assert "56 + 456" in text
    assert "144 + 160" in text
    assert "by device time (measured)" in text
    facts = as_json(mine, other, "measured")
    assert facts["matched_updates"] == found
    assert facts["mine"]["flops_of_a_clip"]["target"] == 0


def test_plan_prints_what_matches_a_run(tmp_path):
    """Two tiny runs, on simulated devices that stand for GPUs."""
    small = tmp_path / "small.py"
    small.write_text(
        "from configs import demo\n"
        "def get_config():\n"
        "    config = demo.get_config()\n"
        "    config.data.update(frames=4, size=32)\n"
        "    config.masks.large.update(context_tokens=2, target_tokens=12)\n"
        "    config.masks.small.update(context_tokens=4, target_tokens=6)\n"
        "    return config\n"
    )
    fields = programs.as_fields({"data.frames": 4, "data.size": 32, "model.depth": 1})
    flags = "--config=demo_mae", "--gpus=1", f"--compare={small}"
    done = programs.succeed("plan", *flags, *fields)
    assert "compared with small" in done.stdout
    assert "by device time (ESTIMATED from data sheets)" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("fits: ")


def test_seconds_are_those_that_bench_measured(tmp_path):
    config = demo_mae.get_config()
    cost = flops.of_clip(config).total / 1e12
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"facts": {"clips_per_second": 80.0, "tflop_per_clip": cost}}))
    assert seconds_measured(path, config) == pytest.approx(16 / 80)
    with pytest.raises(UserError, match="was measured with another config: a clip costs"):
        seconds_measured(path, demo.get_config())
    path.write_text("{}")
    with pytest.raises(UserError, match="is not a file of bench --out"):
        seconds_measured(path, config)
