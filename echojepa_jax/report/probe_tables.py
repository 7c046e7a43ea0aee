"""Reads a probe run's files about examples and heads, and makes tables for the report."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from echojepa_jax.report.measures import Metrics, Series
from echojepa_jax.report.page import without_folders

REGRESSION = "regression"


class Prediction(NamedTuple):
    """A line of predictions.csv or studies.csv.

    true, predicted: numbers of a regression, NaN if missing; always NaN for classes.
    target, prediction: the same numbers, or class names, as text.
    spread: standard deviation over clips; NaN if there are too few.
    certainty: probability of the true class; NaN if there are no probabilities.
    problem: why there is no prediction; "" if there is one.
    """

    id: str
    patient: str
    view: str
    target: str
    prediction: str
    true: float
    predicted: float
    spread: float
    certainty: float
    problem: str


class Head(NamedTuple):
    """A head of the grid: its best validation score and that epoch; NaN and 0 if there is none."""

    name: str
    best: float
    epoch: int
    chosen: bool


def read_predictions(path: Path, kind: str) -> list[Prediction]:
    """The lines of predictions.csv or studies.csv; empty if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [_prediction(row, kind) for row in csv.DictReader(file)]


def _prediction(row: Mapping[str, str | None], kind: str) -> Prediction:
    def text(name: str) -> str:
        return row.get(name) or ""

    numeric = kind == REGRESSION
    status = text("status") or "ok"
    name = text("id") if "id" in row else text("study")
    return Prediction(
        id=without_folders(name),
        patient=text("patient"),
        view=text("view"),
        target=text("target"),
        prediction=text("prediction"),
        true=_number(text("target")) if numeric else math.nan,
        predicted=_number(text("prediction")) if numeric else math.nan,
        spread=_number(text("spread")),
        certainty=_number(text(f"p_{text('target')}")),
        problem="" if status == "ok" else without_folders(status.removeprefix("unreadable: ")),
    )


def _number(text: str) -> float:
    return float(text) if text else math.nan


def worst(rows: Sequence[Prediction], kind: str, count: int) -> list[int]:
    """Numbers of the worst predictions, by error or by the true class's probability."""
    return _worst_first(rows, kind)[:count]


def best(rows: Sequence[Prediction], kind: str, count: int) -> list[int]:
    """Numbers of the best predictions, the best one first; at most half of them."""
    return _worst_first(rows, kind)[::-1][: min(count, len(rows) // 2)]


def _worst_first(rows: Sequence[Prediction], kind: str) -> list[int]:

    def badness(i: int) -> float:
        row = rows[i]
        if kind == REGRESSION:
            off = abs(row.predicted - row.true)
            return off if math.isfinite(off) else math.inf
        if math.isfinite(row.certainty):
            return -row.certainty
        return -float(row.prediction == row.target)

    return sorted(range(len(rows)), key=badness, reverse=True)


def classes_of(rows: Sequence[Prediction], known: Sequence[str]) -> list[str]:
    """The classes of the task in their order, then any others that occur."""
    seen = {row.target for row in rows} | {row.prediction for row in rows}
    return [*known, *sorted(seen - set(known))]


def by_head(metrics: Metrics, what: str) -> dict[str, Series]:
    """The series "what/<head>" of a run by head, in the order in which they were written."""
    prefix = what + "/"
    return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}


def grid(metrics: Metrics, chosen: str, kind: str) -> list[Head]:
    """All heads, the best first."""
    heads = []
    sign = 1 if kind == REGRESSION else -1
    for name, (epochs, values) in by_head(metrics, "val_score").items():
        order = np.where(np.isfinite(values), sign * values, np.inf)
        at = int(order.argmin())
        found = bool(np.isfinite(order[at]))
        best = float(values[at]) if found else math.nan
        heads.append(Head(name, best, int(epochs[at]) if found else 0, name == chosen))
    return sorted(heads, key=lambda head: sign * head.best if head.epoch else math.inf)
