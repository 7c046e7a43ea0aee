"""A cell: what one probe predicted for the test examples of a task, or a measure of features.

Everything in the tables is computed from cells. They are kept on disk, so that scores, intervals
and tables can be made again without training.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echojepa_jax.evaluation.data import Divided
from echojepa_jax.evaluation.doubts import doubts
from echojepa_jax.evaluation.fit import Fitted, predict
from echojepa_jax.probes.examples import Example
from echojepa_jax.probes.predict import Features
from echojepa_jax.probes.reading import DOUBTS, cutoffs
from echojepa_jax.probes.results import majority
from echojepa_jax.probes.task import Task
from echojepa_jax.utils.files import whole

MEASURE, SEGMENTATION = "measure", "segmentation"


@dataclasses.dataclass(frozen=True)
class Cell:
    """Predictions of one trained probe, with all that scores need.

    variant: what distinguishes it in the table of its task, such as {"head": "linear"}.
    kind: "regression", "classification", SEGMENTATION, or MEASURE for numbers that need no labels.
    ids, patients, studies, views: of the examples that could be read. true: numbers, or class
    numbers. predicted: numbers, NaN if there is none; or the probabilities of all classes; or the
    class number that a study's majority votes for. guess: the same for every example, of a model
    that knows nothing but the training labels. not_scored: test examples that have no label or
    cannot be read. chosen: the head of the grid. against: the variant that this one is compared
    with; None = none. measures: numbers by name, of MEASURE.
    cutoffs: values below which examples are detected, of an ejection fraction. ages, sexes: of the
    patients; None and "" if unknown. In the cell whose clinical reading the report shows: val_true,
    val_predicted of the validation examples; spread, spread_heads, distance of the test examples,
    see `doubts`.

    Of SEGMENTATION, an example is a frame, `true` is empty, and `predicted` and `guess` have the
    measures `scores.MASKS` of each frame. pictures: masks of a few test frames, for the report.
    """

    variant: dict[str, str]
    kind: str
    unit: str = ""
    classes: list[str] = dataclasses.field(default_factory=list)
    ids: list[str] = dataclasses.field(default_factory=list)
    patients: list[str] = dataclasses.field(default_factory=list)
    studies: list[str] = dataclasses.field(default_factory=list)
    views: list[str] = dataclasses.field(default_factory=list)
    true: list[float] = dataclasses.field(default_factory=list)
    predicted: list[Any] = dataclasses.field(default_factory=list)
    guess: Any = None
    not_scored: int = 0
    chosen: dict[str, Any] = dataclasses.field(default_factory=dict)
    against: dict[str, str] | None = None
    measures: dict[str, float] = dataclasses.field(default_factory=dict)
    cutoffs: list[float] = dataclasses.field(default_factory=list)
    pictures: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    ages: list[float | None] = dataclasses.field(default_factory=list)
    sexes: list[str] = dataclasses.field(default_factory=list)
    val_true: list[float] = dataclasses.field(default_factory=list)
    val_predicted: list[Any] = dataclasses.field(default_factory=list)
    spread: list[float | None] = dataclasses.field(default_factory=list)
    spread_heads: list[float | None] = dataclasses.field(default_factory=list)
    distance: list[float | None] = dataclasses.field(default_factory=list)


def of_predictions(
    variant: dict[str, str],
    fitted: Fitted,
    examples: Sequence[Example],
    predicted: np.ndarray,
    readable: np.ndarray,
    not_scored: int,
    against: dict[str, str] | None = None,
) -> Cell:
    """A cell of the test examples; those that could not be read are counted.

    Args:
      predicted: [E] or [E, classes]. readable: bool [E].
      not_scored: number of further test examples, which cannot be scored either.
    """
    task = fitted.task
    rows = np.flatnonzero(readable).tolist()
    read = [examples[row] for row in rows]
    return Cell(
        variant=variant,
        kind=task.kind,
        unit=task.unit,
        classes=list(task.classes),
        ids=[example.name for example in read],
        patients=[f"{example.source}#{example.patient}" for example in read],
        studies=[example.study for example in read],
        views=[example.view for example in read],
        true=_true(task, read),
        predicted=predicted[rows].tolist(),
        guess=guess_of(task),
        not_scored=int(np.count_nonzero(~readable)) + not_scored,
        chosen=fitted.chosen,
        against=against,
        cutoffs=list(cutoffs(task)),
        ages=[example.age for example in read],
        sexes=[example.sex for example in read],
    )


def of_test(
    variant: dict[str, str],
    fitted: Fitted,
    features: Features,
    parts: Divided,
    size: int,
    against: dict[str, str] | None = None,
    *,
    validation: bool = False,
) -> Cell:
    """A cell of what a head predicts for the test examples.

    Args:
      size: of a batch. validation: add what the clinical reading needs: predictions for the
        validation examples that can be read, and `doubts`.
    """
    found, scored = predict(fitted, features, parts.test, size)
    cell = of_predictions(variant, fitted, parts.test, found, scored, parts.not_scored, against)
    if not validation:
        return cell
    predicted, readable = predict(fitted, features, parts.val, size)
    rows = np.flatnonzero(readable).tolist()
    true = _true(fitted.task, [parts.val[row] for row in rows])
    told = {"val_true": true, "val_predicted": predicted[rows].tolist()}
    for name, values in doubts(fitted, features, parts).items():
        told[name] = [None if np.isnan(value) else float(value) for value in values[scored]]
    return dataclasses.replace(cell, **told)


def _true(task: Task, examples: Sequence[Example]) -> list[float]:
    """Labels as they are (F15), or class numbers."""
    labels = [example.label for example in examples]
    if task.kind == "regression":
        return [float(label) for label in labels]
    return task.encode(labels).tolist()


def guess_of(task: Task) -> Any:
    """The mean of the training labels, or certainty of the commonest class."""
    if task.kind == "regression":
        return task.mean
    return [float(name == task.commonest) for name in task.classes]


def of_studies(cell: Cell, variant: dict[str, str], vote: bool = False) -> Cell:
    """The cell with the mean over the examples of every study, of values or probabilities.

    An example without a study, or of a study with two labels, counts as not scored.

    Args:
      vote: the class that most examples of the study show instead, see `results.majority`.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for row, (patient, study) in enumerate(zip(cell.patients, cell.studies, strict=True)):
        groups.setdefault((patient, study), []).append(row)
    usable = {
        key: rows
        for key, rows in groups.items()
        if key[1] and len({cell.true[row] for row in rows}) == 1
    }
    first = [rows[0] for rows in usable.values()]
    predicted = np.array(cell.predicted)
    of_study = [predicted[rows] for rows in usable.values()]
    return dataclasses.replace(
        cell,
        variant=variant,
        ids=[study for _, study in usable],
        patients=[patient for patient, _ in usable],
        studies=[study for _, study in usable],
        views=["" for _ in usable],
        ages=[cell.ages[row] for row in first],
        sexes=[cell.sexes[row] for row in first],
        true=[cell.true[row] for row in first],
        predicted=[majority(found) if vote else found.mean(axis=0).tolist() for found in of_study],
        guess=int(np.argmax(cell.guess)) if vote else cell.guess,
        not_scored=cell.not_scored + sum(len(groups[key]) for key in groups.keys() - usable.keys()),
        val_true=[],
        val_predicted=[],
        spread=[],
        spread_heads=[],
        distance=[],
    )


def without(cell: Cell, examples: Collection[tuple[str, str]]) -> Cell:
    """The cell without some examples, (patient, id), which count as not scored."""
    names = list(zip(cell.patients, cell.ids, strict=True))
    kept = [row for row, name in enumerate(names) if name not in examples]
    columns = ("ids", "patients", "studies", "views", "true", "predicted", "ages", "sexes", *DOUBTS)
    cut: dict[str, Any] = {
        name: [column[row] for row in kept]
        for name in columns
        if (column := getattr(cell, name))  # not all cells have all columns
    }
    return dataclasses.replace(cell, not_scored=cell.not_scored + len(names) - len(kept), **cut)


def write(path: Path, cells: Sequence[Cell], facts: Mapping[str, Any]) -> None:
    """Writes the cells of a task, a model and a seed; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(json.dumps({**facts, "cells": [dataclasses.asdict(c) for c in cells]}))


def read(path: Path, facts: Mapping[str, Any]) -> list[Cell] | None:
    """The cells of a file; None if it is not there, damaged, or was made of other facts."""
    try:
        found = json.loads(path.read_text())
        cells = [Cell(**cell) for cell in found.pop("cells")]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cells if found == json.loads(json.dumps(facts)) else None
