"""Finds the files of a path: all files below a folder, those that match a glob, or one file."""

import fnmatch
import glob
import os
from pathlib import Path

from echojepa_jax.utils.errors import UserError

SIDE_FILES = (".csv", ".txt", ".json", ".md")


def find(path: str, source: str) -> dict[str, str]:
    """The absolute paths of the files, by name: the path below the folder or the glob's fixed part.

    A folder or glob gives all files in sorted order, except hidden files and tables or texts
    (`SIDE_FILES`); the scan decides whether they are videos. Links to folders are followed, but no
    folder is visited twice. A subfolder that cannot be read is listed in place of its files, so
    that the scan counts and reports it.

    Raises:
      UserError: there are no files, or the folder itself cannot be read.
    """
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(path):
        root = path
        files, unreadable = _walk(path, source)
    elif os.path.exists(path):
        return {os.path.basename(path): path}
    elif not glob.has_magic(path):
        raise UserError(f"source {source!r} has no videos, because {path} does not exist: check it")
    else:
        root = _fixed_part(path)
        pattern = os.path.relpath(path, root)
        files = _matches(root, pattern, source)
        unreadable = _walk(root, source, Path(pattern).parts)[1]
    files = [file for file in files if not file.lower().endswith(SIDE_FILES)]
    files = sorted([*files, *unreadable])
    if not files:
        raise UserError(f"source {source!r} has no videos, because {path} has no files: check it")
    return {os.path.relpath(file, root): file for file in files}


def _walk(
    root: str, source: str, pattern: tuple[str, ...] | None = None
) -> tuple[list[str], list[str]]:
    """The files below `root`, and the folders that cannot be read.

    A folder that is reached twice, as in a loop of links, counts once.

    Args:
      pattern: parts of a glob: only folders that may contain a match are visited.
    """
    files: list[str] = []
    seen: set[str] = set()
    unreadable: list[str] = []

    def note(error: OSError) -> None:
        if error.filename == root:
            raise UserError(f"source {source!r} cannot be read ({error.strerror})")
        unreadable.append(error.filename)

    for folder, folders, names in os.walk(root, onerror=note, followlinks=True):
        true_path = os.path.realpath(folder)
        if true_path in seen:
            folders.clear()
            continue
        seen.add(true_path)
        level = 0 if folder == root else len(Path(os.path.relpath(folder, root)).parts)
        folders[:] = sorted(name for name in folders if _leads_on(folder, name, pattern, level))
        files += [os.path.join(folder, name) for name in names if not name.startswith(".")]
    return files, unreadable


def _leads_on(folder: str, name: str, pattern: tuple[str, ...] | None, level: int) -> bool:
    """Whether the folder `name` may contain a match; `folder` is `level` levels below the root."""
    if name.startswith("."):
        return False
    if pattern is None:
        return True
    if "**" in pattern[: level + 1]:  # "**" does not follow links
        return not os.path.islink(os.path.join(folder, name))
    return level < len(pattern) - 1 and fnmatch.fnmatchcase(name, pattern[level])


def _matches(root: str, pattern: str, source: str) -> list[str]:
    """The files below `root` that a glob matches, not hidden ones; "**" does not follow links."""
    try:
        found = [file.relative_to(root) for file in Path(root).glob(pattern) if file.is_file()]
    except ValueError as error:  # such as "**" beside other characters
        raise UserError(f"source {source!r} is not a valid glob: {error}") from error
    return [
        os.path.join(root, file)
        for file in found
        if not any(part.startswith(".") for part in file.parts)
    ]


def _fixed_part(pattern: str) -> str:
    """The folder above the first wildcard of an absolute pattern."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern
