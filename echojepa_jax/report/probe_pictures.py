"""The pictures in the report of a probe run, with their titles and notes."""

import math
from collections.abc import Sequence

import numpy as np

from echojepa_jax.data.units import of_errors
from echojepa_jax.probes.clinical import agreement
from echojepa_jax.report import plots
from echojepa_jax.report.measures import MINUS, Metrics, Series, number, percent
from echojepa_jax.report.pictures import Picture, by_view, common_views, curves, is_worth_drawing
from echojepa_jax.report.plots import Panel, limits_of
from echojepa_jax.report.probe_tables import REGRESSION, Prediction, by_head, classes_of

MAX_NAMED_HEADS = 6  # as many as there are colours
# A head that diverged would set the scale for all others. Errors above this multiple of the
# baseline's error are left out.
HOPELESS = 1.5


def regression(rows: Sequence[Prediction], unit: str, what: str) -> list[Picture]:
    """Scatter and Bland-Altman plot of readable predictions; `what`: such as "videos"."""
    rows = [row for row in rows if math.isfinite(row.true) and math.isfinite(row.predicted)]
    if not rows:
        return []
    true, predicted = [row.true for row in rows], [row.predicted for row in rows]
    groups = common_views([row.view for row in rows])
    bias, low, high = agreement(true, predicted)
    off = of_errors(unit)
    middle = number(bias, off).replace("-", MINUS)
    between = f"95 % limits of agreement {number(low)} to {number(high, off)}".replace("-", MINUS)
    title = f"Predicted over true, {what}"
    spots = plots.scatter(true, predicted, groups, unit, limits_of([*true, *predicted]))
    return [
        Picture(title, spots, f"{title}; {len(rows):,} points and the line of equality."),
        Picture(
            f"Bland-Altman, {what}",
            plots.bland_altman(true, predicted, groups, unit),
            f"Difference over mean of {len(rows):,} {what}: bias {middle}, {between}.",
            f"Mean difference {middle}, {between}. A cloud that falls to the right "
            "means that extreme values are predicted too close to the mean.",
        ),
    ]


def scores_by_view(rows: Sequence[Prediction], kind: str, unit: str) -> list[Picture]:
    """The error or accuracy of readable predictions by view; empty for a single view."""
    views, patients = [row.view for row in rows], [row.patient for row in rows]
    known = patients if all(patients) else None
    if kind != REGRESSION:
        right = np.array([row.target == row.prediction for row in rows])
        return by_view(
            "Accuracy by view", {"accuracy": right}, views, known, "accuracy", 1.0, percent
        )
    off = np.array([abs(row.predicted - row.true) for row in rows])
    finite = np.isfinite(off)
    views, patients = (
        [x for x, f in zip(xs, finite, strict=True) if f] for xs in (views, patients)
    )
    title = f"mean absolute error ({of_errors(unit)})".replace(" ()", "")
    return by_view("Error by view", {"error": off[finite]}, views, known and patients, title)


def classification(rows: Sequence[Prediction], known: Sequence[str], what: str) -> list[Picture]:
    """The confusion matrix of readable predictions, with the classes of the task first."""
    if not rows:
        return []
    classes = classes_of(rows, known)
    title = f"Confusion matrix, {what}"
    uri = plots.confusion([row.target for row in rows], [row.prediction for row in rows], classes)
    alt = f"{title}: {len(rows):,} predictions of {len(classes)} classes."
    return [Picture(title, uri, alt, "Rows are true classes; colours are shares of a row.")]


def learning(metrics: Metrics, chosen: str, kind: str, unit: str, baseline: float) -> list[Picture]:
    """Losses of the chosen head, and the validation scores of all heads, the chosen one first.

    Args:
      baseline: the error of always predicting the training mean, NaN if it was not measured.
    """
    shown = []
    losses = {"training": "train_loss", "validation": "val_loss"}
    found = {name: by_head(metrics, key) for name, key in losses.items()}
    lines = {name: heads[chosen] for name, heads in found.items() if chosen in heads}
    if lines:
        panel = Panel("of the chosen head", lines)
        if is_worth_drawing(panel):
            shown.append(curves("Loss", [panel], _epochs(lines), unit="epoch"))
    scores = by_head(metrics, "val_score")
    if any(len(series.finite()) > 1 for series in scores.values()):
        shown.append(_score_curves(scores, chosen, kind, unit, baseline))
    return shown


def _score_curves(
    scores: dict[str, Series], chosen: str, kind: str, unit: str, baseline: float
) -> Picture:
    first = chosen if chosen in scores else next(iter(scores))
    lines = {first: scores[first]} | {
        name: _without_hopeless(series, baseline if kind == REGRESSION else math.nan)
        for name, series in scores.items()
        if name != first
    }
    left_out = any(np.isfinite(scores[k].values).sum() > len(lines[k].finite()) for k in lines)
    others: list[Series] = []
    if len(lines) > MAX_NAMED_HEADS:
        others = [series for name, series in lines.items() if name != first]
        lines = {first: lines[first]}
    title = f"mean absolute error ({of_errors(unit)})".replace(" ()", "")
    title = title if kind == REGRESSION else "accuracy"
    note = "Each line is a head of the grid" + (f"; {first} is the chosen one." if chosen else ".")
    if left_out:
        note += f" Errors above {HOPELESS:g} times the baseline's are left out."
    highest = None if kind == REGRESSION else 1.0
    panel = Panel(title, lines, lowest=0.0, highest=highest, others=others)
    return curves("Validation score", [panel], _epochs(scores), note, unit="epoch")


def _without_hopeless(series: Series, baseline: float) -> Series:
    values = np.where(series.values > HOPELESS * baseline, math.nan, series.values)
    return Series(series.steps, values)


def _epochs(lines: dict[str, Series]) -> int:
    return int(max(series.steps[-1] for series in lines.values()))
