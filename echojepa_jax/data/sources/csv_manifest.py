"""A CSV manifest: a header, then one row per video.

The column `path` is required; name, patient, study, view and split are optional. The case of these
names does not matter. Every other column is a label: a number if all its cells are numbers (or
empty), else a class. A unit may follow the name, as in `rvsp [mmHg]`. The order of the rows has no
meaning.
"""

import logging
import os
import re

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources.tables import file_of, is_missing, number, read_rows
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import as_unicode

_TEXTS = ("patient", "study", "view", "split")
_KNOWN = ("path", "name", *_TEXTS)
_FILES = re.compile("file|path|video|dicom", re.IGNORECASE)
_PEOPLE = re.compile("patient|subject|mrn", re.IGNORECASE)

log = logging.getLogger(__name__)


def read(path: str, source: str) -> list[Sample]:
    """One sample per row; relative paths start at the folder of the manifest.

    Raises:
      UserError: the table cannot be read, has no column `path`, or a row has no path.
    """
    path = os.path.abspath(os.path.expanduser(path))
    table = read_rows(path, required=["path"], any_case=_KNOWN, similar=_FILES)
    rows = [row for _, row in table]
    targets, classes, units = _labels(path, table)
    columns = list(rows[0]) if rows else []
    people = [column for column in columns if _PEOPLE.search(column)]
    if people and "patient" not in columns:
        unused = "%s: column %r is not used as the patient; to use it, name it 'patient'"
        log.warning(unused, path, people[0])
    for line, row in table:
        if not row["path"]:
            raise UserError(f"{path}: column 'path' is empty in line {line}; fill it in")
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
            targets=numbers,
            units=units,
            classes=texts,
        )
        for (name, file), row, numbers, texts in zip(files, rows, targets, classes, strict=True)
    ]


_UNIT = re.compile(r"(?P<name>.*\S)\s*\[(?P<unit>[^\[\]]+)\]")


def _labels(
    path: str, table: list[tuple[int, dict[str, str]]]
) -> tuple[list[dict[str, float]], list[dict[str, str]], dict[str, str]]:
    """The numbers and the classes of each row, and the units, by label; logs columns of classes.

    Raises:
      UserError: two columns have the same label and different units.
    """
    targets: list[dict[str, float]] = [{} for _ in table]
    classes: list[dict[str, str]] = [{} for _ in table]
    units: dict[str, str] = {}
    columns: dict[str, str] = {}
    texts = []
    for column in [c for c in (table[0][1] if table else ()) if c not in _KNOWN]:
        match = _UNIT.fullmatch(column)
        name = as_unicode(match["name"] if match else column)
        if name in columns:
            raise UserError(
                f"{path} has two columns for the label {name!r}: {columns[name]!r} and {column!r}; "
                "remove one of them"
            )
        columns[name] = column
        if match:
            units[name] = match["unit"].strip()
        values = []
        for line, row in table:
            try:
                values.append(number(row[column]))
            except ValueError:
                texts.append(f"{name} (line {line})")
                for labels, (_, cells) in zip(classes, table, strict=True):
                    # "none" may be a grade, as of a valve's regurgitation.
                    if not is_missing(cells[column]) or cells[column].lower() == "none":
                        labels[name] = as_unicode(cells[column])
                break
        else:
            for numbers, value in zip(targets, values, strict=True):
                if value is not None:
                    numbers[name] = value
    if texts:
        log.info(
            "%s: labels used as classes, because they contain text: %s", path, ", ".join(texts)
        )
    return targets, classes, units
