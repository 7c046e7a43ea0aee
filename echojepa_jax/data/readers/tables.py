"""Read a CSV file with a header, and say exactly what is wrong with one that cannot be read."""

import csv
import math
import os
from collections.abc import Sequence

from echojepa_jax.utils.errors import UserError

_MISSING = {"", "na", "n/a", "nan", "none", "null"}


def read_rows(path: str, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file as (line number, {column: text}); spaces around texts are dropped.

    Raises:
      UserError: no such file, not CSV, a row longer than the header, or a required column missing.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except OSError as error:
        raise UserError(f"The table {path} cannot be read: {error.strerror}.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"The table {path} is no CSV file in UTF-8: {error}.") from error
    found = ", ".join(header) or "nothing"
    for column in required:
        if column not in header:
            raise UserError(f"Column {column!r} is missing in {path}; its header has: {found}.")
    if len(set(header)) < len(header):
        raise UserError(f"A column stands twice in the header of {path}: {found}.")
    for line, cells in lines:
        if len(cells) > len(header):
            raise UserError(
                f"Line {line} of {path} has {len(cells)} cells, its header {len(header)}: put "
                "texts with commas in double quotes."
            )
    # A row may end early: columns that it lacks are blank.
    blank = dict.fromkeys(header, "")
    return [
        (line, blank | dict(zip(header, cells, strict=False)))
        for line, cells in lines
        if any(cells)
    ]


def read_lines(path: str) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers; spaces around them are dropped.

    Raises:
      UserError: no such file, or no text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [(number, line.strip()) for number, line in enumerate(file, start=1)]
    except OSError as error:
        raise UserError(f"The list {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"The list {path} is no text in UTF-8: {error}.") from error
    return [(number, line) for number, line in lines if line]


def column_number(row: dict[str, str], column: str, where: str) -> float | None:
    """The number in a column of a row, None if it is empty.

    Args:
      where: how an error calls the row.

    Raises:
      UserError: it is no number.
    """
    try:
        return number(row[column])
    except ValueError as error:
        raise UserError(f"Column {column!r} in {where} is {error}.") from error


def is_missing(text: str) -> bool:
    """Whether a cell says that there is nothing: "", "nan", "n/a"."""
    return text.lower() in _MISSING


def number(text: str) -> float | None:
    """The number that a cell holds, None for an empty one ("", "nan", "n/a").

    Raises:
      ValueError: it is neither, or infinite.
    """
    if is_missing(text):
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"not a number: {text!r}") from error
    if "_" in text or not math.isfinite(value):  # Python reads "1_2" as 12; a table means a name
        raise ValueError(f"not a number: {text!r}")
    return value


def file_of(text: str, folder: str) -> tuple[str, str]:
    """Name and absolute path of a file that a table in `folder` lists.

    The name is the path below that folder, or, of a file elsewhere, what the table says, with
    words in place of "../" and "/" at its start: whatever else is listed, now or later, a video
    keeps its name, and with it split and pseudonym, and tables with relative paths may be moved
    with their files.
    """
    path = os.path.normpath(os.path.join(folder, text))
    if path.startswith(os.path.join(folder, "")):
        return os.path.relpath(path, folder), path
    parts = os.path.normpath(text).split("/")
    words = {"": "root", "..": "up"}
    return "/".join(words.get(part, part) for part in parts), path
