"""Files that are whole or not there, and files that one process holds for itself."""

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from echojepa_jax.utils.errors import UserError

PARTIAL = ".partial"  # ends the name of what is still being written


@contextlib.contextmanager
def whole(path: Path, shared: bool = False) -> Iterator[Path]:
    """A name beside `path` for a new file or folder, which is renamed to `path` at the end.

    After an error nothing is left, and a file that was there before stays as it was.

    Args:
      shared: other processes may write the same file meanwhile. The temporary name is then unique;
        otherwise the next attempt overwrites what a killed process has left.
    """
    unique = f".{uuid.uuid4().hex}" if shared else ""
    partial = path.with_name(f".{path.name}{unique}{PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON; the file is whole or not there."""
    with whole(path, shared=True) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


@contextlib.contextmanager
def held(path: Path, busy: str = "") -> Iterator[int]:
    """Holds an existing file or folder for this process; yields its descriptor.

    The system lets go of it when the process ends, in whatever way. Some network file systems have
    no locks: nothing is held there.

    Args:
      busy: the sentence of the error if another process holds it; "" = wait for that process.

    Raises:
      UserError: another process holds it, and `busy` is given.
      OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise UserError(busy) from error
        except OSError:
            pass
        yield descriptor
    finally:
        os.close(descriptor)
