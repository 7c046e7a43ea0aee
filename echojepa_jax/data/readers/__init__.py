"""Data sources: a source "<kind>:<path>" is read by the file of this folder that knows the kind.

The folder of a prepared set says itself what it is, so its path alone is a source as well.
"""

from echojepa_jax.data.readers import (
    camus,
    csv_manifest,
    dicom,
    echonet_dynamic,
    echonet_lvh,
    echonet_pediatric,
    lists,
    mimic_iv_echo,
    multiview_lists,
    phantom,
    tmed2,
    videos,
)
from echojepa_jax.data.readers import shards as prepared
from echojepa_jax.data.sample import Sample
from echojepa_jax.data.shards import is_prepared
from echojepa_jax.utils.errors import UserError

_READERS = {
    "videos": videos.read,
    "list": lists.read,
    "csv": csv_manifest.read,
    "list_multiview": multiview_lists.read,
    "echonet_dynamic": echonet_dynamic.read,
    "echonet_pediatric": echonet_pediatric.read,
    "echonet_lvh": echonet_lvh.read,
    "mimic_iv_echo": mimic_iv_echo.read,
    "camus": camus.read,
    "tmed2": tmed2.read,
    "dicom": dicom.read,
    "phantom": phantom.read,
    "shards": prepared.read,
}


def kind_of(source: str) -> str:
    """The kind of a source that can be read."""
    kind = source.partition(":")[0]
    return kind if kind in _READERS else "shards"


def read_source(source: str) -> list[Sample]:
    """The samples of a source such as "videos:/data/clips", not scanned yet.

    Raises:
      UserError: the kind is unknown, or the reader cannot read the path.
    """
    kind, _, path = source.partition(":")
    if kind not in _READERS and source and is_prepared(source):
        return prepared.read(source, source)
    if kind not in _READERS or not path:
        kinds = ", ".join(_READERS)
        raise UserError(f"Source {source!r} must be '<kind>:<path>' with a kind of: {kinds}.")
    return _READERS[kind](path, source)
