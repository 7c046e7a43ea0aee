"""Read a CSV file with a header, and say exactly what is wrong with one that cannot be read."""

import csv
import logging
import math
import os
import re
from collections.abc import Collection, Sequence
from typing import Any

from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import as_unicode, shown

log = logging.getLogger(__name__)

_AS_TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
# A part of a line in quotes, with a gap or nothing on both sides.
_QUOTED = re.compile(r"""(?<![^\s:])(?:"(?:[^"]|"")*"|'(?:[^']|'')*')(?=\s|::|$)""")
_MISSING = {"", "na", "n/a", "nan", "none", "null"}


def read_rows(
    path: str, required: Sequence[str], any_case: Collection[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file as (line number, {column: text}); spaces around texts are dropped.

    Args:
      any_case: columns (in lower case) whose names may be written in any case.

    Raises:
      UserError: no such file, not CSV, a row longer than the header, or a required column missing.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with open(path, newline="", **_AS_TEXT) as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
        _check_text(path, [cell for _, cells in [(1, header), *lines] for cell in cells])
    except OSError as error:
        raise UserError(f"The table {path} cannot be read: {error.strerror}.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"The table {path} is no CSV file in UTF-8: {error}.") from error
    header = [
        name.lower() if name.lower() in any_case and name.lower() not in header else name
        for name in header
    ]
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
        with open(path, **_AS_TEXT) as file:
            lines = [(number, line.strip()) for number, line in enumerate(file, start=1)]
        _check_text(path, [line for _, line in lines])
    except OSError as error:
        raise UserError(f"The list {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"The list {path} is no text in UTF-8: {error}.") from error
    return [(number, line) for number, line in lines if line]


def _check_text(path: str, texts: Sequence[str]) -> None:
    """Warns of bytes that are no UTF-8: names of files may have some.

    Raises:
      UnicodeDecodeError: it is no text at all.
    """
    if any("\0" in text for text in texts):
        raise UnicodeDecodeError("utf-8", b"\0", 0, 1, "it holds zeros")
    if odd := sum(text != as_unicode(text) for text in texts):
        log.warning(
            "%s: %d texts are not UTF-8; their bytes are kept as they are", shown(path), odd
        )


def list_lines(path: str) -> list[tuple[int, str]]:
    """`read_lines` of a list of files, without comments: lines that begin with "#".

    Raises:
      UserError: no such file, or no text.
    """
    folder = os.path.dirname(path)
    kept, comments = [], 0
    for number, line in read_lines(path):
        if line.startswith("#") and not _names_a_file(line, folder):
            comments += 1
        else:
            kept.append((number, line))
    if comments:
        log.info("%s: %d lines begin with # and are comments", shown(path), comments)
    return kept


def _names_a_file(line: str, folder: str) -> bool:
    """Whether there is a file that is called so, although it looks like a comment."""
    names = (line, line.rsplit(maxsplit=1)[0], split_line(line)[0])
    return any(os.path.exists(os.path.join(folder, name)) for name in names)


def split_line(line: str) -> list[str]:
    """The parts of a line of a list, between spaces, or between "::" where that stands in it.

    A part may be in single or double quotes, in which a quote is written twice.
    """
    apart = re.compile(r"\s*::\s*" if "::" in _QUOTED.sub("", line) else r"\s+")
    parts, place = [], 0
    while place < len(line):
        if quoted := _QUOTED.match(line, place):
            mark = quoted[0][0]
            parts.append(quoted[0][1:-1].replace(2 * mark, mark))
            place = quoted.end()
        else:
            end = apart.search(line, place)
            stop = end.start() if end else len(line)
            parts.append(line[place:stop])
            place = stop
        if gap := apart.match(line, place):
            place = gap.end()
    return parts


def is_quoted(line: str) -> bool:
    """Whether a line begins with a part in quotes."""
    return _QUOTED.match(line) is not None


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
