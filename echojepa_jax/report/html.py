"""The report of a training run: one HTML page from the files of its workdir."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from echojepa_jax.data.units import of_errors
from echojepa_jax.report import examples, pictures
from echojepa_jax.report.measures import (
    Metrics,
    alarms,
    health_summary,
    label,
    last,
    number,
    percent,
    probe_scores,
    read_series,
    score,
)
from echojepa_jax.report.page import Card, Refused, flat, read_json, refused_files, write_page
from echojepa_jax.train.health import JUDGED_FROM
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.metrics_writer import FILE_NAME, read_lines


def write_report(workdir: Path) -> Path:
    """Writes `report.html` into the workdir of a finished or interrupted run and returns its path.

    Only `metrics.jsonl` must be there; what the other files would show is left out without them.

    Raises:
      UserError: there are no metrics.
    """
    metrics = read_series(read_lines(workdir / FILE_NAME))
    if not metrics:
        raise UserError(f"{workdir / FILE_NAME} is missing or empty: train first, then report")
    config = read_json(workdir / "config.json")
    probe = read_json(workdir / "probe.json")
    refused = refused_files(workdir)

    step = int(max(series.steps[-1] for series in metrics.values()))
    optim = config.get("optim", {})
    total = optim.get("epochs", 0) * optim.get("updates_per_epoch", 0)
    judged_from = JUDGED_FROM * (total or step)
    alarming = alarms(metrics, judged_from)
    values = {
        "verdict": _verdict(step, total) + ("; feature health is alarming" if alarming else ""),
        "good": step >= total and not alarming,
        "alarms": alarming,
        "cards": [*_probe_cards(metrics, probe), *_training_cards(metrics, refused)],
        "training": pictures.training(metrics, step),
        "health": pictures.health(metrics, step, judged_from),
        "health_summary": health_summary(metrics),
        "probe_curves": pictures.probe_curves(metrics, step),
        "probe_results": pictures.probe_results(probe),
        "examples": pictures.masked_clips(workdir / "examples.npz"),
        # As CSS colours: what lies over the pixels of a token.
        "legend": {
            "context": "rgba(0, 0, 0, 0)",
            "target": f"rgba{(*examples.TARGET_COLOUR, examples.TARGET_OPACITY)}",
            "dropped": f"rgba{(*examples.DROPPED_COLOUR, examples.DROPPED_OPACITY)}",
        },
        "facts": list(flat(read_json(workdir / "manifest.json"))),
        "config": list(flat(config)),
        "refused": refused,
    }
    return write_page(workdir, "report.html.jinja", values)


def _verdict(step: int, total: int) -> str:
    if not total:
        return f"reached step {step:,}"
    return f"{'complete' if step >= total else 'not finished'}: {step:,} of {total:,} steps"


def _training_cards(metrics: Metrics, refused: Sequence[Refused]) -> list[Card]:
    cards = []
    if "loss" in metrics:
        losses = metrics["loss"].finite()
        note = f"{number(losses[0])} at the start" if len(losses) else ""
        cards.append(Card("Final loss", number(last(metrics, "loss")), note))
    if "clips_per_second" in metrics:
        rate = number(metrics["clips_per_second"].median())
        cards.append(Card("Throughput", f"{rate} clips/s", "median"))
    if "data_wait_share" in metrics:
        share = percent(metrics["data_wait_share"].median())
        cards.append(Card("Data wait", share, "of step time, median"))
    if "skipped_steps" in metrics:
        skipped = int(last(metrics, "skipped_steps"))
        cards.append(Card("Skipped steps", f"{skipped:,}", "loss or gradient not finite"))
    if "padded_share" in metrics:
        share = percent(last(metrics, "padded_share"))
        cards.append(Card("Padded clips", share, "video too short for a clip"))
    if refused or "quarantined" in metrics:
        stills = sum(row.files for row in refused if row.kind == "still")
        bad = sum(row.files for row in refused) - stills
        cards.append(Card("Quarantined", f"{bad:,} files", f"and {stills:,} single-frame stills"))
    return cards


def _probe_cards(metrics: Metrics, probe: Mapping[str, Any]) -> list[Card]:
    """The probe on the trained encoder beside the same probe on the encoder at initialisation."""
    cards = []
    for target, kind, series, before in probe_scores(metrics):
        now = last({"score": series}, "score")
        if kind == "mae":
            unit = of_errors(probe.get("regression", {}).get(target, {}).get("unit", ""))
            title, value, reference = "MAE", number(now, unit), number(before, unit)
        elif kind == "r2":
            title, value, reference = "R²", score(now), score(before)
        else:
            title, value, reference = "accuracy", percent(now), percent(before)
        note = "" if math.isnan(before) else f"{reference} at initialisation"
        if kind == "mae" and before > 0:
            fall = 1 - now / before
            note += f"; {percent(abs(fall))} {'less' if fall >= 0 else 'more'} now"
        cards.append(Card(f"{label(target)} {title}", value, note))
    return cards
