"""The clinical reading in the report of a probe run: tables and pictures of what it measured."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from echojepa_jax.data.units import of_errors
from echojepa_jax.report import plots
from echojepa_jax.report.measures import DASH, MINUS, Series, number, or_nan, percent, score
from echojepa_jax.report.pictures import Picture
from echojepa_jax.report.plots import Panel
from echojepa_jax.report.probe_tables import REGRESSION

DOUBTS = {
    "spread": "Spread over clips",
    "spread_heads": "Spread over heads",
    "distance": "Distance from the training data",
}
GROUPS = {
    "range": "True value",
    "view": "View",
    "age": "Age in years",
    "sex": "Sex",
    "flag": "Flag",
}
SCORES = {
    "bias": "Bias",
    "limit_low": "Lower limit of agreement",
    "limit_high": "Upper limit of agreement",
    "slope": "Slope of the calibration line",
    "intercept": "Intercept of the calibration line",
}
SHOWN_SHARES = (1.0, 0.8, 0.5)


class Table(NamedTuple):
    """A table of texts; `note` says how to read it. Columns after the first `texts` are numbers."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


def tables(reading: Mapping[str, Any], kind: str, unit: str) -> list[Table]:
    """The tables of a clinical reading, the part "clinical" of metrics.json."""
    if not reading.get("scored"):
        return []
    made = [_classes(reading), _scores(reading, unit), _cutoffs(reading, unit)]
    made += [_groups(reading, kind, unit), _doubt(reading, kind, unit)]
    return [table for table in made if table.rows]


def counted(reading: Mapping[str, Any], what: str) -> str:
    """Sentences on how many examples are scored, and how many are unlike the training data."""
    if not reading.get("scored"):
        return ""
    without, flags = reading["not_scored"], reading["flags"]
    rest = f"{without:,} without a prediction could not be scored" if without else "none is missing"
    text = f"{reading['scored']:,} {what} are scored; {rest}."
    if flags["unknown"] < reading["scored"]:
        text += f" {flags['far']:,} are flagged as far from the training data."
    return text


def pictures(
    reading: Mapping[str, Any], true: np.ndarray, predicted: np.ndarray, kind: str, unit: str
) -> list[Picture]:
    """The calibration line, and the error of the share that is kept.

    Args:
      true, predicted: numbers of the readable examples of a regression, [n].
    """
    shown = []
    finite = np.isfinite(true) & np.isfinite(predicted)
    if kind == REGRESSION and finite.any() and "scores" in reading:
        slope, intercept = (_value(reading["scores"][name]) for name in ("slope", "intercept"))
        if math.isfinite(slope):
            shown.append(_calibration(true[finite], predicted[finite], slope, intercept, unit))
    if reading.get("doubt"):
        shown.append(_abstaining(reading["doubt"], kind, unit))
    return shown


def _calibration(
    true: np.ndarray, predicted: np.ndarray, slope: float, intercept: float, unit: str
) -> Picture:
    line = f"slope {number(slope)}, intercept {number(intercept, unit)}".replace("-", MINUS)
    title = "Calibration"
    return Picture(
        title,
        plots.calibration(true.tolist(), predicted.tolist(), slope, intercept, unit),
        f"{title}: true against predicted values of {len(true):,} examples, with the line: {line}.",
        f"{line[0].upper()}{line[1:]}. Calibrated predictions have slope 1 and intercept 0. With a "
        "slope below 1, predictions are too far apart; with a slope above 1, they are too close "
        "together. Each circle is the mean of a tenth of the examples.",
    )


def _abstaining(doubt: Mapping[str, Any], kind: str, unit: str) -> Picture:
    lines = {}
    for name, found in doubt.items():
        share, error = np.array(found["kept"], float).T
        lines[DOUBTS[name].lower()] = Series(100 * share, error)
    regression = kind == REGRESSION
    what = f"MAE ({of_errors(unit)})".replace(" ()", "") if regression else "share of wrong classes"
    text = _error_text(kind, unit)
    parts = [
        f"by {name} from {text(series.values[-1])} of all to {text(series.values[9])} of half"
        for name, series in lines.items()
    ]
    panel = Panel(f"{what} of the examples that are kept", lines, lowest=0.0)
    return Picture(
        "Error without uncertain predictions",
        plots.curves([panel], 100, x_label="share kept (%), the most certain first"),
        f"Error over the share of examples that is kept: {'; '.join(parts)}.",
        f"Examples are kept in the order of {' or '.join(lines)}, the smallest first. A line that "
        "rises to the right means that this measure finds the predictions with large errors.",
    )


def _classes(reading: Mapping[str, Any]) -> Table:
    shares = ("sensitivity", "specificity", "precision", "f1")
    rows = [
        (
            row["name"],
            f"{row['examples']:,}",
            *(percent(or_nan(row[name])) for name in shares),
            *(score(or_nan(row[name])) for name in ("auroc", "average_precision")),
        )
        for row in reading.get("classes", ())
    ]
    columns = ("Class", "Examples", "Sensitivity", "Specificity", "Precision", "F1", "AUROC")
    note = "Each class against the rest."
    return Table("By class", note, (*columns, "Average precision"), rows)


