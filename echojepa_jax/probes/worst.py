"""Pictures of the examples that a probe predicts worst, for its report."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echojepa_jax.data.formats import decode
from echojepa_jax.data.sample import Sample
from echojepa_jax.masking.pictures import side_by_side
from echojepa_jax.probes.results import Row
from echojepa_jax.probes.task import Task

log = logging.getLogger(__name__)

COUNT, FRAMES, SIDE = 12, 3, 112


def badness(task: Task, rows: Sequence[Row]) -> np.ndarray:
    """How bad each prediction is [n]: its error, or minus the true class's probability."""
    labels = [example.label for example, _ in rows]
    predicted = np.array([prediction for _, prediction in rows])
    if task.kind == "classification":
        return -predicted[np.arange(len(rows)), task.encode(labels)]
    error = np.abs(predicted - np.array(labels, np.float64))
    return np.where(np.isfinite(error), error, np.inf)


def save_worst(path: Path, task: Task, rows: Sequence[Row], samples: Sequence[Sample]) -> None:
    """Writes a picture of each of the worst examples, the worst one first.

    The file contains "rows" int [n], numbers of the readable lines of predictions.csv from 0, and
    "picture_K" for K in 0..n-1, uint8 [h, w, 3]: frames from the video's beginning, middle and end.

    Args:
      rows: examples and predictions, in the order of predictions.csv.
      samples: the videos, to which the examples refer by number.
    """
    worst = np.argsort(-badness(task, rows), kind="stable")[:COUNT]
    pictures, shown = [], []
    for row in worst:
        sample = samples[next(videos[0] for videos in rows[row][0].rows if videos)]
        ids = np.unique(np.linspace(0, sample.frames - 1, FRAMES).astype(int))
        try:
            pictures.append(side_by_side(decode.decode(sample.path, ids), SIDE))
        except decode.UnreadableVideo as error:
            # Another video of the study was read, or the file has just disappeared.
            log.info("the report has no picture of %s: %s", sample.name, error)
            continue
        shown.append(row)
    arrays: dict[str, Any] = {f"picture_{k}": picture for k, picture in enumerate(pictures)}
    np.savez_compressed(path, rows=np.array(shown, int), **arrays)
