"""The original code's lists: no header, one `path label` a line, parted by the last space.

Labels are often z-scored regression targets, so they stay the numbers they are (the original cut
them to integers). Lists of studies,
with several paths on a line, are for multiview_lists.py.
"""

import os

from echojepa_jax.data.readers.tables import file_of, number, read_lines
from echojepa_jax.data.sample import Sample


def read(path: str, source: str) -> list[Sample]:
    """One sample per line, with the target "label" where the line ends in a number.

    Paths may hold spaces; relative ones start at the list's folder.

    Raises:
      UserError: the list cannot be read.
    """
    path = os.path.abspath(os.path.expanduser(path))
    entries = [_entry(line) for _, line in read_lines(path)]
    folder = os.path.dirname(path)
    samples = []
    for text, targets in entries:
        name, file = file_of(text, folder)
        samples.append(Sample(name=name, path=file, source=source, targets=targets))
    return samples


def _entry(line: str) -> tuple[str, dict[str, float]]:
    """Split a line into its path and, where its last word is a number, the label."""
    file, *word = line.rsplit(maxsplit=1)
    if not word:
        return line, {}
    try:
        label = number(word[0])
    except ValueError:
        return line, {}
    return file, {} if label is None else {"label": label}
