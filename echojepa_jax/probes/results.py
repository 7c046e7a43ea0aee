"""Results of a probe run: a line for every example, a line for every study, and the scores."""

import csv
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from echojepa_jax.probes.distance import flag
from echojepa_jax.probes.examples import UNKNOWN, Example, Label
from echojepa_jax.probes.predict import Outputs, spreads
from echojepa_jax.probes.task import Task, class_name
from echojepa_jax.utils.bootstrap import with_intervals
from echojepa_jax.utils.file_names import as_unicode
from echojepa_jax.utils.files import whole
from echojepa_jax.utils.scores import class_scores, regression_scores

log = logging.getLogger(__name__)

# (example, prediction in the target's unit or probabilities)
Row = tuple[Example, Any]


def predictions(
    task: Task,
    examples: Sequence[Example],
    outputs: Outputs,
    present: np.ndarray,
    distances: np.ndarray | None = None,
) -> tuple[list[dict[str, Any]], list[Row]]:
    """Lines of predictions.csv, and the readable ones as rows to score.

    Args:
      outputs: of `predict.with_doubt`: [E, 1 + S (+ G), o].
      present: bool [E, S].
      distances: from the training data, [E], see `distance.Familiar`; None = not known.
    """
    decoded = task.decode(outputs.values)
    together = decoded[:, 0]
    of_slots, of_heads = spreads(decoded, present)
    far = np.full(len(examples), np.nan) if distances is None else distances
    lines, rows = [], []
    for i, example in enumerate(examples):
        line = {
            "id": example.name,
            "source": example.source,
            "patient": example.patient,
            "study": example.study,
            "split": example.split,
            "view": example.view,
            "age": cell_text(example.age),
            "sex": example.sex,
            "target": _label(task, example),
        }
        if error := outputs.errors[i]:
            lines.append(line | {"status": f"unreadable: {error}"})
            continue
        if task.kind == "regression":
            line["prediction"] = repr(float(together[i]))
        else:
            line["prediction"] = task.classes[together[i].argmax()]
            shares = zip(task.classes, together[i], strict=True)
            line |= {f"p_{name}": repr(float(share)) for name, share in shares}
        line |= {"spread": cell_text(of_slots[i]), "spread_heads": cell_text(of_heads[i])}
        line |= {"distance": cell_text(far[i]), "flag": flag(far[i])}
        lines.append(line | {"status": "ok"})
        rows.append((example, together[i]))
    return lines, rows


def cell_text(value: float | None) -> str:
    """A number with all digits; "" if it is not known."""
    return "" if value is None or np.isnan(value) else repr(float(value))


def _label(task: Task, example: Example) -> Any:
    if example.label == UNKNOWN:
        return ""
    if task.kind == "classification":
        return class_name(example.label, task.target)
    return repr(float(example.label))


def has_studies(examples: Sequence[Example], target: str) -> bool:
    """Whether means over studies can be reported; if not, the log states why.

    This is not possible if an example has no study, or if a study has two labels.
    """
    labels: dict[tuple[str, str], Label] = {}
    for example in examples:
        if not example.study:
            log.warning("means over studies are not reported: %s has no study", example.name)
            return False
        known = labels.setdefault((example.source, example.study), example.label)
        if known != example.label:
            log.warning(
                "means over studies are not reported: study %s has two values of %s, %s and %s",
                *(example.study, target, known, example.label),
            )
            return False
    return True


def study_rows(task: Task, rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[Row]]:
    """Lines of studies.csv and rows to score: the mean over the videos of a study.

    Args:
      rows: with examples that `has_studies` accepts.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row[0].source, row[0].study), []).append(row)
    lines, result = [], []
    for (_, study), members in groups.items():
        first, outputs = members[0][0], [output for _, output in members]
        mean = np.mean(outputs, axis=0)
        result.append((dataclasses.replace(first, name=study, view=""), mean))
        lines.append(
            {
                "study": study,
                "source": first.source,
                "patient": first.patient,
                "target": _label(task, first),
                "prediction": task.classes[mean.argmax()] if task.classes else repr(float(mean)),
                "majority": task.classes[majority(np.array(outputs))] if task.classes else "",
                "examples": len(members),
            }
        )
    return lines, result


def majority(shares: np.ndarray) -> int:
    """The class that most videos of a study show; of equally many, the more probable one.

    Args:
      shares: probabilities of the videos, [n, classes].
    """
    votes = np.bincount(shares.argmax(axis=1), minlength=shares.shape[1])
    return int(np.lexsort((shares.mean(axis=0), votes))[-1])


def majority_scores(
    lines: Sequence[Mapping[str, Any]], resamples: int, seed: int
) -> dict[str, dict[str, float | None]]:
    """Accuracy of the majority, with its interval, from lines of studies.csv."""
    right = np.array([line["majority"] == line["target"] for line in lines], float)

    def accuracy(right: np.ndarray, _: np.ndarray) -> dict[str, float]:
        return {"majority_accuracy": float(right.mean())}

    patients = [line["patient"] for line in lines]
    return with_intervals(accuracy, right, right, patients, resamples, seed)


def scores(task: Task, rows: Sequence[Row], resamples: int, seed: int) -> dict[str, Any]:
    """Scores with intervals, numbers of examples and patients, and a constant guess's score."""
    patients = [example.patient for example, _ in rows]
    predicted = np.array([output for _, output in rows])
    intervals = partial(with_intervals, patients=patients, resamples=resamples, seed=seed)
    if task.kind == "regression":
        true = np.array([example.label for example, _ in rows], np.float64)
        scored = intervals(regression_scores, true, predicted)
        baseline = {"mae": float(np.abs(true - task.mean).mean())}
    else:
        true = task.encode([example.label for example, _ in rows])
        scored = intervals(class_scores, true, predicted)
        guess = task.classes.index(task.commonest)
        baseline = {"accuracy": float(np.mean(true == guess))}
    return {
        "examples": len(rows),
        "patients": len(set(patients)),
        "scores": scored,
        "baseline": baseline,
    }


def write_csv(path: Path, columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes a complete table, or none; cells that a line lacks are empty.

    Bytes that are not text, such as in the name of a source, are escaped (utils/file_names.py).
    """
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for line in lines:
            cells = {k: as_unicode(v) if isinstance(v, str) else v for k, v in line.items()}
            writer.writerow(cells)


def prediction_columns(task: Task) -> list[str]:
    """The header of predictions.csv."""
    return [
        *("id", "source", "patient", "study", "split", "view", "age", "sex", "target"),
        *("prediction", "spread", "spread_heads", "distance", "flag", "status"),
        *(f"p_{name}" for name in task.classes),
    ]


STUDY_COLUMNS = ("study", "source", "patient", "target", "prediction", "majority", "examples")
