"""The metrics of a run: read into series by name, judged, and written as text."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from echojepa_jax.train.health import (
    MAX_COSINE,
    MAX_RELATIVE_ERROR,
    MIN_RANK_SHARE,
    falls,
)

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


class Series(NamedTuple):
    """Values over steps: two arrays [n]; a value that was not finite is NaN."""

    steps: np.ndarray
    values: np.ndarray

    def finite(self) -> np.ndarray:
        """The values that are numbers, [<= n]."""
        return self.values[np.isfinite(self.values)]

    def median(self) -> float:
        """Of the finite values; NaN without any."""
        return float(np.median(self.finite())) if len(self.finite()) else math.nan


Metrics = Mapping[str, Series]


class Measure(NamedTuple):
    """A health measure: how to read it, and when it is alarming.

    alarm_above: a limit for the value.
    alarm_below_best: a limit from below, as a share of the best value so far.
    highest: what no value can exceed.
    """

    name: str
    title: str
    sentence: str
    alarm_above: float | None = None
    alarm_below_best: float | None = None
    highest: float = math.inf


HEALTH = (
    Measure(
        "health/token_std",
        "Spread of tokens",
        "Standard deviation of the features over all tokens. Near zero, every token says the same.",
    ),
    Measure(
        "health/clip_std",
        "Spread of clips",
        "The same over clips, of their mean token: what tells one heart from another. It should "
        "not sink towards zero.",
    ),
    Measure(
        "health/effective_rank",
        "Effective rank",
        "How many directions the clips' features really use. A fall below half of its best so far "
        "is partial collapse, even while the loss improves.",
        alarm_below_best=MIN_RANK_SHARE,
    ),
    Measure(
        "health/cosine_similarity",
        "Similarity of different clips",
        f"Mean cosine similarity between different clips. Above {MAX_COSINE}, the encoder gives "
        "nearly the same answer to everything.",
        alarm_above=MAX_COSINE,
        highest=1.0,
    ),
    Measure(
        "health/relative_error",
        "Error relative to the trivial predictor",
        "The predictor's error over that of always predicting the mean target. Below "
        f"{MAX_RELATIVE_ERROR:g}, it has learned something about the clip it sees.",
        alarm_above=MAX_RELATIVE_ERROR,
    ),
)


class ProbeScore(NamedTuple):
    """A score of a probe during training.

    kind: "mae", "r2" or "accuracy".
    series: with the encoder as it was at each step.
    before: with the encoder at initialisation; NaN if that was not measured.
    """

    target: str
    kind: str
    series: Series
    before: float


def read_series(lines: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Metrics by name from the lines of metrics.jsonl; null becomes NaN."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "time"):
                found[name].append((line["step"], math.nan if value is None else value))
    arrays = {name: np.array(rows, float) for name, rows in found.items()}
    return {name: Series(rows[:, 0], rows[:, 1]) for name, rows in arrays.items()}


def last(metrics: Metrics, name: str) -> float:
    """The last finite value of a metric; NaN without any."""
    values = metrics[name].finite() if name in metrics else np.empty(0)
    return float(values[-1]) if len(values) else math.nan


def probe_scores(metrics: Metrics) -> Iterator[ProbeScore]:
    """Every score of every probe, in the order in which they were written."""
    for name, series in metrics.items():
        if name.startswith("probe/"):
            _, target, kind = name.split("/")
            yield ProbeScore(target, kind, series, last(metrics, f"probe_init/{target}/{kind}"))


def health_summary(metrics: Metrics) -> list[tuple[str, str, str]]:
    """Rows (title, first value, last value) of the health measures."""
    rows = []
    for measure in HEALTH:
        values = metrics[measure.name].finite() if measure.name in metrics else np.empty(0)
        if len(values):
            rows.append((measure.title, number(values[0]), number(values[-1])))
    return rows


def alarms(metrics: Metrics, judged_from: float) -> list[str]:
    """Sentences on health measures whose last value since step `judged_from` is alarming."""
    found = []
    for measure in HEALTH:
        if measure.name not in metrics:
            continue
        steps, values = metrics[measure.name]
        values = values[(steps >= judged_from) & np.isfinite(values)]
        if not len(values):
            continue
        now, best = values[-1], values.max()
        if measure.alarm_above is not None and now > measure.alarm_above:
            found.append(f"{measure.title}: {number(now)}, above {measure.alarm_above:g}")
        if measure.alarm_below_best is not None and now < measure.alarm_below_best * best:
            share = f"{measure.alarm_below_best:g} times its best of {number(best)}"
            found.append(f"{measure.title}: {number(now)}, below {share}")
    return [*found, *_falls(metrics, judged_from)]


def _falls(metrics: Metrics, judged_from: float) -> Iterator[str]:
    """Sentences on sudden falls of the loss."""
    if "loss" not in metrics:
        return
    seen: list[float] = []
    for step, loss in zip(*metrics["loss"], strict=True):
        if fall := falls(seen, float(loss), step > judged_from):
            now, low, high = map(number, fall)
            yield f"Loss: fell suddenly to {now} at step {step:,.0f}; {low} to {high} before"


def agreement(true: Sequence[float], predicted: Sequence[float]) -> tuple[float, float, float]:
    """Mean of predicted - true [n], and the limits between which 95 % of differences lie if they
    are normal (Bland and Altman 1986); the limits are NaN for a single one.
    """
    difference = np.asarray(predicted, float) - np.asarray(true, float)
    bias = float(difference.mean())
    reach = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else math.nan
    return bias, bias - reach, bias + reach


def number(value: float, unit: str = "") -> str:
    """Three significant digits, or all digits before the point; a dash for NaN."""
    if not math.isfinite(value):
        return DASH
    if abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:#.3g}".rstrip(".") if abs(value) >= 0.001 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def percent(share: float) -> str:
    """A share, with one digit after the point."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else DASH


def score(value: float) -> str:
    """A number that is at most 1, such as R²: two digits after the point."""
    return f"{value:.2f}".replace("-", MINUS) if math.isfinite(value) else DASH


def label(target: str) -> str:
    """How a probe's target is called in the report: "EF", "View"."""
    return target.upper() if len(target) <= 3 else target.replace("_", " ").capitalize()
