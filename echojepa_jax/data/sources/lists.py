"""The original code's lists: no header, one `path label` a line, parted by the last space.

As the original reads them, paths may be in quotes, and `path::label` is the same. Labels are often
z-scored regression targets, so they stay the numbers they are (the original cut them to integers).
Lists of studies, with several paths on a line, are for multiview_lists.py.
"""

import logging
import os

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources.tables import (
    file_of,
    is_missing,
    is_quoted,
    list_lines,
    number,
    split_line,
)

log = logging.getLogger(__name__)


def read(path: str, source: str) -> list[Sample]:
    """One sample per line, with the target "label" where the line ends in a number.

    Paths may hold spaces; relative ones start at the list's folder. Lines that begin with "#" are
    comments, unless there is a file of that name.

    Raises:
      UserError: the list cannot be read.
    """
    path = os.path.abspath(os.path.expanduser(path))
    folder = os.path.dirname(path)
    samples, words = [], 0
    for _, line in list_lines(path):
        text, label = _entry(line, folder)
        value = _number(label)
        words += bool(label) and value is None
        name, file = file_of(text, folder)
        targets = {} if value is None else {"label": value}
        samples.append(Sample(name=name, path=file, source=source, targets=targets))
    if words:
        log.warning("%s: %d labels are not numbers and are not used", path, words)
    return samples


def _entry(line: str, folder: str) -> tuple[str, str]:
    """Split a line into its path and its label, "" where it has none."""
    if is_quoted(line):
        file, *rest = split_line(line)
        return file, rest[0] if rest else ""
    for file, apart, label in (line.rpartition("::"), _by_space(line), _by_space(_bare(line))):
        if apart and _number(label) is not None:
            return file.rstrip(), label.strip()
    file, apart, label = _by_space(line)
    if apart and is_missing(label):
        return file.rstrip(), ""
    if "::" in line and not os.path.exists(os.path.join(folder, line)):
        file, _, label = line.partition("::")
        return file.rstrip(), label.strip()
    return line, ""


def _by_space(line: str) -> tuple[str, str, str]:
    file, *label = line.rsplit(maxsplit=1)
    return file, " " * bool(label), "".join(label)


def _bare(line: str) -> str:
    """A line without a comment at its end."""
    return line.rpartition(" #")[0] or line


def _number(text: str) -> float | None:
    """A number, None for any other text."""
    try:
        return number(text)
    except ValueError:
        return None
