"""What a probe run leaves: a line for every example, a line for every study, and the scores."""

import csv
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from echojepa_jax.probes.examples import Example
from echojepa_jax.probes.metrics import class_scores, regression_scores, with_intervals
from echojepa_jax.probes.predict import Outputs, spread
from echojepa_jax.probes.task import Task, class_name
from echojepa_jax.utils.errors import UserError

PREDICTIONS, STUDIES, METRICS = "predictions.csv", "studies.csv", "metrics.json"

# (example or study, patient, label, prediction in the target's unit or probabilities)
Row = tuple[str, str, Any, Any]


def predictions(
    task: Task, examples: Sequence[Example], outputs: Outputs, present: np.ndarray
) -> tuple[list[dict[str, Any]], list[Row]]:
    """Lines of predictions.csv, and the readable ones as rows to score.

    Args:
      outputs: of `predict.with_slots`: [E, 1 + S, o]. present: bool [E, S].
    """
    decoded = task.decode(outputs.values)
    together, alone = decoded[:, 0], decoded[:, 1:]
    if task.kind == "classification":
        chosen = together.argmax(axis=-1)
        # How sure single clips are of the class that was chosen.
        alone = np.take_along_axis(alone, chosen[:, None, None], axis=2)[..., 0]
    spreads = spread(alone, present)
    lines, rows = [], []
    for i, example in enumerate(examples):
        line = {
            "id": example.name,
            "patient": example.patient,
            "study": example.study,
            "split": example.split,
            "view": example.view,
            "target": _label(task, example),
        }
        if error := outputs.errors[i]:
            lines.append(line | {"status": f"unreadable: {error}"})
            continue
        if task.kind == "regression":
            line["prediction"] = repr(float(together[i]))
        else:
            line["prediction"] = task.classes[chosen[i]]
            shares = zip(task.classes, together[i], strict=True)
            line |= {f"p_{name}": repr(float(share)) for name, share in shares}
        line["spread"] = "" if np.isnan(spreads[i]) else repr(float(spreads[i]))
        lines.append(line | {"status": "ok"})
        rows.append((example.name, example.patient, example.label, together[i]))
    return lines, rows


def _label(task: Task, example: Example) -> Any:
    if task.kind == "classification":
        return class_name(example.label, task.target)
    return repr(float(example.label))


def study_rows(
    task: Task, examples: Sequence[Example], rows: Sequence[Row]
) -> tuple[list[dict[str, Any]], list[Row]]:
    """Lines of studies.csv and rows to score: the mean over the videos of a study (method, 7).

    Raises:
      UserError: videos tell no study, or a study has two labels.
    """
    study_of = {(e.name, e.patient): e.study for e in examples}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        study = study_of[row[0], row[1]]
        if not study:
            raise UserError(f"{row[0]} tells no study: set config field 'eval.by_study' to False")
        groups.setdefault((study, row[1]), []).append(row)
    lines, result = [], []
    for (study, patient), members in groups.items():
        labels = {row[2] for row in members}
        if len(labels) > 1:
            raise UserError(
                f"study {study} has more than one {task.target}, {sorted(map(str, labels))}: set "
                "config field 'eval.by_study' to False"
            )
        mean = np.mean([row[3] for row in members], axis=0)
        result.append((study, patient, members[0][2], mean))
        said = task.classes[mean.argmax()] if task.classes else repr(float(mean))
        label = members[0][2]
        target = repr(float(label)) if task.kind == "regression" else class_name(label, task.target)
        lines.append(
            {
                "study": study,
                "patient": patient,
                "target": target,
                "prediction": said,
                "examples": len(members),
            }
        )
    return lines, result


def scores(task: Task, rows: Sequence[Row], resamples: int, seed: int) -> dict[str, Any]:
    """Scores with intervals, how many there were, and what knowing nothing would score."""
    patients = [row[1] for row in rows]
    predicted = np.array([row[3] for row in rows])
    intervals = partial(with_intervals, patients=patients, resamples=resamples, seed=seed)
    if task.kind == "regression":
        true = np.array([row[2] for row in rows], np.float64)
        scored = intervals(regression_scores, true, predicted)
        baseline = {"mae": float(np.abs(true - task.mean).mean())}
    else:
        true = task.encode([row[2] for row in rows])
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
    """A table that is whole or not there; cells that a line lacks are empty."""
    scratch = path.with_name(f".{path.name}.partial")
    with scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    os.replace(scratch, path)


def prediction_columns(task: Task) -> list[str]:
    """The header of predictions.csv."""
    known = ["id", "patient", "study", "split", "view", "target", "prediction", "spread", "status"]
    return known + [f"p_{name}" for name in task.classes]


STUDY_COLUMNS = ("study", "patient", "target", "prediction", "examples")
