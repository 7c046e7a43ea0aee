"""Small films of the examples that a probe predicts worst and best, as strips of frames."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echojepa_jax.data.formats import decode
from echojepa_jax.data.sample import Sample
from echojepa_jax.masking.pictures import side_by_side
from echojepa_jax.probes.results import Row
from echojepa_jax.probes.task import Task

log = logging.getLogger(__name__)

COUNT, BEST_COUNT = 12, 4
FRAMES, SIDE = 8, 112
SECONDS = 1.0  # about a beat: frames that are spread over many beats show no motion


def badness(task: Task, rows: Sequence[Row]) -> np.ndarray:
    """How bad each prediction is [n]: its error, or minus the true class's probability."""
    labels = [example.label for example, _ in rows]
    predicted = np.array([prediction for _, prediction in rows])
    if task.kind == "classification":
        return -predicted[np.arange(len(rows)), task.encode(labels)]
    error = np.abs(predicted - np.array(labels, np.float64))
    return np.where(np.isfinite(error), error, np.inf)


def save_worst(path: Path, task: Task, rows: Sequence[Row], samples: Sequence[Sample]) -> None:
    """Writes strips of the worst examples, the worst one first, and of the best ones.

    The file contains "rows" int [n], numbers of the readable lines of predictions.csv from 0, and
    "picture_K" for K in 0..n-1, uint8 [h, w, 3], see `strip_of`; and for the best examples
    "best_rows" and "best_picture_K". (Files of earlier versions have no best examples.)

    Args:
      rows: examples and predictions, in the order of predictions.csv.
      samples: the videos, to which the examples refer by number.
    """
    order = np.argsort(-badness(task, rows), kind="stable")
    best = order[::-1][: min(BEST_COUNT, len(order) // 2)]
    arrays: dict[str, Any] = {}
    for prefix, chosen in (("", order[:COUNT]), ("best_", best)):
        shown: list[int] = []
        for row in chosen:
            sample = samples[next(videos[0] for videos in rows[row][0].rows if videos)]
            picture = strip_of(sample)
            if picture is not None:
                arrays[f"{prefix}picture_{len(shown)}"] = picture
                shown.append(row)
        arrays[f"{prefix}rows"] = np.array(shown, int)
    np.savez_compressed(path, **arrays)


Strips = list[tuple[int, np.ndarray]]
"""Numbers of readable lines of predictions.csv from 0, each with its picture, uint8 [h, w, 3]."""


def read_worst(path: Path) -> tuple[Strips, Strips]:
    """What `save_worst` wrote of the worst and of the best examples; empty if there is no file."""
    if not path.exists():
        return [], []
    with np.load(path) as file:
        return _strips(file, ""), _strips(file, "best_")


def _strips(file: Mapping[str, np.ndarray], prefix: str) -> Strips:
    rows = file.get(f"{prefix}rows", np.array([]))
    return [(int(row), file[f"{prefix}picture_{k}"]) for k, row in enumerate(rows)]


def strip_of(sample: Sample) -> np.ndarray | None:
    """Frames of a video's first second side by side, or of all of it if its frame rate is unknown.

    Returns:
      uint8 [h, w, 3]; None if the video cannot be decoded.
    """
    last = sample.frames - 1
    if sample.fps:
        last = min(last, round(SECONDS * sample.fps))
    ids = np.unique(np.linspace(0, last, FRAMES).astype(int))
    try:
        return side_by_side(decode.decode(sample.path, ids), SIDE)
    except decode.UnreadableVideo as error:
        # Another video of the study was read, or the file has just disappeared.
        log.info("the report has no picture of %s: %s", sample.name, error)
        return None
