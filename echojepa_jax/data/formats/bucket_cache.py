"""Shards in buckets: copied to the cache when they are first needed, and the next ones ahead.

A training order visits all shards of a set in turn and again in every epoch, so whole files are
copied, each once for all processes of a machine. The cache must have room for them. A set that was
prepared anew under the same name is copied anew.
"""

import functools
import hashlib
import threading

from etils import epath

from echojepa_jax.utils import buckets
from echojepa_jax.utils.cache import cache_dir
from echojepa_jax.utils.files import held, whole


def local(path: str) -> str:
    """A file of this machine with the content of `path`; a file in a bucket is copied first.

    The files after it in its folder then follow in the background.

    Raises:
      UserError: the bucket's driver is missing, or the file cannot be copied.
    """
    if not buckets.is_remote(path):
        return path
    copy = _copied(path)
    _read_ahead(path.rpartition("/")[0])
    return copy


def _copied(path: str) -> str:
    folder, _, name = path.rpartition("/")
    target = cache_dir() / "shards" / _version(folder) / name
    if target.exists():
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Of all processes that want it, one copies and the others wait.
    lock = target.with_name(f"{name}.lock")
    lock.touch()
    with held(lock):
        if not target.exists():
            with (
                buckets.explained(path, "cannot be copied from its bucket"),
                whole(target) as partial,
            ):
                buckets.copy_file(epath.Path(path), epath.Path(partial))
    return str(target)


@functools.cache
def _version(folder: str) -> str:
    """A name for a set as it is now: its description tells the checksum of its index."""
    path = f"{folder}/prepared.json"
    with buckets.explained(path, "cannot be read"):
        made = epath.Path(path).read_bytes()
    return hashlib.sha256(folder.encode() + made).hexdigest()[:16]


@functools.cache
def _read_ahead(folder: str) -> None:
    """Starts to copy all shards of a folder, once a process."""

    def copy_all() -> None:
        for file in sorted(epath.Path(folder).iterdir(), key=str):
            if ".array_record" in file.name:
                _copied(f"{folder}/{file.name}")

    threading.Thread(target=copy_all, daemon=True, name="read-ahead").start()
