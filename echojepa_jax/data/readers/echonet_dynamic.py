"""EchoNet-Dynamic: `FileList.csv` with a row per video, the videos in `Videos/`.

The set has one video a patient, so the file's name stands for the patient.
"""

import logging
import os

from echojepa_jax.data.readers.tables import number, read_rows
from echojepa_jax.data.sample import Sample
from echojepa_jax.utils.errors import UserError

_TARGETS = {"EF": "ef", "ESV": "esv", "EDV": "edv"}  # percent, ml, ml

log = logging.getLogger(__name__)


def read(path: str, source: str) -> list[Sample]:
    """One sample per row of FileList.csv, whether its video is there or not.

    Raises:
      UserError: FileList.csv or one of its columns is missing, or a target is not a number.
    """
    root = os.path.abspath(os.path.expanduser(path))
    table_path = os.path.join(root, "FileList.csv")
    samples = []
    for line, row in read_rows(table_path, required=["FileName", *_TARGETS, "Split"]):
        name = row["FileName"].removesuffix(".avi")
        if not name:
            raise UserError(f"Line {line} of {table_path} has an empty column 'FileName'.")
        samples.append(
            Sample(
                name=name,
                path=os.path.join(root, "Videos", f"{name}.avi"),
                source=source,
                patient=name,
                split=row["Split"].lower(),
                targets=_targets(row, f"line {line} of {table_path}"),
            )
        )
    _warn_of_unlisted(root, samples)
    return samples


def _targets(row: dict[str, str], where: str) -> dict[str, float]:
    targets = {}
    for column, target in _TARGETS.items():
        try:
            value = number(row[column])
        except ValueError as error:
            raise UserError(f"Column {column!r} in {where} is {error}.") from error
        if value is not None:
            targets[target] = value
    return targets


def _warn_of_unlisted(root: str, samples: list[Sample]) -> None:
    folder = os.path.join(root, "Videos")
    there = (
        {f for f in os.listdir(folder) if f.endswith(".avi")} if os.path.isdir(folder) else set()
    )
    if unlisted := len(there - {f"{sample.name}.avi" for sample in samples}):
        log.warning("%s: %d videos are not in FileList.csv and are left out", folder, unlisted)
