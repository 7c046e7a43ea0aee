"""DICOM files without labels: all files of a folder and its subfolders, of a glob, or one file.

Files of other modalities than ultrasound are rejected. "dicom:/data/archive,modality=US+XA" names
the accepted modalities by the codes of the element Modality; "modality=any" accepts all files.

Patients and studies stay unknown, so that identities from headers cannot reach a log. To give
them, list the files in a CSV manifest with pseudonyms.
"""

import os

from echojepa_jax.data.formats.video_info import ULTRASOUND
from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources import walk
from echojepa_jax.data.sources.options import split_options

_DIRECTORY = "dicomdir"  # the index of a DICOM medium, which contains no image


def read(path: str, source: str) -> list[Sample]:
    """One sample per file, named by its path below the folder.

    Raises:
      UserError: there is no such folder or file, or an option is unknown.
    """
    path, options = split_options(path, {"modality": ULTRASOUND}, source)
    codes = options["modality"].upper().split("+")
    wanted = () if codes == ["ANY"] else tuple(codes)
    return [
        Sample(name=name, path=file, source=source, modalities=wanted)
        for name, file in walk.find(path, source).items()
        if os.path.basename(file).lower() != _DIRECTORY
    ]
