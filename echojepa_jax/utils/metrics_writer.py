"""Writes metrics to metrics.jsonl, one JSON object per line, and to TensorBoard."""

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from echojepa_jax.utils.files import whole

log = logging.getLogger(__name__)

FILE_NAME = "metrics.jsonl"

Values = Mapping[str, float | np.ndarray]


class MetricsWriter:
    """Appends numbers to `metrics.jsonl` in a workdir, and all values to TensorBoard events.

    Lines of steps after `last_step` are removed first: a resumed run writes them again.

    active: False = write nothing, as on all hosts except the first.
    """

    def __init__(
        self, workdir: Path, last_step: int, tensorboard: bool, active: bool = True
    ) -> None:
        self._file: TextIO | None = None
        self._tensorboard: Any = None
        if not active:
            return
        path = workdir / FILE_NAME
        kept = [line for line in read_lines(path) if line["step"] <= last_step]
        with whole(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        self._tensorboard = _tensorboard_writer(workdir) if tensorboard else None

    def write(self, step: int, values: Values) -> None:
        """Writes the numbers as one line, and everything to TensorBoard.

        Args:
          values: numbers (a number that is not finite is written as null), and pictures, uint8
            [n, H, W, 3], for TensorBoard only.
        """
        if self._file is None:
            return
        pictures = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
        numbers = {k: float(v) for k, v in values.items() if k not in pictures}
        finite = {k: v for k, v in numbers.items() if math.isfinite(v)}
        if numbers:
            line = {"step": step, "time": time.time()} | {k: finite.get(k) for k in numbers}
            self._file.write(json.dumps(line) + "\n")
        if self._tensorboard:
            self._tensorboard.write_scalars(step, finite)
            self._tensorboard.write_images(step, pictures)

    def close(self) -> None:
        if self._file:
            self._file.close()
        if self._tensorboard:
            self._tensorboard.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file such as metrics.jsonl; none if it does not exist.

    Incomplete lines, such as the last line of a killed process, are left out.
    """
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            log.warning("%s: left out an incomplete line", path)
    return lines


def _tensorboard_writer(workdir: Path) -> Any | None:
    try:
        # Imported late: it brings in TensorFlow, which takes seconds.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else it logs a line about rounding
        from clu import metric_writers
    except ImportError as error:
        log.warning("no TensorBoard events (%s); metrics are in %s", error, FILE_NAME)
        return None
    return metric_writers.SummaryWriter(str(workdir))
