"""The report of a made-up run. To look at it: pytest tests/report --basetemp=DIR, DIR/*/demo."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echojepa_jax.report.measures import DASH, Series, number
from echojepa_jax.report.page import about_run, write_page
from echojepa_jax.report.plots import MAX_POINTS, _thin
from echojepa_jax.report.training_page import write_report
from echojepa_jax.utils.errors import UserError
from tests.makers.pages import assert_stands_alone, figures, text_of
from tests.makers.tables import write_lines

pytestmark = pytest.mark.slow

STEPS = 468
STARTED = "2026-03-01T10:00:00+00:00"
START = 1772359200.0  # the same time
GRID = (8, 7, 7)
VIEWS = ("A2C", "A4C", "PLAX", "PSAX")


def training_lines(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Metrics of a healthy run; step 120 was not finite."""
    lines: list[dict[str, Any]] = []
    for step in range(0, STEPS + 1, 52):
        done = step / STEPS
        health = {
            "token_std": 0.55 + 0.3 * done,
            "clip_std": 0.1 + 0.25 * done,
            "effective_rank": 6 + 19 * math.sqrt(done),
            "cosine_similarity": 0.99 - 0.3 * done,
            "relative_error": 1.1 - 0.5 * math.sqrt(done),
        }
        now = {"step": step, "time": START + step}
        lines.append(now | {f"health/{k}": v for k, v in health.items()})
    for step in range(4, STEPS + 1, 4):
        loss = 0.45 + 0.35 * math.exp(-step / 60) + 0.0001 * step + rng.normal(0, 0.004)
        lost = step == 120
        lines.append(
            {
                "step": step,
                "time": START + step,
                "loss": None if lost else loss,
                "loss/large": None if lost else loss + 0.03,
                "loss/small": None if lost else loss - 0.03,
                "lr": 5e-4 * min(1, step / 60),
                "weight_decay": 0.04,
                "ema_momentum": 0.996 + 0.004 * step / STEPS,
                "grad_norm": None if lost else 0.4 + rng.gamma(2, 0.05),
                "clips_per_second": 61.3 if step == STEPS else 60 + rng.normal(0, 2),
                "step_seconds": 0.9,
                "data_wait_share": 0.031,
                "skipped_steps": int(step >= 120),
                "padded_share": 0.0125,
                "quarantined": 3,
            }
        )
    for step in (117, 234, 351, STEPS):
        done = step / STEPS
        trained = {"ef/mae": 7.8 - 2.3 * done, "ef/r2": 0.1 + 0.6 * done}
        trained |= {"view/accuracy": 0.5 + 0.45 * done}
        now = {"step": step, "time": START + step}
        lines.append(now | {f"probe/{k}": v for k, v in trained.items()})
    init = {"ef/mae": 8.0, "ef/r2": 0.08, "view/accuracy": 0.4375}
    lines.append(now | {f"probe_init/{k}": v for k, v in init.items()})
    return sorted(lines, key=lambda line: line["step"])


