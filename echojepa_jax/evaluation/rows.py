"""From cells to rows of tables: a row for each variant of a task and each model, with intervals."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data.clips.perturbations import RECODED
from echojepa_jax.evaluation import scores
from echojepa_jax.evaluation.cells import MEASURE, SEGMENTATION, Cell, without
from echojepa_jax.evaluation.tasks.robustness import CLEAN, PAPER

Interval = tuple[float, float, float]
"""A value and its 95 % interval; NaN where it is not defined."""

GUESS = {
    "regression": "mean of training",
    "classification": "commonest class",
    SEGMENTATION: "mean mask of training",
}
"""The name of the row of a model that knows nothing but the training labels."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a task's table.

    values: every score; main: the name of the main one. difference: of the main score from that of
    the first model. change: from that of the variant that this one is compared with. spread:
    standard deviation of the main score over seeds (n - 1); NaN of one seed. examples, patients,
    not_scored: of the test split. failed: examples for which this model has no number; no model is
    scored on them.
    """

    task: str
    variant: Mapping[str, str]
    model: str
    kind: str
    unit: str
    values: Mapping[str, Interval]
    difference: Interval | None
    change: Interval | None
    spread: float
    examples: int
    patients: int
    not_scored: int
    failed: int
    seeds: int
    main: str


Found = Mapping[str, Sequence[Sequence[Cell]]]
"""Cells of a task: by model, then by seed."""


def _key(variant: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple((variant or {}).items())


def of_task(task: str, options: ConfigDict, found: Found, count: int, seed: int) -> list[Row]:
    """The rows of a task: for each variant every model, then the guess.

    Args:
      found: the first model is the one that others are compared with.
      count: resamples of patients.
    """
    of_model: dict[tuple, dict[str, list[Cell]]] = {}
    for model, by_seed in found.items():
        for of_seed in zip(*by_seed, strict=True):
            of_model.setdefault(_key(of_seed[0].variant), {})[model] = list(of_seed)
    failed = {
        (variant, model): len({example for cell in mine for example in _failed(cell)})
        for variant, by_model in of_model.items()
        for model, mine in by_model.items()
    }
    cells = {variant: _comparable(by_model) for variant, by_model in of_model.items()}
    every = [cell for by_model in cells.values() for mine in by_model.values() for cell in mine]
    patients = sorted({patient for cell in every for patient in cell.patients})
    weights = scores.resamples(patients, count, seed, task)
    scored = {
        variant: {
            model: scores.over_seeds(
                [scores.scores(cell, cell.predicted, patients, weights) for cell in mine]
            )
            for model, mine in by_model.items()
        }
        for variant, by_model in cells.items()
    }
    for variant, by_model in cells.items():
        first = next(iter(by_model.values()))
        if first[0].kind != MEASURE:
            # A guess comes from the training labels: it is the same for every model.
            everybody = [scores.scores(c, _guesses(c), patients, weights) for c in first]
            name = GUESS[first[0].kind]
            scored[variant][name] = scores.over_seeds(everybody)
            by_model[name] = first
    rows = []
    for variant, by_model in cells.items():
        for model, mine in by_model.items():
            lost = failed.get((variant, model), 0)
            rows.append(_row(task, variant, model, mine, scored, next(iter(found)), lost))
    if options.kind == "robustness":
        rows += _average_degradation(rows, scored)
    return rows


def _failed(cell: Cell) -> set[tuple[str, str]]:
    """The examples that could be read, but for which a regression has no number."""
    if cell.kind != "regression":
        return set()
    rows = np.flatnonzero(np.isnan(np.array(cell.predicted, float)))
    return {(cell.patients[row], cell.ids[row]) for row in rows}


def _comparable(by_model: Mapping[str, Sequence[Cell]]) -> dict[str, list[Cell]]:
    """The cells of a variant without the examples for which any model has no number.

    Else a model would look better that fails where it is difficult, and differences between models
    would not be paired.
    """
    failed = {example for mine in by_model.values() for cell in mine for example in _failed(cell)}
    return {
        model: [without(cell, failed) if failed else cell for cell in mine]
        for model, mine in by_model.items()
    }


def _guesses(cell: Cell) -> Sequence[Any]:
    """The guess for every example; that of masks has scores which differ from frame to frame."""
    return cell.guess if cell.kind == SEGMENTATION else [cell.guess] * len(cell.true)


def _row(
    task: str,
    variant: tuple,
    model: str,
    mine: Sequence[Cell],
    scored: Mapping[tuple, Mapping[str, Mapping[str, np.ndarray]]],
    first: str,
    failed: int,
) -> Row:
    cell, values = mine[0], scored[variant][model]
    main = scores.MAIN[cell.kind]
    against = _key(cell.against)
    difference = change = None
    if model != first and cell.kind != MEASURE:
        difference = scores.interval(values[main] - scored[variant][first][main])
    if against:
        change = scores.interval(values[main] - scored[against][model][main])
    spread = math.nan
    if cell.kind != MEASURE and model not in GUESS.values() and len(mine) > 1:
        spread = float(np.std([_score(c, main) for c in mine], ddof=1))
    return Row(
        task,
        dict(variant),
        model,
        cell.kind,
        cell.unit,
        {name: scores.interval(value) for name, value in values.items()},
        difference,
        change,
        spread,
        len(cell.patients),
        len(set(cell.patients)),
        cell.not_scored,
        failed,
        len(mine),
        main,
    )


def _score(cell: Cell, name: str) -> float:
    """A score of one seed."""
    patients = sorted(set(cell.patients))
    everybody = np.ones((1, len(patients)))
    return float(scores.scores(cell, cell.predicted, patients, everybody)[name][0])


def _average_degradation(
    rows: Sequence[Row], scored: Mapping[tuple, Mapping[str, Mapping[str, np.ndarray]]]
) -> list[Row]:
    """Mean over degradations of MAE / MAE of clean videos - 1, in percent: of the paper's, of all.

    A model that answers nearly the same for every video cannot get worse: see the changes.
    """
    clean = _key(CLEAN)
    controls = CLEAN["perturbation"], RECODED
    degraded = [v for v in scored if dict(v)["perturbation"] not in controls]
    papers = [v for v in degraded if dict(v)["perturbation"] in PAPER]
    found = []
    for name, chosen in (("mean of the paper's kinds", papers), ("mean of all kinds", degraded)):
        for row in (row for row in rows if _key(row.variant) == clean):
            ratios = [scored[v][row.model]["mae"] / scored[clean][row.model]["mae"] for v in chosen]
            if not ratios:
                continue
            average = 100 * (np.mean(ratios, axis=0) - 1)
            found.append(
                dataclasses.replace(
                    row,
                    variant={"perturbation": name, "severity": "all"},
                    kind=MEASURE,
                    unit="%",
                    values={"degradation": scores.interval(average)},
                    difference=None,
                    change=None,
                    spread=math.nan,
                    main="degradation",
                )
            )
    return found
