"""Files in buckets (gs://, s3://): copies, moves, and errors in one sentence."""

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
    if package:
        return UserError(f"{name} needs the package {package}: {pip_install('buckets')}")
    return UserError(
        f"{name} needs a driver of fsspec, which is not installed: {first_line(error)}"
    )


def is_remote(name: str) -> bool:
    """Whether a path is in a bucket."""
    return "://" in name


def on_disk(name: str, flag: str) -> Path:
    """The folder that a flag names.

    Raises:
      UserError: it is in a bucket, or its name is not valid UTF-8, which Arrow and Orbax need.
    """
    if as_unicode(name) != name:
        raise UserError(f"--{flag}={shown(name)} is not valid UTF-8: name another folder")
    if is_remote(name):
        raise UserError(
            f"--{flag}={name} is in a bucket: name a folder on a disk, and copy it afterwards"
        )
    return Path(name)


def move(folder: epath.Path, to: epath.Path) -> None:
    """Renames a folder; in a bucket, which cannot rename folders, it is copied and deleted."""
    if not is_remote(str(folder)):
        folder.rename(to)
        return
    copy(folder, to)
    folder.rmtree()


def copy(folder: epath.Path, to: epath.Path, without: Collection[str] = ()) -> None:
    """Copies a folder into or out of a bucket, except the folders in it named in `without`."""
    to.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in without:
            copy(entry, to / entry.name)
        elif entry.is_file():
            copy_file(entry, to / entry.name)


def copy_file(file: epath.Path, to: epath.Path) -> None:
    """Copies a file into or out of a bucket, a piece at a time."""
    with file.open("rb") as source, to.open("wb") as out:
        shutil.copyfileobj(source, out, 2**22)


@contextlib.contextmanager
def explained(name: str, problem: str) -> Iterator[None]:
    """Turns the errors of a bucket's driver into UserError.

    Args:
      name: "gs://...". problem: the end of the sentence, such as "cannot be used".
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise without_driver(name, error) from error
    # Every driver has its own types of errors.
    except Exception as error:
        reason = first_line(error)
        raise UserError(f"{name} {problem}: {reason}") from error
