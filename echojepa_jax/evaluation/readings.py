"""The clinical reading of a cell: what `probes.reading` tells of a probe, of a probe of a suite."""

import dataclasses
import functools
import json
from typing import Any

import numpy as np

from echojepa_jax.evaluation.cells import MEASURE, SEGMENTATION, Cell
from echojepa_jax.probes.distance import flag
from echojepa_jax.probes.reading import DOUBTS, reading, thresholds
from echojepa_jax.probes.results import cell_text
from echojepa_jax.probes.task import Task


@dataclasses.dataclass(frozen=True)
class Reading:
    """found: see `probes.reading.reading`. true, predicted: numbers [n] of a regression."""

    found: dict[str, Any]
    kind: str
    unit: str
    true: np.ndarray
    predicted: np.ndarray


def of_cell(cell: Cell, target: str, resamples: int, seed: int) -> Reading | None:
    """The reading of the test examples, with thresholds from validation; None if there is none.

    Args:
      target: label of the task. resamples, seed: of the bootstrap over patients.
    """
    if cell.kind in (MEASURE, SEGMENTATION) or not cell.ids:
        return None
    plain = dataclasses.replace(cell, variant={}, against=None)
    return _of_json(json.dumps(dataclasses.asdict(plain)), target, resamples, seed)


@functools.lru_cache
def _of_json(text: str, target: str, resamples: int, seed: int) -> Reading:
    """The reading of a cell, made once for all tasks that begin with the same probe: it takes
    seconds."""
    cell = Cell(**json.loads(text))
    is_number = cell.kind == "regression"
    mean = cell.guess if is_number else 0.0
    task = Task(cell.kind, target, mean, classes=tuple(cell.classes), unit=cell.unit)
    chosen = {}
    if is_number and cell.val_true:
        chosen = thresholds(task, np.array(cell.val_true), np.array(cell.val_predicted))
    facts = cell.patients, cell.views, cell.ages, cell.sexes, cell.true, cell.predicted
    unknown = [None] * len(cell.ids)
    doubts = {name: np.array(getattr(cell, name) or unknown, float) for name in DOUBTS}
    lines = []
    for i, (patient, view, age, sex, true, predicted) in enumerate(zip(*facts, strict=True)):
        line = {"status": "ok", "patient": patient, "view": view, "sex": sex}
        line |= {name: cell_text(values[i]) for name, values in doubts.items()}
        line |= {"age": cell_text(age), "flag": flag(doubts["distance"][i])}
        if is_number:
            line |= {"target": repr(true), "prediction": repr(predicted)}
        else:
            line["target"] = cell.classes[int(true)]
            line |= {f"p_{name}": repr(p) for name, p in zip(cell.classes, predicted, strict=True)}
        lines.append(line)
    numbers = (np.array(x if is_number else [], float) for x in (cell.true, cell.predicted))
    found = reading(task, lines, chosen, resamples, seed)
    found["not_scored"] += cell.not_scored
    return Reading(found, cell.kind, cell.unit, *numbers)
