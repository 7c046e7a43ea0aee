"""The report of a training run: one HTML page from the files of its workdir."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from echojepa_jax.data.units import of_errors
from echojepa_jax.masking import pictures as masks
from echojepa_jax.report import training_pictures as pictures
from echojepa_jax.report.measures import (
    Metrics,
    health_summary,
    interval,
    label,
    last,
    number,
    percent,
    probe_scores,
    read_series,
    score,
    seconds_in_all,
    seconds_of_steps,
)
from echojepa_jax.report.page import Card, Rejected, about_run, read_json, write_page
from echojepa_jax.train.alarms import JUDGED_FROM, standing_alarms
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.metrics_writer import FILE_NAME, read_lines
from echojepa_jax.utils.progress import duration


def write_report(workdir: Path) -> Path:
    """Writes `report.html` into the workdir of a finished or interrupted run and returns its path.

    Only `metrics.jsonl` is required; sections whose files are missing are left out.

    Raises:
      UserError: metrics.jsonl is missing or empty.
    """
    lines = read_lines(workdir / FILE_NAME)
    metrics = read_series(lines)
    if not metrics:
        raise UserError(
            f"{workdir / FILE_NAME} is missing or empty: train before you write a report"
        )
    config = read_json(workdir / "config.json")
    manifest = read_json(workdir / "manifest.json")
    probe = read_json(workdir / "probe.json")
    about = about_run(workdir)

    step = int(max(series.steps[-1] for series in metrics.values()))
    optim = config.get("optim", {})
    total = optim.get("epochs", 0) * optim.get("updates_per_epoch", 0)
    alarms = standing_alarms(lines, total or step)
    took = seconds_in_all(lines, manifest.get("started", ""))
    training, numbers = pictures.training(metrics, step)
    values = {
        "verdict": _verdict(step, total) + ("; feature health raises an alarm" if alarms else ""),
        "good": step >= total and not alarms,
        "alarms": [alarm[:1].upper() + alarm[1:] for alarm in alarms],
        "cards": [*_probe_cards(metrics, probe), *_training_cards(metrics, took)],
        "training": training,
        "numbers": [*_counts(metrics, about["rejected"]), *numbers],
        "health": pictures.health(metrics, step, JUDGED_FROM * (total or step)),
        "health_summary": health_summary(metrics),
        "probe_curves": pictures.probe_curves(metrics, probe, step),
        "probe_results": pictures.probe_results(probe),
        "examples": pictures.masked_clips(workdir / "examples.npz"),
        "legend": {
            name: f"rgba{(*tint.colour, tint.opacity)}"
            for name, tint in (
                ("context", masks.CONTEXT),
                ("visible", masks.VISIBLE),
                ("target", masks.TARGET),
                ("hidden", masks.HIDDEN),
            )
        },
    }
    return write_page(workdir, "report.html.jinja", values | about)


def _verdict(step: int, total: int) -> str:
    if not total:
        return f"reached step {step:,}"
    return f"{'complete' if step >= total else 'not finished'}: {step:,} of {total:,} steps"


def _training_cards(metrics: Metrics, took: float) -> list[Card]:
    cards = []
    if "loss" in metrics:
        losses = metrics["loss"].finite()
        note = f"{number(losses[0])} at the start" if len(losses) else ""
        cards.append(Card("Final loss", number(last(metrics, "loss")), note))
    notes = []
    if math.isfinite(steps := seconds_of_steps(metrics)):
        notes.append(f"{duration(steps)} in training steps")
    if "clips_per_second" in metrics:
        notes.append(f"{number(metrics['clips_per_second'].median())} clips/s (median)")
    return [*cards, Card("Duration", duration(took), ", ".join(notes))]


def _counts(metrics: Metrics, rejected: Sequence[Rejected]) -> list[tuple[str, str]]:
    """Rows (name, value) about possible problems with steps and data."""
    rows = []
    if "data_wait_share" in metrics:
        share = percent(metrics["data_wait_share"].median())
        rows.append(("Time spent waiting for data", f"{share} of a step (median)"))
    if "skipped_steps" in metrics:
        skipped = int(last(metrics, "skipped_steps"))
        rows.append(("Skipped steps", f"{skipped:,} (loss or gradient not finite)"))
    if "padded_share" in metrics:
        share = percent(last(metrics, "padded_share"))
        rows.append(("Padded clips", f"{share} (video shorter than a clip)"))
    if rejected or "quarantined" in metrics:
        stills = sum(row.files for row in rejected if row.kind == "still")
        bad = sum(row.files for row in rejected) - stills
        rows.append(("Rejected files", f"{bad:,}, and {stills:,} single images"))
    return rows


def _probe_cards(metrics: Metrics, probe: Mapping[str, Any]) -> list[Card]:
    """For each target, the score of the trained encoder beside the score of random weights."""
    cards: dict[str, Card] = {}
    for target, kind, series, before in probe_scores(metrics):
        now = last({"score": series}, "score")
        result = pictures.probe_result(probe, target)
        if kind == "r2":  # is shown below the error
            card = cards.get(target, Card(label(target), ""))
            note = f"{card.note}. R² {score(now)}; {score(before)} with random weights"
            cards[target] = card._replace(note=note.lstrip(". "))
            continue
        text: Callable[[float], str] = number if kind == "mae" else percent
        unit = of_errors(result.get("unit", "")) if kind == "mae" else ""
        notes = [interval(result.get("intervals", {}).get(kind), text)]
        if not math.isnan(before):
            notes.append(f"{text(before)} with random weights")
        if kind == "mae" and before > 0:
            fall = 1 - now / before
            notes.append(f"{percent(abs(fall))} {'less' if fall >= 0 else 'more'} now")
        title = f"{label(target)} {'MAE' if kind == 'mae' else 'accuracy'}"
        cards[target] = Card(title, f"{text(now)} {unit}".strip(), "; ".join(filter(None, notes)))
    return list(cards.values())
