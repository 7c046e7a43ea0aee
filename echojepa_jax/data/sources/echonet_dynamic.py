"""EchoNet-Dynamic: `FileList.csv` with one row per video, and the videos in `Videos/`.

The set has one video per patient, so the file's name is also the name of the patient.
"""

import logging
import os

import numpy as np

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources.tables import column_number, column_numbers, read_rows
from echojepa_jax.data.tracings import Tracing, of_outlines
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError

_TARGETS = {"EF": "ef", "ESV": "esv", "EDV": "edv"}
_UNITS = {"ef": "%", "esv": "ml", "edv": "ml"}

log = logging.getLogger(__name__)


def read(path: str, source: str) -> list[Sample]:
    """One sample per row of FileList.csv, even if its video is missing.

    Raises:
      UserError: FileList.csv or one of its columns is missing, or a target is not a number.
    """
    root = os.path.abspath(os.path.expanduser(path))
    table_path = os.path.join(root, "FileList.csv")
    samples = []
    for line, row in read_rows(table_path, required=["FileName", *_TARGETS, "Split"]):
        name = row["FileName"].removesuffix(".avi")
        if not name:
            raise UserError(f"{table_path}: column 'FileName' is empty in line {line}; fill it in")
        samples.append(
            Sample(
                name=name,
                path=os.path.join(root, "Videos", f"{name}.avi"),
                source=source,
                patient=name,
                split=row["Split"].lower(),
                targets=column_numbers(row, _TARGETS, f"line {line} of {table_path}"),
                units=_UNITS,
            )
        )
    _warn_of_unlisted(root, samples)
    return samples


def tracings(path: str, source: str) -> list[Tracing]:
    """The outlines of the LV in VolumeTracings.csv, at end diastole and end systole.

    The first row of a frame is the LV's long axis, the others are discs across it. As in the
    authors' code, the outline runs down one end of the discs and up the other; the axis is not a
    part of it.

    Raises:
      UserError: the table or one of its columns is missing, or a cell is not a number.
    """
    table_path = os.path.join(os.path.abspath(os.path.expanduser(path)), "VolumeTracings.csv")
    columns = ("X1", "Y1", "X2", "Y2")
    lines: dict[str, dict[int, list[list[float]]]] = {}
    for line, row in read_rows(table_path, required=["FileName", *columns, "Frame"]):
        where = f"line {line} of {table_path}"
        numbers = [column_number(row, column, where) for column in (*columns, "Frame")]
        if None in numbers:
            raise UserError(f"{where} has an empty cell; fill it in, or remove the video's lines")
        *ends, frame = (float(x) for x in numbers if x is not None)
        of_video = lines.setdefault(row["FileName"].removesuffix(".avi"), {})
        of_video.setdefault(int(frame), []).append(ends)
    return [
        tracing
        for name, frames in lines.items()
        for tracing in of_outlines(name, {k: _outline(np.array(v)) for k, v in frames.items()})
    ]


def _outline(lines: np.ndarray) -> np.ndarray:
    """Lines [n, 4] of a frame as an outline [2 (n - 1), 2]."""
    return np.concatenate([lines[1:, :2], lines[:0:-1, 2:]])


def _warn_of_unlisted(root: str, samples: list[Sample]) -> None:
    folder = os.path.join(root, "Videos")
    files = os.listdir(folder) if os.path.isdir(folder) else []
    there = {file for file in files if file.endswith(".avi")}
    if unlisted := len(there - {f"{sample.name}.avi" for sample in samples}):
        log.warning("%s: %s not in FileList.csv", folder, counted(unlisted, "unused video"))