def probe_result(rng: np.random.Generator) -> dict:
    true = rng.uniform(20, 75, 80)
    views = [VIEWS[i % 4] for i in range(80)]
    guess = [v if rng.random() < 0.95 else "A4C" for v in views]
    guess_init = [v if rng.random() < 0.4 else VIEWS[rng.integers(4)] for v in views]
    names = [f"patient{i}<script>" for i in range(80)]
    return {
        "step": STEPS,
        "regression": {
            "ef": {
                "names": names,
                "views": views,
                "true": true.tolist(),
                "predicted": (true + rng.normal(0, 6, 80)).tolist(),
                "predicted_init": (48 + 0.2 * (true - 48) + rng.normal(0, 5, 80)).tolist(),
                "mae": 5.5,
                "r2": 0.7,
                "mae_init": 8.0,
                "r2_init": 0.08,
                "unit": "%",
                "patients": [i // 2 for i in range(80)],
                "intervals": {"mae": [4.8, 6.2], "r2": [0.6, 0.8]},
                "intervals_init": {"mae": [7.1, 9.0], "r2": [None, None]},
            }
        },
        "view": {
            "names": names,
            "true": views,
            "predicted": guess,
            "predicted_init": guess_init,
            "accuracy": 0.95,
            "accuracy_init": 0.4375,
            "intervals": {"accuracy": [0.9, 0.99]},
            "intervals_init": {"accuracy": [0.3, 0.5]},
        },
    }


def example_arrays(rng: np.random.Generator) -> dict[str, Any]:
    """Speckle in a sector with a beating dark chamber."""
    count = 3
    y, x = np.mgrid[0:112, 0:112]
    sector = np.abs(x - 56) < 0.7 * y
    clips = np.zeros((count, 16, 112, 112, 3), np.uint8)
    for i, frame in np.ndindex(count, 16):
        radius = 20 + 5 * math.cos(frame / 2.5 + i)
        chamber = (x - 56) ** 2 / 2 + (y - 60) ** 2 / 4 < radius**2 / 2
        speckle = rng.rayleigh(60, (112, 112)) * sector * np.where(chamber, 0.15, 1)
        clips[i, frame] = np.minimum(255, speckle)[..., None]
    arrays: dict[str, Any] = {
        "clips": clips,
        "grid": np.array(GRID),
        "names": np.array(["0X12 <b>bold</b>", "0X13", "0X14"]),
        "mask_names": np.array(["large", "small"]),
    }
    for m, (top, rows) in enumerate([(1, 5), (3, 3)]):
        hidden = np.zeros(GRID, bool)
        hidden[:, top : top + rows, 1:6] = True
        seen = np.flatnonzero(~hidden.ravel())
        context = [np.sort(rng.choice(seen, len(seen) // 2, replace=False)) for _ in range(count)]
        arrays[f"context_ids_{m}"] = np.stack(context).astype(np.int32)
        targets = np.sort(rng.choice(np.flatnonzero(hidden.ravel()), 40, replace=False))
        arrays[f"target_ids_{m}"] = np.tile(targets, (count, 1))
        arrays[f"blocks_{m}"] = np.tile(hidden[0], (count, 1, 1))
    return arrays


def fill(workdir: Path) -> None:
    """Everything that a finished run leaves, as far as the report reads it."""
    rng = np.random.default_rng(0)
    workdir.mkdir()
    config = {
        "seed": 0,
        "model": {"size": "vit_tiny", "depth": 12},
        "data": {"sources": ["phantom:adult,patients=50", "videos:/home/jo/clips"], "split": ""},
        "optim": {"epochs": 12, "updates_per_epoch": 39},
    }
    manifest = {
        "command": f"python -m echojepa_jax.main --config=configs/demo.py --workdir={workdir}",
        "started": STARTED,
        "commit": "abc1234",
        "versions": {"jax": "0.10.2", "flax": "0.12.0"},
        "devices": {"gpu NVIDIA H100": 2},
        "data": {"fingerprint": "9f3c", "videos": 1234}
        | {"sources": {"phantom:adult": {"videos": 400}}},
        "parameters": {"encoder": 5_524_416, "predictor": 2_000_000},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "manifest.json").write_text(json.dumps(manifest))
    write_lines(workdir / "metrics.jsonl", training_lines(rng))
    line = {"stage": "scan", "source": "videos:/home/jo/clips"}
    short = "truncated: header states 60 frames, file holds"
    write_lines(
        workdir / "quarantine.jsonl",
        [
            line | {"path": "/home/jo/clips/a.avi", "kind": "bad", "reason": f"{short} 41"},
            line | {"path": "/home/jo/clips/b.avi", "kind": "bad", "reason": f"{short} 12"},
            line | {"path": "/home/jo/clips/b.avi", "kind": "bad", "reason": f"{short} 12"},
            line | {"path": "/home/jo/clips/c.dcm", "kind": "still", "reason": "a single frame"},
        ],
    )
    (workdir / "probe.json").write_text(json.dumps(probe_result(rng)))
    np.savez_compressed(workdir / "examples.npz", **example_arrays(rng))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "demo"
    fill(path)
    assert write_report(path) == path / "report.html"
    return path


@pytest.fixture(scope="module")
def page(workdir: Path) -> str:
    return (workdir / "report.html").read_text(encoding="utf-8")


def bare_workdir(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.mkdir()
    write_lines(path / "metrics.jsonl", lines)
    return path


def test_key_numbers(page: str) -> None:
    text = text_of(page)
    assert "complete: 468 of 468 steps" in text
    assert "alarming" not in text
    assert (
        "EF MAE 5.50 points 95 % interval 4.80 to 6.20; 8.00 with random weights; 31.2 % less now. "
        "R² 0.70; 0.08 with random weights" in text
    )
    assert "View accuracy 95.0 % 95 % interval 90.0 to 99.0 %; 43.8 % with random weights" in text
    assert "Duration 7m48s 7m01s in training steps, 60." in text
    assert page.count("<dt>") == 4
    assert "Time spent waiting for data 3.1 %" in text
    assert "Padded clips 1.2 %" in text
    assert "Skipped steps 1 (" in text
    assert "Rejected files 2, and 1 single images" in text
    assert "EF, random weights: MAE 8.00 points, R² 0.08 MAE: 95 % interval 7.10 to 9.00." in text
    # What does not change is a number.
    assert "Weight decay 0.0400" in text


def test_the_run_in_words_and_everything_recorded_folded_away(page: str) -> None:
    text = text_of(page)
    assert "Started 1 March 2026, 10:00 UTC Devices 2 x gpu NVIDIA H100 Software commit" in text
    assert "Videos 1,234 Parameters encoder 5,524,416, predictor 2,000,000" in text
    raw = page.index("<summary>All recorded facts")
    assert page.index("9f3c") > raw
    text = text_of(page[raw:])
    assert "parameters.encoder 5,524,416" in text
    assert "optim.updates_per_epoch 39" in text


def test_quarantine_is_counted_by_file_and_reason(page: str) -> None:
    text = text_of(page)
    reason = "truncated header states 60 frames, file holds 41"
    assert f"2 before the first step cannot be used {reason}" in text
    assert f"1 before the first step single image a single frame {DASH}" in text


def test_page_needs_nothing_beside_it_and_shows_no_folders(page: str, workdir: Path) -> None:
    assert_stands_alone(page)
    contents = re.findall(r'<a href="#([^"]+)">', page)
    assert contents == re.findall(r'<h2 id="([^"]+)">', page)
    assert len(contents) >= 6
    assert "http://" not in page
    assert "https://" not in page
    assert str(workdir.parent) not in page
    assert "/home/jo" not in page
    assert "--workdir=…/demo" in page
    assert len(page) < 3 * 2**20


def test_names_are_escaped(page: str) -> None:
    assert "<b>bold" not in page
    assert "0X12 &lt;b&gt;bold&lt;/b&gt;" in page


def test_figures_mark_lost_steps_alarm_zones_and_the_initial_encoder(page: str) -> None:
    drawn = {alt.split(" over ")[0]: svg for alt, svg in figures(page).items()}
    assert "not finite" in drawn["Loss"]
    for name in ("total", "mask large", "mask small"):
        assert name in drawn["Loss"]
    alarming = {"Effective rank", "Similarity of different clips"}
    alarming |= {"Error relative to the mean target"}
    assert {name for name, svg in drawn.items() if ">alarm" in svg} == alarming
    assert "random weights" in drawn["EF, mean absolute error"]


def test_figures_have_light_and_dark_colours_and_no_paper(page: str) -> None:
    """A figure takes its colours from variables that its own style sheet defines twice."""
    for svg in figures(page).values():
        drawing = re.sub(r"<style>.*?</style>", "", svg)
        used = set(re.findall(r"var\(--(c\d+)\)", drawing))
        assert used
        light, dark = svg.split("<style>")[1].split("prefers-color-scheme:dark")
        assert all(f"--{name}:" in light and f"--{name}:" in dark for name in used)
        assert re.search(r'id="patch_1">\s*<path[^>]*style="fill: none', drawing)


def test_bounded_measures_begin_at_zero_and_flat_ones_are_not_drawn(page: str) -> None:
    drawn = {alt.split(" over ")[0]: svg for alt, svg in figures(page).items()}
    for name in ("Spread of tokens", "Similarity of different clips", "View, accuracy"):
        assert re.search(r"<text[^>]*>0(\.0)?</text>", drawn[name].split("matplotlib.axis_2")[1])
    assert "weight decay" not in drawn["Schedules"]
    assert "waiting" not in drawn["Speed"]


def test_error_by_view_with_intervals(page: str) -> None:
    (alt,) = [alt for alt in figures(page) if "by view" in alt]
    assert re.search(r"A4C \d\.\d\d \(trained encoder\).* PSAX \d+\.\d+ \(random weights\)", alt)
    assert ">A4C (20)<" in figures(page)[alt]


def test_the_whole_blocks_of_a_mask_are_counted(page: str) -> None:
    # Blocks of 5 x 5 of 7 x 7 tokens, for 8 tubelets.
    assert "96 of 192 visible tokens seen, 40 of 200 hidden tokens predicted" in text_of(page)


def test_metrics_alone_make_a_report(tmp_path: Path) -> None:
    lines = [{"step": 10, "time": 1.0, "loss": 0.7}, {"step": 20, "time": 2.0, "loss": None}]
    run = bare_workdir(tmp_path / "run", lines)
    text = text_of(write_report(run).read_text())
    assert "reached step 20" in text
    assert "Final loss 0.700" in text
    assert "Rejected" not in text
    assert "Duration 1s" in text
    assert "<img" not in (run / "report.html").read_text()  # a single value is no curve
    assert [path.name for path in run.iterdir() if path.suffix == ".partial"] == []


def test_a_run_whose_every_loss_was_lost(tmp_path: Path) -> None:
    names = ("loss", "grad_norm", "clips_per_second", "health/effective_rank", "probe/ef/mae")
    run = bare_workdir(tmp_path / "run", [{"step": 5, "time": 1.0} | dict.fromkeys(names)])
    assert f"Final loss {DASH}" in text_of(write_report(run).read_text())


def test_unfinished_run_with_collapsed_features(tmp_path: Path) -> None:
    ranks = {0: 60.0, 100: 20.0, 200: 9.0}
    lines = [{"step": s, "time": s, "health/effective_rank": rank} for s, rank in ranks.items()]
    lines.append({"step": 200, "time": 0, "health/cosine_similarity": 0.991})
    run = bare_workdir(tmp_path / "run", lines)
    (run / "config.json").write_text('{"optim": {"epochs": 2, "updates_per_epoch": 300}}')
    text = text_of(write_report(run).read_text())
    assert "not finished: 200 of 600 steps; feature health raises an alarm" in text
    # The rank of step 0 is not what counts as best: the encoder was random.
    assert "Effective rank 9.0 is less than half of its maximum, 20.0" in text
    assert "Different clips look alike: cosine similarity 0.991 is above 0.98" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5.5, "5.50"),
        (0.04, "0.0400"),
        (123.4, "123"),
        (0.0, "0"),
        (12_345.6, "12,346"),
        (-0.31, "-0.310"),
        (math.nan, DASH),
    ],
)
def test_numbers_as_text(value: float, text: str) -> None:
    assert number(value) == text


def test_a_page_of_a_suite_lists_rejected_files(tmp_path: Path) -> None:
    line = {"stage": "scan", "kind": "bad", "reason": "empty: no bytes", "path": "/v/a.avi"}
    write_lines(tmp_path / "quarantine.jsonl", [line])
    values = {"verdict": "1 task", "good": True, "cards": [], "first": "m", "tables": []}
    values |= {"strips": {}} | about_run(tmp_path)
    text = text_of(write_page(tmp_path, "evaluation.html.jinja", values).read_text())
    assert "1 before the first step cannot be used empty no bytes" in text


def test_no_metrics_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl is missing or empty"):
        write_report(tmp_path)


def test_long_curves_are_thinned_by_means_and_keep_extremes() -> None:
    values = np.tile([1.0, 3.0], 5000)
    values[400:500] = np.nan
    values[7001] = 50.0
    steps, mean, low, high = _thin(Series(np.arange(10_000.0), values))
    assert len(steps) <= MAX_POINTS
    assert steps[0] == 0
    assert np.nanmax(high) == 50
    assert np.nanmin(low) == 1
    assert np.isnan(mean).any()
    assert mean[0] == pytest.approx(np.mean(values[: int(steps[1])]))
