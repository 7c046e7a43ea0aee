"""EchoNet-Pediatric: a folder per view, each with `FileList.csv` and `Videos/`.

Splits are folds 0 to 9; which of them validate and test is an option of the source:
"echonet_pediatric:/data/pediatric,val=1,test=0", several folds as "8+9". Each view has folds of its
own; ",views=PSAX" reads one view by them. Of both, a patient is where the first view puts it.
"""

import dataclasses
import logging
import os
from collections import defaultdict

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources.options import split_options
from echojepa_jax.data.sources.tables import column_number, read_rows
from echojepa_jax.utils.errors import UserError

VIEWS = ("A4C", "PSAX")
_TARGETS = {"EF": "ef", "Age": "age", "Weight": "weight", "Height": "height"}
_UNITS = {"ef": "%", "age": "years", "weight": "kg", "height": "cm"}
_INNER = "pediatric_echo_avi"  # some copies have one folder more

log = logging.getLogger(__name__)


def read(path: str, source: str) -> list[Sample]:
    """One sample per row of the views' FileList.csv, whether its video is there or not.

    Raises:
      UserError: no view, a table or a column is missing, or a number or fold is none.
    """
    path, options = split_options(path, {"val": "1", "test": "0", "views": "+".join(VIEWS)}, source)
    asked = options.pop("views").split("+")
    if not set(asked) <= set(VIEWS):
        raise UserError(
            f"Source {source!r}: views must be {' or '.join(VIEWS)}, or {'+'.join(VIEWS)}."
        )
    root = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(os.path.join(root, _INNER)):
        root = os.path.join(root, _INNER)
    views = [view for view in asked if os.path.isdir(os.path.join(root, view))]
    if not views:
        raise UserError(f"Source {source!r}: there is no folder {' or '.join(asked)} in {root}.")
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
                    f"Columns 'FileName' and 'Split' in {where} need a name and 0 to 9."
                )
            values = {
                target: column_number(row, column, where)
                for column, target in _TARGETS.items()
                if column in row
            }
            samples.append(
                Sample(
                    name=f"{view}/{name}",
                    path=os.path.join(root, view, "Videos", f"{name}.avi"),
                    source=source,
                    patient=name,
                    view=view,
                    split=splits.get(int(fold), "train"),
                    targets={key: value for key, value in values.items() if value is not None},
                    units=_UNITS,
                )
            )
    return _with_patients(samples)


def _splits(options: dict[str, str], source: str) -> dict[int, str]:
    splits: dict[int, str] = {}
    for name, folds in options.items():
        for fold in folds.split("+"):
            if not fold.isdecimal() or int(fold) > 9 or int(fold) in splits:
                raise UserError(
                    f"Source {source!r}: {name}={folds} must be folds from 0 to 9 joined by '+', "
                    "none of them used twice."
                )
            splits[int(fold)] = name
    return splits


def _with_patients(samples: list[Sample]) -> list[Sample]:
    """The name up to its last dash stands for the patient, unless folds of a view say otherwise."""
    in_view: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sample in samples:
        in_view[sample.view, _stem(sample.patient)].add(sample.split)
    if apart := [stem for (_, stem), found in in_view.items() if len(found) > 1]:
        log.warning(
            "names of EchoNet-Pediatric do not tell patients (%d, such as %s, are in several "
            "splits of one view): each video is one by itself",
            *(len(apart), apart[0]),
        )
        return samples
    # Of both views, or one person could be learnt from in one and tested in the other.
    split_of: dict[str, str] = {}
    moved = set()
    for (_, stem), (split,) in in_view.items():
        if split_of.setdefault(stem, split) != split:
            moved.add(stem)
    if moved:
        log.warning(
            "EchoNet-Pediatric: %d of %d patients, such as %s, have other splits in one view than "
            "in the other; theirs in %s counts (',views=PSAX' reads one view by its own)",
            *(len(moved), len(split_of), min(moved), samples[0].view),
        )
    return [
        dataclasses.replace(s, patient=_stem(s.patient), split=split_of[_stem(s.patient)])
        for s in samples
    ]


def _stem(name: str) -> str:
    return name.rpartition("-")[0] or name
