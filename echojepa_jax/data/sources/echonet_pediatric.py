"""EchoNet-Pediatric: one folder per view, each with `FileList.csv` and `Videos/`.

The set has folds 0 to 9. Options of the source choose the folds for validation and test:
"echonet_pediatric:/data/pediatric,val=1,test=0"; several folds are written as "8+9". Each view has
its own folds, and ",views=PSAX" reads one view with them. With both views, a patient's split is the
one of the first view.
"""

import dataclasses
import logging
import os
from collections import defaultdict
from typing import Any

import numpy as np

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources.options import split_options
from echojepa_jax.data.sources.tables import column_number, column_numbers, read_rows
from echojepa_jax.data.tracings import Tracing, of_outlines
from echojepa_jax.utils.errors import UserError

VIEWS = ("A4C", "PSAX")
_TARGETS = {"EF": "ef", "Age": "age", "Weight": "weight", "Height": "height"}
_UNITS = {"ef": "%", "age": "years", "weight": "kg", "height": "cm"}
_INNER = "pediatric_echo_avi"  # some copies contain this folder above the views

log = logging.getLogger(__name__)


def read(path: str, source: str) -> list[Sample]:
    """One sample per row of the views' FileList.csv, even if its video is missing.

    Raises:
      UserError: a view, table or column is missing, or a cell is not a number or a fold.
    """
    root, views, options = _opened(path, source)
    splits = _splits(options, source)
    samples = []
    for view in views:
        table = os.path.join(root, view, "FileList.csv")
        for line, row in read_rows(table, required=["FileName", "EF", "Split"]):
            where = f"line {line} of {table}"
            name = row["FileName"].removesuffix(".avi")
            fold = column_number(row, "Split", where)
            if not name or fold is None or fold not in range(10):
                raise UserError(
                    f"{table}: line {line} must have a name in 'FileName' and a fold, 0 to 9, in "
                    "'Split'"
                )
            samples.append(
                Sample(
                    name=f"{view}/{name}",
                    path=os.path.join(root, view, "Videos", f"{name}.avi"),
                    source=source,
                    patient=name,
                    view=view,
                    split=splits.get(int(fold), "train"),
                    targets=column_numbers(row, _TARGETS, where),
                    units=_UNITS,
                    classes={"sex": row["Sex"]} if row.get("Sex") else {},
                )
            )
    return _with_patients(samples)


def tracings(path: str, source: str) -> list[Tracing]:
    """The outlines of the LV in the views' VolumeTracings.csv, at end diastole and end systole.

    Frames that are no numbers, such as "No Systolic", are left out.

    Raises:
      UserError: as `read`, or a table of tracings is missing.
    """
    root, views, _ = _opened(path, source)
    found = []
    for view in views:
        table = os.path.join(root, view, "VolumeTracings.csv")
        points: dict[str, dict[Any, list[Any]]] = {}
        for line, row in read_rows(table, required=["FileName", "X", "Y", "Frame"]):
            where = f"line {line} of {table}"
            x, y = (column_number(row, column, where) for column in ("X", "Y"))
            frame = _frame(row["Frame"])
            if None not in (frame, x, y):
                of_video = points.setdefault(row["FileName"].removesuffix(".avi"), {})
                of_video.setdefault(frame, []).append([x, y])
        for name, frames in points.items():
            outlines = {frame: np.array(outline) for frame, outline in frames.items()}
            found += of_outlines(f"{view}/{name}", outlines)
    return found


def _frame(text: str) -> int | None:
    """The number of a frame; None if the cell is a text."""
    try:
        return int(float(text))
    except ValueError:
        return None


def _opened(path: str, source: str) -> tuple[str, list[str], dict[str, str]]:
    """The folder of the views, those that are wanted and there, and the other options."""
    path, options = split_options(path, {"val": "1", "test": "0", "views": "+".join(VIEWS)}, source)
    wanted = options.pop("views").split("+")
    if not set(wanted) <= set(VIEWS):
        raise UserError(
            f"source {source!r}: 'views' must be {' or '.join(VIEWS)}, or {'+'.join(VIEWS)}"
        )
    root = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(os.path.join(root, _INNER)):
        root = os.path.join(root, _INNER)
    views = [view for view in wanted if os.path.isdir(os.path.join(root, view))]
    if not views:
        raise UserError(
            f"source {source!r} has no folder {' or '.join(wanted)} in {root}: check the path"
        )
    return root, views, options


def _splits(options: dict[str, str], source: str) -> dict[int, str]:
    splits: dict[int, str] = {}
    for name, folds in options.items():
        for fold in folds.split("+"):
            if not fold.isdecimal() or int(fold) > 9 or int(fold) in splits:
                raise UserError(
                    f"source {source!r}: {name}={folds} must be folds from 0 to 9 joined by '+', "
                    "each used only once"
                )
            splits[int(fold)] = name
    return splits


def _with_patients(samples: list[Sample]) -> list[Sample]:
    """Names patients after files up to the last dash, unless the folds contradict this."""
    in_view: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sample in samples:
        in_view[sample.view, _stem(sample.patient)].add(sample.split)
    if apart := [stem for (_, stem), found in in_view.items() if len(found) > 1]:
        log.warning(
            "EchoNet-Pediatric: file names do not identify patients, because %d of them, such as "
            "%s, are in several splits of one view: each video counts as its own patient",
            *(len(apart), apart[0]),
        )
        return samples
    # One split for both views, or a patient could be in train with one and in test with the other.
    split_of: dict[str, str] = {}
    moved = set()
    for (_, stem), (split,) in in_view.items():
        if split_of.setdefault(stem, split) != split:
            moved.add(stem)
    if moved:
        log.warning(
            "EchoNet-Pediatric: %d of %d patients, such as %s, have different splits in the two "
            "views; their splits in %s are used (',views=PSAX' reads one view with its own splits)",
            *(len(moved), len(split_of), min(moved), samples[0].view),
        )
    return [
        dataclasses.replace(s, patient=_stem(s.patient), split=split_of[_stem(s.patient)])
        for s in samples
    ]


def _stem(name: str) -> str:
    return name.rpartition("-")[0] or name
