"""The lists of the original code: no header; each line is `path label`, split at the last space.

As in the original code, paths may be in quotes, and `path::label` is allowed too. Labels are often
z-scored regression targets, so they stay floating-point numbers (the original code truncated them
to integers). multiview_lists.py reads lists of studies, with several paths per line.
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
from echojepa_jax.utils.counts import counted

log = logging.getLogger(__name__)


def read(path: str, source: str) -> list[Sample]:
    """One sample per line, with the target "label" if the line ends in a number.

    Paths may contain spaces; relative paths start at the folder of the list. Lines that begin with
    "#" are comments, unless a file with that name exists.

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
        log.warning("%s: ignored %s: not a number", path, counted(words, "label"))
    return samples


def _entry(line: str, folder: str) -> tuple[str, str]:
    """Split a line into its path and its label; the label is "" if there is none."""
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
    """The line without a comment at its end."""
    return line.rpartition(" #")[0] or line


def _number(text: str) -> float | None:
    """The number in a text; None if the text is not a number."""
    try:
        return number(text)
    except ValueError:
        return None
