"""EchoNet-LVH: `MeasurementsList.csv` with a row per measurement, videos in `Batch1/` to `Batch4`.

The labels of a video are the means of its measurements IVSd, LVIDd, LVPWd and LVIDs in cm.
"""

import logging
import os
from collections import defaultdict

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources.tables import column_number, read_rows
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError

_UNITS = {"ivsd": "cm", "lvidd": "cm", "lvpwd": "cm", "lvids": "cm"}
_COLUMNS = ["HashedFileName", "Calc", "CalcValue", "split"]

log = logging.getLogger(__name__)


def read(path: str, source: str) -> list[Sample]:
    """One sample per measured video, even if its file is missing; the view is PLAX.

    Raises:
      UserError: the table or a column is missing, a value is not a number, or a video has two
        splits.
    """
    root = os.path.abspath(os.path.expanduser(path))
    table = os.path.join(root, "MeasurementsList.csv")
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    splits: dict[str, str] = {}
    for line, row in read_rows(table, required=_COLUMNS):
        where = f"line {line} of {table}"
        name, split = row["HashedFileName"].removesuffix(".avi"), row["split"].lower()
        if not name:
            raise UserError(f"{table}: column 'HashedFileName' is empty in line {line}; fill it in")
        if splits.setdefault(name, split) != split:
            raise UserError(
                f"{where}: {name} is in split {split!r}, and in {splits[name]!r} in an earlier "
                "line; use one split"
            )
        value = column_number(row, "CalcValue", where)
        if value is not None and row["Calc"].lower() in _UNITS:
            values[name][row["Calc"].lower()].append(value)
    files = _files(root)
    if unlisted := len(set(files) - set(splits)):
        log.warning("%s: %s not in MeasurementsList.csv", root, counted(unlisted, "unused video"))
    return [
        Sample(
            name=name,
            path=files.get(name, os.path.join(root, "Batch1", f"{name}.avi")),
            source=source,
            patient=name,
            view="PLAX",
            split=split,
            targets={key: sum(found) / len(found) for key, found in values[name].items()},
            units=_UNITS,
        )
        for name, split in splits.items()
    ]


def _files(root: str) -> dict[str, str]:
    """The videos of all batches, by name."""
    found = {}
    for folder in sorted(os.listdir(root)):
        path = os.path.join(root, folder)
        if folder.startswith("Batch") and os.path.isdir(path):
            for file in os.listdir(path):
                if file.endswith(".avi"):
                    found[file.removesuffix(".avi")] = os.path.join(path, file)
    return found
