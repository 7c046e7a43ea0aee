"""Buckets (gs://, s3://): what is in one, and what goes wrong with it, in a sentence."""

import contextlib
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from etils import epath

from echojepa_jax.utils.errors import UserError, first_line
from echojepa_jax.utils.extras import pip_install
from echojepa_jax.utils.file_names import as_unicode, shown

_DRIVERS = {"gs": "gcsfs", "s3": "s3fs"}


def without_driver(name: str, error: ImportError) -> UserError:
    """The error for a bucket whose driver is not installed."""
    package = _DRIVERS.get(name.partition(":")[0])
    how = f"{package}: {pip_install('buckets')}" if package else f"a driver of fsspec ({error})"
    return UserError(f"{name} needs one more package, {how}")


def is_remote(name: str) -> bool:
    """Whether a path is in a bucket."""
    return "://" in name


def on_disk(name: str, flag: str) -> Path:
    """The folder that a flag names.

    Raises:
      UserError: it is in a bucket, or its name is not text, which Arrow and Orbax cannot write to.
    """
    if as_unicode(name) != name:
        raise UserError(f"--{flag}={shown(name)} is not valid UTF-8: name another folder")
    if is_remote(name):
        raise UserError(f"--{flag}={name} must be on a disk: copy it to the bucket afterwards")
    return Path(name)


def move(folder: epath.Path, to: epath.Path) -> None:
    """Renames a folder; one of a bucket, which has no names of folders, is copied and deleted."""
    if not is_remote(str(folder)):
        folder.rename(to)
        return
    copy(folder, to)
    folder.rmtree()


def copy(folder: epath.Path, to: epath.Path, without: Collection[str] = ()) -> None:
    """Copies a folder, in or out of a bucket, but for folders of some names in it."""
    to.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in without:
            copy(entry, to / entry.name)
        elif entry.is_file():
            copy_file(entry, to / entry.name)


def copy_file(file: epath.Path, to: epath.Path) -> None:
    """Copies a file, in or out of a bucket, a piece at a time."""
    with file.open("rb") as source, to.open("wb") as out:
        shutil.copyfileobj(source, out, 2**22)


@contextlib.contextmanager
def explained(name: str, problem: str) -> Iterator[None]:
    """Turns what a bucket's driver raises into UserError.

    Args:
      name: "gs://...". problem: what does not work, as in "cannot be used".
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise without_driver(name, error) from error
    # Every driver has errors of its own.
    except Exception as error:
        reason = first_line(error)
        raise UserError(f"{name} {problem}: {reason}") from error
