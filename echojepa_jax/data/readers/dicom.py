"""DICOM files without labels: all files of a folder and its subfolders, of a glob, or one file.

Patients and studies stay unknown, lest identities from headers reach a log: a study that needs
them lists its files in a CSV manifest, with pseudonyms.
"""

import os

from echojepa_jax.data.readers import walk
from echojepa_jax.data.sample import Sample

_DIRECTORY = "dicomdir"  # the index of a DICOM medium, which holds no image


def read(path: str, source: str) -> list[Sample]:
    """One sample per file, named by its path below the folder.

    Raises:
      UserError: there is no such folder or file.
    """
    return [
        Sample(name=name, path=file, source=source)
        for name, file in walk.find(path, source).items()
        if os.path.basename(file).lower() != _DIRECTORY
    ]
