"""Data sources: a source "<kind>:<path>" is read by the file of this folder that knows the kind."""

from echojepa_jax.data.readers import (
    csv_manifest,
    dicom,
    echonet_dynamic,
    lists,
    phantom,
    videos,
)
from echojepa_jax.data.sample import Sample
from echojepa_jax.utils.errors import UserError

_READERS = {
    "videos": videos.read,
    "list": lists.read,
    "csv": csv_manifest.read,
    "echonet_dynamic": echonet_dynamic.read,
    "dicom": dicom.read,
    "phantom": phantom.read,
}


def read_source(source: str) -> list[Sample]:
    """The samples of a source such as "videos:/data/clips", not scanned yet.

    Raises:
      UserError: the kind is unknown, or the reader cannot read the path.
    """
    kind, _, path = source.partition(":")
    if kind not in _READERS or not path:
        kinds = ", ".join(_READERS)
        raise UserError(f"Source {source!r} must be '<kind>:<path>' with a kind of: {kinds}.")
    return _READERS[kind](path, source)
