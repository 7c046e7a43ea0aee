"""Data sources: a source is "<kind>:<path>", and each kind has a reader in this folder.

The path of a prepared set alone is a source as well, because its files identify it.
"""

import dataclasses
import importlib
from types import ModuleType

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.shards import about, is_prepared
from echojepa_jax.data.tracings import Tracing
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import as_unicode, shown

# Modules of this folder by the kind they read; each is imported on first use.
_READERS = {
    "videos": "videos",
    "list": "lists",
    "csv": "csv_manifest",
    "list_multiview": "multiview_lists",
    "echonet_dynamic": "echonet_dynamic",
    "echonet_pediatric": "echonet_pediatric",
    "echonet_lvh": "echonet_lvh",
    "mimic_iv_echo": "mimic_iv_echo",
    "camus": "camus",
    "tmed2": "tmed2",
    "dicom": "dicom",
    "phantom": "phantom",
    "shards": "shards",
}
# Kinds whose module also has `tracings(path, source)`.
_TRACED = ("camus", "echonet_dynamic", "echonet_pediatric", "phantom")


def kind_of(source: str) -> str:
    """The kind of a source; the path of a prepared set has the kind "shards"."""
    kind = source.partition(":")[0]
    return kind if kind in _READERS else "shards"


def origin_of(source: str) -> str:
    """The kind of a source; for a prepared set, the kind of the source it was made from."""
    kind = kind_of(source)
    return str(about(source.removeprefix("shards:"))["kind"]) if kind == "shards" else kind


def read_source(source: str) -> list[Sample]:
    """Lists the samples of a source such as "videos:/data/clips", without measuring their files.

    Raises:
      UserError: the kind is unknown, or the reader cannot read the path.
    """
    kind, _, path = source.partition(":")
    if kind not in _READERS and source and is_prepared(source):
        return _read("shards", source, source)
    if kind not in _READERS or not path:
        kinds = ", ".join(_READERS)
        raise UserError(
            f"source {source!r} is neither a prepared set nor '<kind>:<path>': use one of these "
            f"kinds: {kinds}"
        )
    return _read(kind, path, source)


def read_tracings(source: str) -> list[Tracing]:
    """The traced frames of a source's samples, without reading files of labels.

    Raises:
      UserError: this kind of source has no tracings, or they cannot be read.
    """
    kind = kind_of(source)
    if kind not in _TRACED:
        raise UserError(
            f"source {source!r} has no tracings, which segmentation needs: use one of the kinds "
            f"{', '.join(_TRACED)}"
        )
    tracings: list[Tracing] = _module(kind).tracings(source.partition(":")[2], source)
    return [dataclasses.replace(one, name=shown(one.name)) for one in tracings]


def _module(kind: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{_READERS[kind]}")


def _read(kind: str, path: str, source: str) -> list[Sample]:
    samples: list[Sample] = _module(kind).read(path, source)
    # Names in prepared sets are text already.
    return samples if kind == "shards" else list(map(_as_text, samples))


def _as_text(sample: Sample) -> Sample:
    """Turns names and ids into text, because they enter tables; the path stays as it is."""
    ids = sample.patient, sample.study, sample.view, sample.split
    name, texts = shown(sample.name), tuple(map(as_unicode, ids))
    if (name, texts) == (sample.name, ids):  # nearly always
        return sample
    patient, study, view, split = texts
    return dataclasses.replace(
        sample, name=name, patient=patient, study=study, view=view, split=split
    )
