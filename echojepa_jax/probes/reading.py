"""The clinical reading of a probe's results, computed from the lines of predictions.csv.

It becomes the part "clinical" of metrics.json, which the report shows. Only examples with a finite
prediction are scored; the number of the others is a part of it. "Error" is the absolute error of a
number, or 1 for a wrong class, so that its mean is the MAE or the share of wrong classes.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from echojepa_jax.probes import clinical
from echojepa_jax.probes.distance import FAR, NEAR
from echojepa_jax.probes.task import Task
from echojepa_jax.utils.bootstrap import with_intervals

DOUBTS = ("spread", "spread_heads", "distance")
"""The columns of predictions.csv that may tell how much a prediction can be trusted."""


def cutoffs(task: Task) -> tuple[float, ...]:
    """The cut-offs of a task's target; () unless it is an ejection fraction."""
    number = task.kind == "regression"
    found = number and clinical.is_ejection_fraction(task.target, task.unit, task.mean)
    return clinical.EF_CUTOFFS if found else ()


def thresholds(task: Task, true: np.ndarray, predicted: np.ndarray) -> dict[float, float]:
    """The threshold of a prediction for each cut-off, by labels and predictions of validation [n].

    A cut-off for which `clinical.threshold_below` finds none is left out.
    """
    found = {c: clinical.threshold_below(true, predicted, c) for c in cutoffs(task)}
    return {c: t for c, t in found.items() if not math.isnan(t)}


