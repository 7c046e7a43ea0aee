"""Reads the header of a DICOM file in all the forms in which data sets are written.

pydicom reads headers with or without the types of elements. This module adds what pydicom does not
do: a byte order that contradicts the transfer syntax, deflated files with pixels, and files that
begin with their elements, without the mark "DICM".
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from echojepa_jax.data.formats.dicom_mark import FIRST, META
from echojepa_jax.data.formats.video_info import UnreadableVideo

_MAX_INFLATED_BYTES = 2**31  # a larger file would not fit into a worker's memory
_LARGE = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # the elements with pixels


def read(file: BinaryIO, tags: Sequence[Any]) -> tuple[pydicom.Dataset, BinaryIO]:
    """Reads the elements `tags` of the header.

    Returns:
      The elements, and a file whose position is the pixel data: `file`, or an inflated copy in
      memory.

    Raises:
      UnreadableVideo: the inflated file is too large.
      Exception: errors of pydicom and zlib, if the file is damaged.
    """
    start, syntax = _start(file)
    if syntax == DeflatedExplicitVRLittleEndian:
        file.seek(start)
        inflated = io.BytesIO(_inflated(file.read()))
        return _elements(inflated, 0, syntax, True, tags), inflated
    file.seek(start)
    group = file.read(2)  # of the first element
    little = {b"\x08\0": True, b"\0\x08": False}.get(group)
    if start and little is not None and little == (syntax == ExplicitVRBigEndian):
        return _elements(file, start, syntax, little, tags), file
    file.seek(0)
    # `force`, because the caller has checked the first bytes.
    found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(tags), force=True)
    return found, file


def numbers(dataset: pydicom.Dataset, name: str) -> list[float]:
    """The numbers in an element; NaN for what is none. Some files contain decimal commas."""
    try:
        value = dataset.get(name)
    except (TypeError, ValueError):
        return [float("nan")]
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [_number(entry) for entry in values if entry not in (None, "")]


def _number(text: object) -> float:
    try:
        return float(str(text).replace(",", "."))
    except ValueError:
        return float("nan")


def _inflated(data: bytes) -> bytes:
    """Inflates data that are deflated without a header (the standard), with one of zlib or gzip, or
    not deflated at all.

    Raises:
      UnreadableVideo: the result is too large.
      zlib.error: the data are damaged.
    """
    for wrapping in (-zlib.MAX_WBITS, 32 + zlib.MAX_WBITS):
        inflate = zlib.decompressobj(wrapping)
        with contextlib.suppress(zlib.error):
            inflated = inflate.decompress(data, _MAX_INFLATED_BYTES)
            if inflate.unconsumed_tail:
                raise UnreadableVideo("unsupported: more than 2 GB of deflated DICOM")
            return inflated
    if data.startswith(FIRST):
        return data
    raise zlib.error("not deflated in a known form")


def _start(file: BinaryIO) -> tuple[int, str]:
    """The position of the data set, and the transfer syntax; 0 and "" if they are not clear."""
    file.seek(0)
    file.seek(132 if file.read(132)[128:] == b"DICM" else 0)
    head = file.read(12)
    if head[:8] != META:
        return 0, ""
    meta = file.read(struct.unpack("<I", head[8:])[0])
    place = meta.find(b"\2\0\x10\0UI")
    if place < 0:
        return 0, ""
    length = struct.unpack("<H", meta[place + 6 : place + 8])[0]
    syntax = meta[place + 8 : place + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")
    return file.tell(), syntax


def _elements(
    file: BinaryIO, start: int, syntax: str, little: bool, tags: Sequence[Any]
) -> pydicom.Dataset:
    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        return tag in _LARGE

    known = (tag if isinstance(tag, int) else tag_for_keyword(tag) for tag in tags)
    wanted: list[BaseTag | int] = [Tag(tag) for tag in known if tag is not None]
    file.seek(start)
    dataset = read_dataset(file, False, little, stop_when=at_pixels, specific_tags=wanted)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    return dataset
