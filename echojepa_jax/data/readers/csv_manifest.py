"""A CSV manifest: a header, then a row per video.

The column `path` is needed; name, patient, study, view and split are understood, in any case; any
other column
whose cells are all numbers (or empty) is a target. A row's labels belong to its file alone, so the
order of rows has no meaning.
"""

import logging
import os
import re

from echojepa_jax.data.readers.tables import file_of, number, read_rows
from echojepa_jax.data.sample import Sample
from echojepa_jax.utils.errors import UserError

_TEXTS = ("patient", "study", "view", "split")
_KNOWN = ("path", "name", *_TEXTS)
_PEOPLE = re.compile("patient|subject|mrn", re.IGNORECASE)

log = logging.getLogger(__name__)


def read(path: str, source: str) -> list[Sample]:
    """One sample per row; relative paths start at the manifest's folder.

    Raises:
      UserError: the table cannot be read, has no column `path`, or a row has no path.
    """
    path = os.path.abspath(os.path.expanduser(path))
    table = read_rows(path, required=["path"], any_case=_KNOWN)
    rows = [row for _, row in table]
    targets = _targets(path, table)
    columns = list(rows[0]) if rows else []
    people = [column for column in columns if _PEOPLE.search(column)]
    if people and "patient" not in columns:
        log.warning(
            "%s: column %r is not taken for the patient; call it 'patient'", path, people[0]
        )
    for line, row in table:
        if not row["path"]:
            raise UserError(f"Line {line} of {path} has an empty column 'path'.")
    folder = os.path.dirname(path)
    files = [file_of(row["path"], folder) for row in rows]
    return [
        Sample(
            name=row.get("name") or name,
            path=file,
            source=source,
            patient=row.get("patient", ""),
            study=row.get("study", ""),
            view=row.get("view", ""),
            split=row.get("split", "").lower(),
            targets=labels,
        )
        for (name, file), row, labels in zip(files, rows, targets, strict=True)
    ]


def _targets(path: str, table: list[tuple[int, dict[str, str]]]) -> list[dict[str, float]]:
    """Each row's numbers, of the columns that hold nothing else; the log names the others."""
    targets: list[dict[str, float]] = [{} for _ in table]
    ignored = []
    for column in [c for c in (table[0][1] if table else ()) if c not in _KNOWN]:
        values = []
        for line, row in table:
            try:
                values.append(number(row[column]))
            except ValueError:
                ignored.append(f"{column} (line {line})")
                break
        else:
            for labels, value in zip(targets, values, strict=True):
                if value is not None:
                    labels[column] = value
    if ignored:
        log.warning("%s: ignored columns that hold no numbers: %s", path, ", ".join(ignored))
    return targets
