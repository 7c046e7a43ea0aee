"""Videos without labels: all files of a folder and its subfolders, of a glob, or one file."""

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources import walk


def read(path: str, source: str) -> list[Sample]:
    """One sample per file, named by its path below the folder; the scan rejects other files.

    Raises:
      UserError: there is no such folder or file.
    """
    return [Sample(name, file, source) for name, file in walk.find(path, source).items()]
