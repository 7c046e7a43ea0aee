"""Reads CSV files with a header and text lists, with exact errors for files that are wrong."""

import csv
import logging
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import as_unicode, original, shown

log = logging.getLogger(__name__)

_AS_TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
# A quoted part of a line, with a separator or nothing on both sides.
_QUOTED = re.compile(r"""(?<![^\s:])(?:"(?:[^"]|"")*"|'(?:[^']|'')*')(?=\s|::|$)""")
# A number as spreadsheets of many European languages write it.
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_MISSING = {"", "na", "n/a", "nan", "none", "null"}


def read_rows(
    path: str,
    required: Sequence[str],
    any_case: Collection[str] = (),
    similar: re.Pattern[str] | None = None,
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file as (line number, {column: text}), without spaces around texts.

    If the header has more semicolons than commas, they separate the cells, and a decimal comma is
    read as a point: so the spreadsheets of many European languages write tables.

    Args:
      any_case: columns (in lower case) whose names may be written in any case.
      similar: names that people may give to a required column, for the error.

    Raises:
      UserError: the file is missing or not CSV, a row is longer than the header, or a required
        column is missing.
    """
    try:
        # utf-8-sig, because spreadsheets write a byte order mark before the first column's name.
        with open(path, newline="", **_AS_TEXT) as file:
            first = file.readline()
            file.seek(0)
            separator = ";" if first.count(";") > first.count(",") else ","
            reader = csv.reader(file, delimiter=separator)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
            if separator == ";":
                lines = [(line, [_with_point(cell) for cell in cells]) for line, cells in lines]
        _check_text(path, [cell for _, cells in [(1, header), *lines] for cell in cells])
    except OSError as error:
        raise UserError(
            f"the table {path} cannot be read ({error.strerror}): check the path"
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"the table {path} is not a CSV file in UTF-8 ({error}): export it as one"
        ) from error
    header = [
        name.lower() if name.lower() in any_case and name.lower() not in header else name
        for name in header
    ]
    found = ", ".join(header) or "nothing"
    for column in required:
        if column not in header:
            near = [name for name in header if similar and similar.search(name)]
            way = f"rename {near[0]!r} to {column!r}" if near else "add it"
            way = "separate the cells by commas" if "\t" in found else way
            raise UserError(f"{path} has no column {column!r}: {way}; the header has {found}")
    if len(set(header)) < len(header):
        raise UserError(f"{path} has two columns with the same name: rename one; it has {found}")
    for line, cells in lines:
        if len(cells) > len(header):
            raise UserError(
                f"{path}: line {line} has {len(cells)} cells, but the header has {len(header)}; "
                f"put texts that contain {separator!r} in double quotes"
            )
    # A row may be shorter than the header: its missing cells are blank.
    blank = dict.fromkeys(header, "")
    return [
        (line, blank | dict(zip(header, cells, strict=False)))
        for line, cells in lines
        if any(cells)
    ]


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell


def read_lines(path: str) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers, without spaces around them.

    Raises:
      UserError: the file is missing, or not a text.
    """
    try:
        with open(path, **_AS_TEXT) as file:
            lines = [(number, line.strip()) for number, line in enumerate(file, start=1)]
        _check_text(path, [line for _, line in lines])
    except OSError as error:
        raise UserError(
            f"the list {path} cannot be read ({error.strerror}): check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"the list {path} is not a text in UTF-8 ({error}): save it as one"
        ) from error
    return [(number, line) for number, line in lines if line]


def _check_text(path: str, texts: Sequence[str]) -> None:
    """Warns about bytes that are not UTF-8, which file names may contain.

    Raises:
      UnicodeDecodeError: the file is not a text.
    """
    if any("\0" in text for text in texts):
        raise UnicodeDecodeError("utf-8", b"\0", 0, 1, "it contains zero bytes")
    if odd := sum(text != as_unicode(text) for text in texts):
        log.warning("%s: kept the bytes of %s: not UTF-8", shown(path), counted(odd, "text"))


def list_lines(path: str) -> list[tuple[int, str]]:
    """`read_lines` of a list of files, without comments (lines that begin with "#").

    Raises:
      UserError: the file is missing, or not a text.
    """
    folder = os.path.dirname(path)
    kept, comments = [], 0
    for number, line in read_lines(path):
        if line.startswith("#") and not _names_a_file(line, folder):
            comments += 1
        else:
            kept.append((number, line))
    if comments:
        log.info("%s: skipped %d comments (lines that begin with #)", shown(path), comments)
    return kept


def _names_a_file(line: str, folder: str) -> bool:
    """Whether a line that looks like a comment is the name of an existing file."""
    names = (line, line.rsplit(maxsplit=1)[0], split_line(line)[0])
    return any(os.path.exists(os.path.join(folder, name)) for name in names)


def split_line(line: str) -> list[str]:
    """Splits a line of a list at "::" if it contains that, else at spaces.

    A part may be in single or double quotes; inside, the quote is doubled.
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
    """Whether a line begins with a quoted part."""
    return _QUOTED.match(line) is not None


def column_number(row: dict[str, str], column: str, where: str) -> float | None:
    """The number in a column of a row; None if the cell is empty.

    Args:
      where: description of the row in an error, such as "line 3 of FILE".

    Raises:
      UserError: the cell is not a number.
    """
    try:
        return number(row[column])
    except ValueError as error:
        raise UserError(f"{where}: column {column!r} is {error}; correct the cell") from error


def column_numbers(row: dict[str, str], columns: Mapping[str, str], where: str) -> dict[str, float]:
    """The numbers of a row by the names of `columns`, {column: name}; others are left out.

    Raises:
      UserError: as `column_number`.
    """
    found = {name: column_number(row, c, where) for c, name in columns.items() if c in row}
    return {name: value for name, value in found.items() if value is not None}


def is_missing(text: str) -> bool:
    """Whether a cell stands for a missing value: "", "nan", "n/a"."""
    return text.lower() in _MISSING


def number(text: str) -> float | None:
    """The number in a cell; None for a missing value ("", "nan", "n/a").

    Raises:
      ValueError: the cell is not a number, or infinite.
    """
    if is_missing(text):
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"not a number: {text!r}") from error
    if "_" in text or not math.isfinite(value):  # Python reads "1_2" as 12; in a table it is a name
        raise ValueError(f"not a number: {text!r}")
    return value


def file_of(text: str, folder: str) -> tuple[str, str]:
    """The name and the absolute path of a file that a table in `folder` lists.

    The name is the path below that folder. For a file elsewhere it is the path in the table, with
    the words "up" and "root" in place of "../" and "/" at its start. So the name of a video, and
    with it split and pseudonym, does not depend on the other rows, and a table with relative paths
    may be moved together with its files. A name that is escaped as in tables that this program
    writes is found, too.
    """
    if "\\" in text and not os.path.exists(os.path.join(folder, text)):
        unescaped = original(text)
        text = unescaped if os.path.exists(os.path.join(folder, unescaped)) else text
    path = os.path.normpath(os.path.join(folder, text))
    if path.startswith(os.path.join(folder, "")):
        return os.path.relpath(path, folder), path
    parts = os.path.normpath(text).split("/")
    words = {"": "root", "..": "up"}
    return "/".join(words.get(part, part) for part in parts), path
