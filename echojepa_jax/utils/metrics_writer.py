"""Where metrics go: metrics.jsonl with an object a line, and TensorBoard."""

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
    """Appends numbers to `metrics.jsonl` of a workdir, and all values to TensorBoard events.

    Lines of steps after `last_step` are taken out first: a resumed run writes them again.

    active: False writes nothing, on all hosts but one.
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
          values: numbers, of which those that are not finite are written as null; and pictures,
            uint8 [n, H, W, 3], for TensorBoard only.
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
    """The lines of a file such as metrics.jsonl, none if it is not there.

    A last line that was cut off by a kill is left out.
    """
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            log.warning("%s: left out a line that is cut off", path)
    return lines


def _tensorboard_writer(workdir: Path) -> Any | None:
    try:
        # Imported late: it brings in TensorFlow, which takes seconds.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # only talks about rounding
        from clu import metric_writers
    except ImportError as error:
        log.warning("no TensorBoard events (%s); metrics are in %s", error, FILE_NAME)
        return None
    return metric_writers.SummaryWriter(str(workdir))
