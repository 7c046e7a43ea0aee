"""Shards in buckets: copies each shard to the cache when it is first needed, and the others ahead.

Training visits all shards of a set in every epoch, so whole files are copied, each once for all
processes of a machine. The cache must have room for them. A set that was prepared again under the
same name is copied again.
"""

import functools
import hashlib
import threading

from etils import epath

from echojepa_jax.utils import buckets
from echojepa_jax.utils.cache import cache_dir
from echojepa_jax.utils.files import held, whole


def local(path: str) -> str:
    """A local file with the content of `path`; a file in a bucket is copied first.

    The other shards of its folder are then copied in the background.

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
    # One process copies the file, and the others wait for it.
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
    """A name for the present version of a set: its prepared.json contains the index's checksum."""
    path = f"{folder}/prepared.json"
    with buckets.explained(path, "cannot be read"):
        made = epath.Path(path).read_bytes()
    return hashlib.sha256(folder.encode() + made).hexdigest()[:16]


@functools.cache
def _read_ahead(folder: str) -> None:
    """Starts to copy all shards of a folder, once per process."""

    def copy_all() -> None:
        for file in sorted(epath.Path(folder).iterdir(), key=str):
            if ".array_record" in file.name:
                _copied(f"{folder}/{file.name}")

    threading.Thread(target=copy_all, daemon=True, name="read-ahead").start()
