"""The original code's lists of studies: lines `path path ... label`; "MISS" is a missing view.

"list_multiview:/data/train.txt,views=A4C+PLAX" names the views by position. Paths with spaces must
be in quotes, or the line must be `path::path::label`.
"""

import os

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources.options import split_options
from echojepa_jax.data.sources.tables import file_of, list_lines, number, split_line
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError

_MISSING = "MISS"


def read(path: str, source: str) -> list[Sample]:
    """One sample per path that is not missing; a line is a study, and its last word is the label.

    A study is named after its files, so that lines may be added anywhere.

    Raises:
      UserError: the list cannot be read, lines differ in length, or a label is not a number.
    """
    path, options = split_options(path, {"views": ""}, source)
    path = os.path.abspath(os.path.expanduser(path))
    folder = os.path.dirname(path)
    views = options["views"].split("+") if options["views"] else []
    entries, lines = [], dict[str, int]()
    for line, text in list_lines(path):
        *files, last = split_line(text)
        try:
            label = number(last)
        except ValueError as error:
            raise UserError(
                f"{path}: line {line} does not end in a label: {error}; write a number or 'nan'"
            ) from error
        views = views or [f"view{k}" for k in range(1, len(files) + 1)]
        if len(files) != len(views):
            raise UserError(
                f"{path}: line {line} names {counted(len(files), 'video')} for "
                f"{counted(len(views), 'view')}; write 'MISS' in place of a missing view"
            )
        study = " ".join(file for file in files if file != _MISSING)
        if study and study in lines:
            raise UserError(
                f"{path}: lines {lines[study]} and {line} name the same videos; remove one of them"
            )
        lines[study] = line
        entries += [
            (study, view, *file_of(file, folder), label)
            for view, file in zip(views, files, strict=True)
            if file != _MISSING
        ]
    return [
        Sample(
            name=name,
            path=file,
            source=source,
            study=study,
            view=view,
            targets={} if label is None else {"label": label},
        )
        for study, view, name, file, label in entries
    ]
