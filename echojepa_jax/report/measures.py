"""The metrics of a run: read into series by name, and written as text."""

import datetime
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from echojepa_jax.train.alarms import MAX_COSINE, MAX_RELATIVE_ERROR, MIN_RANK_SHARE

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


class Series(NamedTuple):
    """Values over steps: two arrays [n]; a value that was not finite is NaN."""

    steps: np.ndarray
    values: np.ndarray

    def finite(self) -> np.ndarray:
        """The values that are numbers, [<= n]."""
        return self.values[np.isfinite(self.values)]

    def median(self) -> float:
        """The median of the finite values; NaN if there are none."""
        return float(np.median(self.finite())) if len(self.finite()) else math.nan


Metrics = Mapping[str, Series]


class Measure(NamedTuple):
    """A health measure: how to read it, and when it raises an alarm.

    alarm_above: an upper limit for the value.
    alarm_below_best: a lower limit, as a share of the best value so far.
    highest: the largest possible value, if there is one.
    """

    name: str
    title: str
    sentence: str
    alarm_above: float | None = None
    alarm_below_best: float | None = None
    highest: float | None = None


HEALTH = (
    Measure(
        "health/token_std",
        "Spread of tokens",
        "Standard deviation of the features over all tokens. Near zero, all tokens are alike.",
    ),
    Measure(
        "health/clip_std",
        "Spread of clips",
        "Standard deviation of the mean token over clips. Near zero, all clips have nearly equal "
        "features.",
    ),
    Measure(
        "health/effective_rank",
        "Effective rank",
        "Number of directions that the clips' features use. A value below half of its highest "
        "so far means a partial collapse, even if the loss improves.",
        alarm_below_best=MIN_RANK_SHARE,
    ),
    Measure(
        "health/cosine_similarity",
        "Similarity of different clips",
        f"Mean cosine similarity of different clips. Above {MAX_COSINE}, the encoder gives nearly "
        "the same features for every clip.",
        alarm_above=MAX_COSINE,
        highest=1.0,
    ),
    Measure(
        "health/relative_error",
        "Error relative to the mean target",
        "The predictor's error divided by the error of always predicting the mean target. Below "
        f"{MAX_RELATIVE_ERROR:g}, the predictor uses the clip that it sees.",
        alarm_above=MAX_RELATIVE_ERROR,
    ),
)


class ProbeScore(NamedTuple):
    """A score of a probe during training.

    kind: "mae", "r2" or "accuracy".
    series: the score of the encoder at each step.
    before: the score of the encoder at initialisation; NaN if it was not measured.
    """

    target: str
    kind: str
    series: Series
    before: float


def or_nan(value: float | None) -> float:
    """A number from a file of JSON, in which null stands for NaN."""
    return math.nan if value is None else value


def read_series(lines: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Metrics by name from the lines of metrics.jsonl; null becomes NaN."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "time"):
                found[name].append((line["step"], or_nan(value)))
    arrays = {name: np.array(rows, float) for name, rows in found.items()}
    return {name: Series(rows[:, 0], rows[:, 1]) for name, rows in arrays.items()}


def last(metrics: Metrics, name: str) -> float:
    """The last finite value of a metric; NaN if there is none."""
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


def seconds_in_all(lines: Sequence[Mapping[str, Any]], started: str = "") -> float:
    """Seconds from the start of a run to its last line of metrics, including pauses.

    Args:
      lines: of metrics.jsonl, at least one.
      started: when the run began, in ISO format; "" = at the first line.
    """
    begin = lines[0]["time"]
    if started:
        begin = datetime.datetime.fromisoformat(started).timestamp()
    return max(line["time"] for line in lines) - begin


def seconds_of_steps(metrics: Metrics) -> float:
    """Seconds of all steps whose speed was measured; NaN if there are none."""
    if "step_seconds" not in metrics:
        return math.nan
    steps, seconds = metrics["step_seconds"]
    return float(np.nansum(seconds * np.diff(steps, prepend=0)))


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
    """A share as a percentage with one decimal; a dash for NaN."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else DASH


def interval(bounds: Sequence[float | None] | None, text: Callable[[float], str] = number) -> str:
    """ "95 % interval LOW to HIGH"; "" if there is none. The unit is next to the value."""
    low, high = bounds or (None, None)
    if low is None or high is None:
        return ""
    return f"95 % interval {text(low).removesuffix(' %')} to {text(high)}"


def score(value: float) -> str:
    """A number that is at most 1, such as R², with two decimals; a dash for NaN."""
    return f"{value:.2f}".replace("-", MINUS) if math.isfinite(value) else DASH


def label(target: str) -> str:
    """The name of a probe's target in the report, such as "EF" or "View"."""
    return target.upper() if len(target) <= 3 else target.replace("_", " ").capitalize()
