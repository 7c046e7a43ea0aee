"""Files that are written completely or not at all, files that one process locks, and digests."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from echojepa_jax.utils.errors import UserError

PARTIAL = ".partial"  # suffix of files and folders that are still being written


@contextlib.contextmanager
def whole(path: Path, shared: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path` for a new file or folder, and renames it at the end.

    After an error the temporary file is removed, and an existing file at `path` is unchanged.

    Args:
      shared: other processes may write the same file at the same time, so the temporary name is
        unique. Otherwise the next attempt overwrites the remains of a killed process.
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
    """Writes a value as JSON, completely or not at all."""
    with whole(path, shared=True) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def digest_of(value: Any) -> str:
    """SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def held(path: Path, busy: str = "") -> Iterator[int]:
    """Locks an existing file or folder for this process; yields its descriptor.

    The system releases the lock when the process ends, in whatever way. Some network file systems
    have no locks: there, nothing is locked.

    Args:
      busy: the error message if another process has the lock; "" = wait for that process.

    Raises:
      UserError: another process has the lock, and `busy` is given.
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