def reading(
    task: Task,
    lines: Sequence[Mapping[str, Any]],
    chosen: Mapping[float, float],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """All tables and curves as plain numbers and lists; None for what is not defined.

    Args:
      lines: of predictions.csv, with cells as texts; a cell that is not there counts as empty.
      chosen: the threshold for each cut-off, see `thresholds`.
      resamples, seed: of the bootstrap over patients.
    """
    is_number = task.kind == "regression"
    columns = ["prediction"] if is_number else [f"p_{name}" for name in task.classes]

    def is_scored(line: Mapping[str, Any]) -> bool:
        numbers = (float(line.get(name) or "nan") for name in columns)
        return line["status"] == "ok" and all(map(math.isfinite, numbers))

    good = list(filter(is_scored, lines))
    found: dict[str, Any] = {"scored": len(good), "not_scored": len(lines) - len(good)}
    if not good:
        return found
    intervals = partial(with_intervals, resamples=resamples, seed=seed)
    patients = np.array([line["patient"] for line in good])
    if is_number:
        true, predicted = _numbers(good, "target"), _numbers(good, "prediction")
        error, away = np.abs(predicted - true), predicted - true
        scores = partial(_scores, cutoffs=cutoffs(task), chosen=chosen)
        found["scores"] = intervals(scores, true, predicted, patients)
        found["cutoffs"] = [_cutoff(true, c, chosen.get(c)) for c in cutoffs(task)]
        edges = clinical.EF_RANGES if cutoffs(task) else clinical.quarters(true)
    else:
        shares = np.stack([_numbers(good, name) for name in columns], axis=1)
        labels = task.encode([line["target"] for line in good])
        error, away = (shares.argmax(axis=1) != labels).astype(float), None
        table = clinical.class_table(labels, shares)
        found["classes"] = [
            {"name": name} | {k: _plain(v) for k, v in row.items()}
            for name, row in zip(task.classes, table, strict=True)
        ]
    rows = partial(_rows, error=error, away=away, patients=patients, intervals=intervals)
    groups = {
        "view": (_texts(good, "view"), None),
        "age": (
            clinical.ranges(_numbers(good, "age"), clinical.AGE_GROUPS),
            clinical.range_names(clinical.AGE_GROUPS),
        ),
        "sex": (_texts(good, "sex"), None),
        "flag": (_texts(good, "flag"), None),
    }
    if is_number:
        names = clinical.range_names(edges) if len(edges) else []
        groups = {"range": (clinical.ranges(true, edges), names)} | groups
    found["groups"] = {
        name: rows(of, order=order)
        for name, (of, order) in groups.items()
        if len(set(of)) > 1 or (name == "range" and len(edges))
    }
    flags = Counter(_texts(good, "flag"))
    found["flags"] = {name: flags[name] for name in (FAR, NEAR)} | {"unknown": flags[""]}
    found["doubt"] = {
        name: _doubt(_numbers(good, name), error, away, patients, intervals)
        for name in DOUBTS
        if any(line.get(name) for line in good)
    }
    return found


def _texts(lines: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return [str(line.get(name) or "") for line in lines]


def _numbers(lines: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A column, float64 [n]; NaN for an empty cell."""
    return np.array([float(text) if text else math.nan for text in _texts(lines, name)])


def _scores(
    true: np.ndarray, predicted: np.ndarray, cutoffs: Sequence[float], chosen: Mapping[float, float]
) -> dict[str, float]:
    """Every score that has an interval, by its name in metrics.json."""
    names = ("bias", "limit_low", "limit_high", "slope", "intercept")
    values = (*clinical.agreement(true, predicted), *clinical.calibration_line(true, predicted))
    found = dict(zip(names, values, strict=True))
    for cutoff in cutoffs:
        below = true < cutoff
        area, precision = clinical.areas(below, -predicted)
        found |= {f"auroc_below_{cutoff:g}": area, f"average_precision_below_{cutoff:g}": precision}
        if cutoff in chosen:
            sensitivity, specificity = clinical.rates(below, predicted < chosen[cutoff])
            found |= {
                f"sensitivity_below_{cutoff:g}": sensitivity,
                f"specificity_below_{cutoff:g}": specificity,
            }
    return found


def _cutoff(true: np.ndarray, cutoff: float, threshold: float | None) -> dict[str, Any]:
    below = int(np.count_nonzero(true < cutoff))
    return {"cutoff": cutoff, "threshold": threshold, "below": below, "others": len(true) - below}


def _rows(
    of: Sequence[str],
    error: np.ndarray,
    away: np.ndarray | None,
    patients: np.ndarray,
    intervals: Any,
    order: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """A row for each group that has examples; those of no group, "", come last.

    Args:
      of: the group of each example [n]. order: of the names; None = alphabetical.
      away: signed differences of numbers [n]; None for classes.
    """
    found = []
    names = sorted({*of} - {""}) if order is None else order
    for name in [*names, ""]:
        rows = np.flatnonzero(np.array(of) == name)
        if not len(rows):
            continue
        values = np.stack([error, error if away is None else away], axis=1)[rows]
        scored = intervals(_means, values, values, patients[rows])
        if away is None:
            del scored["bias"]
        found.append(
            {"name": name, "examples": len(rows), "patients": len(set(patients[rows].tolist()))}
            | scored
        )
    return found


def _means(values: np.ndarray, _: np.ndarray) -> dict[str, float]:
    error, bias = values.mean(axis=0)
    return {"error": float(error), "bias": float(bias)}


def _doubt(
    doubt: np.ndarray,
    error: np.ndarray,
    away: np.ndarray | None,
    patients: np.ndarray,
    intervals: Any,
) -> dict[str, Any]:
    """Whether more doubt means a larger error, and the error of the least doubtful examples."""
    known = np.isfinite(doubt)
    doubt, error, patients = doubt[known], error[known], patients[known]
    away = None if away is None else away[known]

    def correlation(doubt: np.ndarray, error: np.ndarray) -> dict[str, float]:
        return {"correlation": clinical.rank_correlation(doubt, error)}

    edges = clinical.quarters(doubt)
    of, names = clinical.ranges(doubt, edges), clinical.range_names(edges)
    return {
        "scored": len(doubt),
        "not_scored": int(np.count_nonzero(~known)),
        **intervals(correlation, doubt, error, patients),
        "quarters": _rows(of, error, away, patients, intervals, names),
        "kept": clinical.abstaining(doubt, error),
    }


def _plain(value: float) -> float | None:
    return value if isinstance(value, int) or math.isfinite(value) else None
