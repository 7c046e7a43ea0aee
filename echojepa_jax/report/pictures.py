"""Which pictures the report shows, and the words that go with each."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from echojepa_jax.data.units import of_errors
from echojepa_jax.report import examples, plots
from echojepa_jax.report.measures import (
    HEALTH,
    Metrics,
    label,
    number,
    percent,
    probe_scores,
    score,
)
from echojepa_jax.report.plots import Panel

MAX_EXAMPLES = 4

LOSS_NOTE = (
    "A slow rise late in training is normal here: the targets get richer. A sudden drop is not; "
    "look at feature health."
)
SCHEDULES = {
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "ema_momentum": "EMA momentum",
}
SPEED = {
    "clips_per_second": "clips per second",
    "data_wait_share": "share of time spent waiting for data",
}
SCORES = {"mae": "mean absolute error", "r2": "R²", "accuracy": "accuracy"}
# Suffix of the keys in probe.json -> words.
ENCODERS = {"": "trained encoder", "_init": "encoder at initialisation"}


class Picture(NamedTuple):
    """An image with its title, its description for who cannot see it, and a sentence or two."""

    title: str
    uri: str
    alt: str
    note: str = ""


class Example(NamedTuple):
    """A clip: the frames themselves, then one strip for each mask specification."""

    name: str
    strips: list[Picture]


def training(metrics: Metrics, step: int) -> list[Picture]:
    """Loss, gradient norm, schedules and speed over the steps up to `step`."""
    losses = {
        "total" if name == "loss" else f"mask {name.removeprefix('loss/')}": series
        for name, series in metrics.items()
        if name == "loss" or name.startswith("loss/")
    }
    found = [
        ("Loss", [Panel("distance to the target features", losses)] if losses else [], LOSS_NOTE),
        ("Gradient norm", _panels(metrics, {"grad_norm": "L2 over all parameters"}), ""),
        ("Schedules", _panels(metrics, SCHEDULES), ""),
        ("Speed", _panels(metrics, SPEED), ""),
    ]
    return [curves(title, panels, step, note) for title, panels, note in found if panels]


def health(metrics: Metrics, step: int, judged_from: float) -> list[Picture]:
    """The measures of collapse with their alarm zones, which begin at step `judged_from`."""
    return [
        curves(
            measure.title,
            [
                Panel(
                    "",
                    {measure.title: metrics[measure.name]},
                    alarm_above=measure.alarm_above,
                    alarm_below_best=measure.alarm_below_best,
                    alarm_from=judged_from,
                    highest=measure.highest,
                )
            ],
            step,
            measure.sentence,
        )
        for measure in HEALTH
        if measure.name in metrics
    ]


def probe_curves(metrics: Metrics, step: int) -> list[Picture]:
    """Probe scores over steps, with that of the encoder at initialisation as a dashed line."""
    return [
        curves(
            f"{label(curve.target)}, {SCORES[curve.kind]}",
            [
                Panel(
                    "",
                    {"trained": curve.series},
                    reference=curve.before if math.isfinite(curve.before) else None,
                )
            ],
            step,
            small=True,
        )
        for curve in probe_scores(metrics)
    ]


def probe_results(probe: Mapping[str, Any]) -> list[Picture]:
    """Pairs (trained, at initialisation): a scatter for each target, the confusion of views."""
    pictures = []
    for name, result in probe.get("regression", {}).items():
        values = [v for key in ("true", "predicted", "predicted_init") for v in result[key]]
        limits = limits_of(values)
        unit, views = result["unit"], result["views"] or [""] * len(result["true"])
        for suffix, encoder in ENCODERS.items():
            mae = number(result["mae" + suffix], of_errors(unit))
            r2 = score(result["r2" + suffix])
            title = f"{label(name)}, {encoder}: MAE {mae}, R² {r2}"
            alt = f"{title}; predicted over true values of {len(views)} videos."
            uri = plots.scatter(result["true"], result["predicted" + suffix], views, unit, limits)
            pictures.append(Picture(title, uri, alt))
    if "view" in probe:
        result = probe["view"]
        classes = sorted({*result["true"], *result["predicted"], *result["predicted_init"]})
        for suffix, encoder in ENCODERS.items():
            title = f"View, {encoder}: {percent(result['accuracy' + suffix])} right"
            alt = f"{title}; confusion matrix of {len(classes)} views."
            uri = plots.confusion(result["true"], result["predicted" + suffix], classes)
            pictures.append(Picture(title, uri, alt))
    return pictures


def limits_of(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that holds these values; never empty, even if all are the same."""
    margin = 0.04 * (max(values) - min(values)) + 1e-6
    return min(values) - margin, max(values) + margin


def masked_clips(path: Path) -> list[Example]:
    """Clips and their masks from an examples.npz, if it is there."""
    if not path.exists():
        return []
    shown = []
    with np.load(path) as arrays:
        t, h, w = (int(size) for size in arrays["grid"])
        for i, clip in enumerate(arrays["clips"][:MAX_EXAMPLES]):
            name = str(arrays["names"][i]) if "names" in arrays else f"Clip {i + 1}"
            strips = [Picture("frames", examples.strip(clip, t), f"Frames of {name}.")]
            for m, mask in enumerate(arrays["mask_names"]):
                context, target = arrays[f"context_ids_{m}"][i], arrays[f"target_ids_{m}"][i]
                seen, hidden = len(context) / (t * h * w), len(target) / (t * h * w)
                note = f"{percent(seen)} of tokens seen, {percent(hidden)} predicted"
                uri = examples.strip(examples.paint(clip, (t, h, w), context, target), t)
                alt = f"Frames of {name} under mask {mask}: {note}."
                strips.append(Picture(f"mask {mask}", uri, alt, note))
            shown.append(Example(name, strips))
    return shown


def _panels(metrics: Metrics, titles: Mapping[str, str]) -> list[Panel]:
    return [Panel(titles[name], {name: metrics[name]}) for name in titles if name in metrics]


def curves(
    title: str,
    panels: Sequence[Panel],
    step: int,
    note: str = "",
    small: bool = False,
    unit: str = "step",
) -> Picture:
    """Panels over steps (or another unit), described by where each line begins and ends."""
    courses = []
    for panel in panels:
        for name, series in panel.lines.items():
            values = series.finite() if len(series.finite()) else np.array([math.nan])
            what = name if len(panel.lines) > 1 else panel.title
            course = f"{what} from {number(values[0])} to {number(values[-1])}"
            courses.append(course.strip())
    alt = f"{title} over {step:,} {unit}s: {'; '.join(courses)}."
    return Picture(title, plots.curves(panels, step, small, unit), alt, note)
