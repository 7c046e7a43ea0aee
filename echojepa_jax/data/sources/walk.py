"""Find the files that a path means: a folder with all below it, a glob, or one file."""

import fnmatch
import glob
import os
from pathlib import Path

from echojepa_jax.utils.errors import UserError

SIDE_FILES = (".csv", ".txt", ".json", ".md")


def find(path: str, source: str) -> dict[str, str]:
    """The absolute paths of the files, by name: the path below the folder or the glob's fixed part.

    A folder or glob gives every file but hidden ones and tables or texts (`SIDE_FILES`), sorted;
    whether it is a video is for the scan to say. Links to folders are followed, each folder once.
    A folder below that cannot be read stands for its files, so that the scan counts and names it.

    Raises:
      UserError: nothing is there, or the folder itself cannot be read.
    """
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(path):
        root = path
        files, unreadable = _walk(path, source)
    elif os.path.exists(path):
        return {os.path.basename(path): path}
    elif not glob.has_magic(path):
        raise UserError(f"Source {source!r} names no video: there is no {path}.")
    else:
        root = _fixed_part(path)
        pattern = os.path.relpath(path, root)
        files = _matches(root, pattern, source)
        unreadable = _walk(root, source, Path(pattern).parts)[1]
    files = [file for file in files if not file.lower().endswith(SIDE_FILES)]
    files = sorted([*files, *unreadable])
    if not files:
        raise UserError(f"Source {source!r} names no video: there is no file in {path}.")
    return {os.path.relpath(file, root): file for file in files}


def _walk(
    root: str, source: str, pattern: tuple[str, ...] | None = None
) -> tuple[list[str], list[str]]:
    """The files below `root`, and the folders that cannot be read.

    A folder reached twice, as by a loop of links, counts once.

    Args:
      pattern: parts of a glob: only folders in which it could match something are looked into.
    """
    files: list[str] = []
    seen: set[str] = set()
    unreadable: list[str] = []

    def note(error: OSError) -> None:
        if error.filename == root:
            raise UserError(f"Source {source!r}: {root} cannot be read ({error.strerror}).")
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
    """Whether a folder in `folder`, which is so many levels below the root, may hold a match."""
    if name.startswith("."):
        return False
    if pattern is None:
        return True
    if "**" in pattern[: level + 1]:  # which follows no links
        return not os.path.islink(os.path.join(folder, name))
    return level < len(pattern) - 1 and fnmatch.fnmatchcase(name, pattern[level])


def _matches(root: str, pattern: str, source: str) -> list[str]:
    """The files below `root` that a glob matches, hidden ones left out; "**" follows no links."""
    try:
        found = [file.relative_to(root) for file in Path(root).glob(pattern) if file.is_file()]
    except ValueError as error:  # such as "**" beside other characters
        raise UserError(f"Source {source!r} is not a valid glob: {error}.") from error
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