def _scores(reading: Mapping[str, Any], unit: str) -> Table:
    found, rows = reading.get("scores", {}), []
    for name, title in SCORES.items():
        if name in found:
            of = {"slope": "", "intercept": unit}.get(name, of_errors(unit))
            rows.append((title, *_with_interval(found[name], partial(_signed, unit=of))))
    return Table(
        "Agreement and calibration",
        "Bias is the mean of predicted minus true values. 95 % of these differences are expected "
        "between the limits of agreement.",
        ("Measure", "Value", "95 % interval"),
        rows,
    )


def _cutoffs(reading: Mapping[str, Any], unit: str) -> Table:
    rows = []
    for cut in reading.get("cutoffs", ()):
        name = f"{cut['cutoff']:g}"
        cells = [f"below {name} {unit}".strip(), f"{cut['below']:,}", f"{cut['others']:,}"]
        for measure, text in (
            ("auroc", score),
            ("average_precision", score),
            ("sensitivity", percent),
            ("specificity", percent),
        ):
            found = reading["scores"].get(f"{measure}_below_{name}", {})
            value, bounds = _with_interval(found, text)
            cells.append(value if bounds == DASH else f"{value} ({bounds})")
        threshold = or_nan(cut["threshold"])
        rows.append([*cells[:5], number(threshold, unit), *cells[5:]])
    columns = ("Detecting", "Below", "Others", "AUROC", "Average precision", "Threshold")
    return Table(
        "Detection of a low ejection fraction",
        "A prediction below the threshold counts as low. The threshold is the one with the largest "
        "sum of sensitivity and specificity on validation. Brackets are 95 % intervals.",
        (*columns, "Sensitivity", "Specificity"),
        rows,
    )


def _groups(reading: Mapping[str, Any], kind: str, unit: str) -> Table:
    text, rows = _error_text(kind, unit), []
    parts = [(GROUPS[name], found) for name, found in reading["groups"].items()]
    parts += [(DOUBTS[name], found["quarters"]) for name, found in reading["doubt"].items()]
    for title, found in parts:
        for i, row in enumerate(found):
            cells = [
                title if i == 0 else "",
                row["name"] or "not known",
                f"{row['examples']:,}",
                f"{row['patients']:,}",
                *_with_interval(row["error"], text),
            ]
            if kind == REGRESSION:
                cells.append(_signed(_value(row["bias"]), of_errors(unit)))
            rows.append(cells)
    columns = ["Group", "", "Examples", "Patients", _error_name(kind), "95 % interval"]
    quarters = (
        "Groups by spread and by distance are quarters of the examples. A distance of 1 is the "
        "limit above which an example is flagged as far."
    )
    return Table(
        "Error by group",
        quarters if reading["doubt"] else "",
        columns + ["Bias"] * (kind == REGRESSION),
        rows,
        texts=2,
    )


def _doubt(reading: Mapping[str, Any], kind: str, unit: str) -> Table:
    text, rows = _error_text(kind, unit), []
    for name, found in reading["doubt"].items():
        kept = {share: error for share, error in found["kept"]}
        value, bounds = _with_interval(found["correlation"], score)
        rows.append(
            [
                DOUBTS[name],
                f"{found['scored']:,}",
                f"{found['not_scored']:,}",
                value if bounds == DASH else f"{value} ({bounds})",
                *(text(kept[share]) for share in SHOWN_SHARES),
            ]
        )
    columns = ["Measure of uncertainty", "Known", "Not known", "Rank correlation with the error"]
    columns += [
        f"{_error_name(kind)} of {'all' if s == 1 else f'the most certain {100 * s:g} %'}"
        for s in SHOWN_SHARES
    ]
    return Table(
        "Uncertainty and error",
        "If the rank correlation is near 1, uncertain predictions have larger errors. Near 0, the "
        "measure says nothing about the error.",
        columns,
        rows,
    )


def _error_name(kind: str) -> str:
    return "MAE" if kind == REGRESSION else "Share wrong"


def _error_text(kind: str, unit: str) -> Callable[[float], str]:
    if kind == REGRESSION:
        return lambda value: number(value, of_errors(unit))
    return percent


def _signed(value: float, unit: str) -> str:
    return number(value, unit).replace("-", MINUS, 1) if value < 0 else number(value, unit)


def _with_interval(found: Mapping[str, Any], text: Callable[[float], str]) -> tuple[str, str]:
    """A value and "LOW to HIGH" as texts; a dash for what is not defined."""
    low, high = or_nan(found.get("low")), or_nan(found.get("high"))
    # The unit is written once.
    bounds = f"{text(low).split()[0]} to {text(high)}" if math.isfinite(low) else DASH
    return text(_value(found)), bounds


def _value(found: Mapping[str, Any]) -> float:
    return or_nan(found.get("value"))
