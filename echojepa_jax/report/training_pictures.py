"""The pictures in the report of a training run, with their titles and notes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from echojepa_jax.data.units import of_errors
from echojepa_jax.masking.pictures import strips
from echojepa_jax.report import plots
from echojepa_jax.report.measures import (
    HEALTH,
    Metrics,
    interval,
    label,
    last,
    number,
    percent,
    probe_scores,
    score,
)
from echojepa_jax.report.pictures import FLAT, Picture, by_view, curves, is_worth_drawing, jpeg
from echojepa_jax.report.plots import Panel, limits_of

LOSS_NOTE = (
    "A slow rise late in training is normal, because the targets get richer. A sudden fall is not "
    "normal: check feature health."
)


# For VideoMAE, which predicts pixels.
PIXELS_NOTE = (
    "The line of zeros is the loss if every prediction were 0; below it, the decoder has learned "
    "something. If pixels are normalised, black tokens add nothing to the loss."
)


class Example(NamedTuple):
    """A clip: the frames themselves, then one strip for each mask specification."""

    name: str
    strips: list[Picture]


def training(metrics: Metrics, step: int) -> tuple[list[Picture], list[tuple[str, str]]]:
    """Loss, gradient norm, schedules and speed over the steps up to `step`.

    Returns:
      Pictures, and (title, value) of schedules that have a single value or do not change.
    """
    losses = {
        "total" if name == "loss" else f"mask {name.removeprefix('loss/')}": series
        for name, series in metrics.items()
        if name == "loss" or name.startswith("loss/")
    }
    what, note = "distance to the target features", LOSS_NOTE
    if "loss_of_zero" in metrics:
        what, note = "squared error of the pixels", PIXELS_NOTE
        losses["zeros"] = metrics["loss_of_zero"]
    of_share = {"lowest": 0.0, "highest": 1.0, "negligible": 0.005}
    groups: dict[str, list[Panel]] = {
        "Loss": [
            *([Panel(what, losses)] if losses else []),
            *_panels(metrics, "black_share", "share of masked tokens that are black", **of_share),
        ],
        "Gradient norm": _panels(metrics, "grad_norm", "L2 over all parameters", lowest=0.0),
        "Schedules": [
            *_panels(metrics, "lr", "learning rate", lowest=0.0),
            *_panels(metrics, "weight_decay", "weight decay", lowest=0.0),
            *_panels(metrics, "ema_momentum", "EMA momentum"),
        ],
        "Speed": [
            *_panels(metrics, "clips_per_second", "clips per second", lowest=0.0),
            *_panels(
                metrics, "data_wait_share", "share of time spent waiting for data", **of_share
            ),
        ],
    }
    pictures, numbers = [], []
    for title, panels in groups.items():
        drawn = [panel for panel in panels if is_worth_drawing(panel)]
        if drawn:
            pictures.append(curves(title, drawn, step, note if title == "Loss" else ""))
        for panel in panels if title == "Schedules" else ():  # cards contain the others
            if panel not in drawn:
                value = number(last(panel.lines, next(iter(panel.lines))))
                numbers.append((panel.title[:1].upper() + panel.title[1:], value))
    return pictures, numbers


def _panels(metrics: Metrics, name: str, title: str, **more: Any) -> list[Panel]:
    return [Panel(title, {name: metrics[name]}, **more)] if name in metrics else []


def health(metrics: Metrics, step: int, judged_after: float) -> list[Picture]:
    """The measures of collapse; their alarm zones begin after step `judged_after`."""
    panels = {
        measure: Panel(
            "",
            {measure.title: metrics[measure.name]},
            lowest=0.0,
            highest=measure.highest,
            alarm_above=measure.alarm_above,
            alarm_below_best=measure.alarm_below_best,
            alarm_after=judged_after,
            negligible=FLAT,
        )
        for measure in HEALTH
        if measure.name in metrics
    }
    return [
        curves(measure.title, [panel], step, measure.sentence, small=True)
        for measure, panel in panels.items()
        if is_worth_drawing(panel)
    ]


def probe_curves(metrics: Metrics, probe: Mapping[str, Any], step: int) -> list[Picture]:
    """Probe scores over steps, with the score of random weights as a dashed line.

    If probe.json has 95 % intervals, those of the last score and of random weights are drawn.
    """
    scores = {
        "mae": ("mean absolute error", None),
        "r2": ("R²", 1.0),
        "accuracy": ("accuracy", 1.0),
    }
    shown = []
    for curve in probe_scores(metrics):
        title, highest = scores[curve.kind]
        result = probe_result(probe, curve.target)
        panel = Panel(
            "",
            {"trained": curve.series},
            lowest=0.0,
            highest=highest,
            reference=curve.before if math.isfinite(curve.before) else None,
            interval=_bounds(result, "intervals", curve.kind),
            reference_interval=_bounds(result, "intervals_init", curve.kind),
        )
        if is_worth_drawing(panel):
            shown.append(curves(f"{label(curve.target)}, {title}", [panel], step, small=True))
    return shown


def probe_result(probe: Mapping[str, Any], target: str) -> Mapping[str, Any]:
    """The entry of a target in probe.json; {} if there is none."""
    return (probe if target == "view" else probe.get("regression", {})).get(target, {})


def _bounds(result: Mapping[str, Any], key: str, kind: str) -> tuple[float, float] | None:
    low, high = result.get(key, {}).get(kind) or (None, None)
    return None if low is None or high is None else (low, high)


def probe_results(probe: Mapping[str, Any]) -> list[list[Picture]]:
    """Pictures of each target: scatter plots of the trained encoder and of random weights, and the
    error by view; finally the confusion matrix of views.
    """
    encoders = {"": "trained encoder", "_init": "random weights"}
    groups = []
    for name, result in probe.get("regression", {}).items():
        values = [v for key in ("true", "predicted", "predicted_init") for v in result[key]]
        pictures, limits = [], limits_of(values)
        unit, views = result["unit"], result["views"] or [""] * len(result["true"])
        for suffix, encoder in encoders.items():
            mae = number(result["mae" + suffix], of_errors(unit))
            r2 = score(result["r2" + suffix])
            title = f"{label(name)}, {encoder}: MAE {mae}, R² {r2}"
            alt = f"{title}; predicted over true values of {len(views)} videos."
            uri = plots.scatter(result["true"], result["predicted" + suffix], views, unit, limits)
            note = interval(_bounds(result, "intervals" + suffix, "mae"))
            pictures.append(Picture(title, uri, alt, note and f"MAE: {note}."))
        errors = {
            encoder: np.abs(np.array(result["predicted" + suffix]) - result["true"])
            for suffix, encoder in encoders.items()
        }
        title = f"{label(name)}, mean absolute error by view"
        pictures += by_view(title, errors, views, result.get("patients"), of_errors(unit))
        groups.append(pictures)
    if "view" in probe:
        result, pictures = probe["view"], []
        classes = sorted({*result["true"], *result["predicted"], *result["predicted_init"]})
        for suffix, encoder in encoders.items():
            title = f"View, {encoder}: {percent(result['accuracy' + suffix])} right"
            alt = f"{title}; confusion matrix of {len(classes)} views."
            uri = plots.confusion(result["true"], result["predicted" + suffix], classes)
            note = interval(_bounds(result, "intervals" + suffix, "accuracy"), percent)
            pictures.append(Picture(title, uri, alt, note and f"Accuracy: {note}."))
        groups.append(pictures)
    return groups


def masked_clips(path: Path) -> list[Example]:
    """Clips and their masks from examples.npz; empty if the file does not exist."""
    if not path.exists():
        return []
    with np.load(path) as file:
        arrays = dict(file)
    grid = arrays["grid"].tolist()
    notes = {"frames": [""] * len(arrays["clips"])}
    for m, mask in enumerate(arrays["mask_names"]):
        hidden = [np.broadcast_to(one, grid).sum() for one in arrays[f"blocks_{m}"]]
        seen, predicted = (arrays[f"{kind}_ids_{m}"].shape[1] for kind in ("context", "target"))
        notes[f"mask {mask}"] = [
            f"{seen:,} of {math.prod(grid) - count:,} visible tokens seen, "
            f"{predicted:,} of {count:,} hidden tokens predicted"
            for count in hidden
        ]
    names = arrays.get("names", [f"Clip {i + 1}" for i in range(len(arrays["clips"]))])
    examples = [Example(str(name), []) for name in names]
    for title, drawn in strips(arrays).items():
        for example, picture, note in zip(examples, drawn, notes[title], strict=True):
            alt = f"{title} of {example.name}. {note}".strip()
            example.strips.append(Picture(title, jpeg(picture), alt, note))
    return examples
