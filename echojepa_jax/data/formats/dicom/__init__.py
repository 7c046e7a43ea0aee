"""Exact frames of ultrasound DICOM files, read with pydicom, cropped to the ultrasound region.

Privacy: only the tags listed here are read from the header, so no name, date or id can reach a log.
For the same reason the messages of pydicom, which quote values, are never shown. Only `identity`
reads the ids of patient and study, and preparation hashes them at once. The crop removes the banner
burned into the pixels around the sector.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.errors import BytesLengthException, InvalidDicomError

from echojepa_jax.data.formats import dicom_mark
from echojepa_jax.data.formats.dicom import dataset as dicom_dataset
from echojepa_jax.data.formats.dicom import layout as dicom_layout
from echojepa_jax.data.formats.dicom import pixels as dicom_pixels
from echojepa_jax.data.formats.dicom import video
from echojepa_jax.data.formats.dicom.layout import Shape
from echojepa_jax.data.formats.dicom.pixels import Pixels
from echojepa_jax.data.formats.video_info import (
    NEGATIVE_TIMES,
    NO_POINTED_RATE,
    NO_REGION,
    NON_SQUARE,
    NOT_2D,
    RATES_DIFFER,
    STALE_REGION,
    ULTRASOUND,
    VARIABLE_RATE,
    UnreadableVideo,
    VideoInfo,
    check_size,
    fewer_frames,
    first_bytes,
    is_regular,
    is_square,
    not_ultrasound,
    notes,
    possible_rate,
)

_TAGS: list[Any] = [
    *dicom_pixels.TAGS,
    *("SequenceOfUltrasoundRegions", "PixelSpacing", "PixelAspectRatio", "Modality", "SOPClassUID"),
    *("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate"),
    "FrameIncrementPointer",
]
# The errors of pydicom 3 and its plugins on damaged files; found by damaging files at random.
_PYDICOM_ERRORS = (
    *(AttributeError, EOFError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    *(InvalidDicomError, BytesLengthException, struct.error, zlib.error),
)
# Transfer syntaxes: uncompressed pixels, compressed pictures in fragments, and run-length coding.
_NATIVE = tuple(f"1.2.840.10008.1.2{k}" for k in ("", ".1", ".1.98", ".1.99", ".2"))
_CODED = (
    *(f"1.2.840.10008.1.2.4.{k}" for k in (*range(50, 67), 70, 80, 81, 90, 91, *range(201, 204))),
    *video.SYNTAXES,  # which may contain pictures; 52 to 66 include retired ones
)
_RLE = "1.2.840.10008.1.2.5"
# Values of RegionDataType, RegionSpatialFormat and PhysicalUnits (DICOM PS3.3, C.8.5.5).
_TISSUE, _COLOUR_FLOW, _TWO_DIMENSIONAL, _CENTIMETRES = 1, 2, 1, 3
_SYNTAX = "TransferSyntaxUID"
_SMALLEST = 0.05  # smallest share of the frame that a picture covers
# Elements that are required to interpret pixels: in general, and of compressed pictures.
_NEEDED = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
_NEEDED_COMPRESSED = ("Rows", "Columns", "PhotometricInterpretation")
# Storage classes of other modalities, without the prefix `_STORAGE`. For classes of any picture
# (secondary captures) and of ultrasound, which are not here, the element Modality decides.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_CLASSES = {
    **dict.fromkeys(("1",), "CR"),
    **dict.fromkeys(("1.1", "1.1.1"), "DX"),
    **dict.fromkeys(("1.2", "1.2.1"), "MG"),
    **dict.fromkeys(("2", "2.1", "2.2"), "CT"),
    **dict.fromkeys(("4", "4.1", "4.3", "4.4"), "MR"),
    **dict.fromkeys(("12.1", "12.1.1", "12.3", "13.1.1"), "XA"),
    **dict.fromkeys(("12.2", "12.2.1"), "RF"),
    **dict.fromkeys(("14.1", "14.2"), "IVOCT"),
    **dict.fromkeys(("20", "5"), "NM"),
    **dict.fromkeys(("128", "128.1", "130"), "PT"),
}
# Retired codes for echocardiography, colour flow and duplex Doppler, written by old machines.
_RETIRED_ULTRASOUND = ("EC", "CD", "DD")
_ULTRASOUND_CLASSES = ("3", "3.1", "6", "6.1", "6.2")
_VOLUME = "6.2"
_NO_MODALITY = ("", "OT", "SC")  # values of Modality that do not name a machine
# Tolerated difference between the rates of two elements, in frames a second and as a share: one may
# be rounded to whole frames a second, the other be a time with few digits.
_RATE_LEVELS, _RATE_SHARE = 0.5, 0.05

logging.getLogger("pydicom").propagate = False  # its warnings quote the file's values
warnings.filterwarnings("ignore", module="pydicom")


@dataclasses.dataclass(frozen=True, slots=True)
class _Header:
    """The facts of a header.

    rows, columns: the part of the frame to keep.
    pictures: yields the uncropped frames of ascending ids, uint8 [H, W, 3].
    """

    frames: int
    fps: float
    rows: slice
    columns: slice
    note: str
    spacing: tuple[float, float]
    modality: str
    pictures: Callable[[Sequence[int]], Iterator[np.ndarray]]


def probe(path: str) -> VideoInfo:
    """The facts of a DICOM file; counts all its frames, and decodes the first one.

    Raises:
      UnreadableVideo: the file is not DICOM, has no image, is truncated, or has an unsupported
        encoding.
    """
    with _opened(path) as (_, header):
        image = next(_images(header, [0]))
    height, width = image.shape[:2]
    facts = header.frames, header.fps, height, width
    return VideoInfo(*facts, note=header.note, spacing=header.spacing, modality=header.modality)


def frames(path: str, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames `ids` (ascending, none twice) as RGB uint8 [H, W, 3], cropped.

    Raises:
      UnreadableVideo: as `probe`, or the file has fewer frames.
    """
    with _opened(path) as (_, header):
        if ids[-1] >= header.frames:
            raise fewer_frames(header.frames, ids[-1])
        yield from _images(header, ids)


def coded(path: str) -> Iterator[bytes]:
    """Yield the bytes of the coded pictures, without the header.

    Raises:
      UnreadableVideo: as `probe`.
    """
    with _opened(path) as (file, _):
        # The position in the file is the pixel data, which are its last element.
        while block := file.read(2**20):
            yield block


def identity(path: str) -> tuple[str, str]:
    """Patient and study of a DICOM file; "" if the header lacks them.

    These may be names of people: hash them before writing them anywhere.

    Raises:
      UnreadableVideo: the header cannot be read.
    """
    tags = ["PatientID", "PatientName", "StudyInstanceUID"]
    try:
        with open(path, "rb") as file:
            dataset, _ = dicom_dataset.read(file, tags)
        patient, name, study = (str(dataset.get(tag) or "").strip() for tag in tags)
    except _PYDICOM_ERRORS as error:
        raise UnreadableVideo("damaged: the DICOM header cannot be read") from error
    return patient or name, study


def _images(header: _Header, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames `ids`, cropped, as uint8 [H, W, 3]."""
    for image in header.pictures(ids):
        yield image[header.rows, header.columns]


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[BinaryIO, _Header]]:
    """Opens a DICOM file and reads its header; turns pydicom's errors into UnreadableVideo."""
    first = first_bytes(path)
    if not (dicom_mark.is_marked(first) or dicom_mark.is_bare(first)):
        raise UnreadableVideo("not a video file: named .dcm, but it does not begin like DICOM")
    stage = "header"
    try:
        with open(path, "rb") as opened:
            stamp = os.fstat(opened.fileno())
            dataset, file = dicom_dataset.read(opened, _TAGS)
            key = path, stamp.st_size, stamp.st_mtime_ns
            if video.is_video(dicom_layout.head(file), dataset.file_meta.get(_SYNTAX)):
                pictures, start = _video(file, dataset)
                header = _header(dataset, _decoding(*key), pictures, "")
            else:
                pixels, start = _pixels(file, dataset)
                if pixels.by_label:
                    pixels = dataclasses.replace(pixels, **_checked_colours(*key))
                occurring = functools.partial(_occurring, *key)
                to_rgb, note = dicom_pixels.display_map(dataset, pixels, occurring)
                pictures = functools.partial(_mapped, pixels, to_rgb)
                note = notes(pixels.note, note)
                header = _header(dataset, len(pixels.layout.frames), pictures, note)
            file.seek(start)
            stage = "pixel data"
            yield file, header
    except _PYDICOM_ERRORS as error:
        raise UnreadableVideo(_reason(error, stage)) from error


def _reason(error: Exception, stage: str) -> str:
    """The reason for an error of pydicom; does not use its message, which may quote a name."""
    if isinstance(error, OSError) and error.errno:
        return f"unreadable: {os.strerror(error.errno)}"
    if isinstance(error, NotImplementedError):  # pydicom's error for forms that it does not read
        return f"unsupported: pydicom cannot read this form of DICOM {stage}"
    # A missing element is an attribute of the data set, or a key (as a tag).
    element = error.name if isinstance(error, AttributeError) else ""
    if isinstance(error, KeyError) and isinstance(error.args[0], int):
        element = keyword_for_tag(error.args[0])
    if element and tag_for_keyword(element) is not None:
        return f"incomplete: the header lacks {element}"
    return f"damaged: the DICOM {stage} cannot be read"


def _pixels(file: BinaryIO, dataset: pydicom.Dataset) -> tuple[Pixels, int]:
    """The pictures of a file, whose position is the pixel data, and the position of these."""
    syntax = dataset.file_meta.get(_SYNTAX)
    if not any(name in dataset for name in _NEEDED):  # a report, a waveform, an index
        raise UnreadableVideo("no frames: the DICOM file holds no image")
    dicom_layout.pixel_data(file)
    # Compressed pictures contain the other facts themselves.
    needed = _NEEDED_COMPRESSED if syntax in _CODED else _NEEDED
    if missing := [name for name in needed if dataset.get(name) in (None, "")]:
        raise UnreadableVideo(f"incomplete: the header lacks {missing[0]}")
    if syntax not in (None, *_NATIVE, *_CODED, _RLE):
        raise UnreadableVideo(f"unsupported: DICOM transfer syntax {syntax.name}")
    shape = Shape(
        frames=max(0, _whole(dataset, "NumberOfFrames")),
        rows=_whole(dataset, "Rows"),
        columns=_whole(dataset, "Columns"),
        samples=_whole(dataset, "SamplesPerPixel"),
        bits=_whole(dataset, "BitsAllocated"),
        photometric=str(dataset.PhotometricInterpretation).strip(" \0").upper(),
    )
    check_size(shape.rows, shape.columns)
    if not shape.rows * shape.columns:
        raise UnreadableVideo(f"damaged: frames of {shape.rows} x {shape.columns} pixels")
    table = bytes(dataset.get("ExtendedOffsetTable") or b"")
    layout, start = dicom_layout.locate(file, shape, syntax != _RLE, table)
    return dicom_pixels.opened(file, layout, dataset, shape), start


def _whole(dataset: pydicom.Dataset, name: str) -> int:
    """A whole number of the header; 0 if it is missing or empty."""
    try:
        return int(dataset.get(name) or 0)
    except (TypeError, ValueError) as error:
        raise UnreadableVideo(f"wrong {name}: it is not a whole number") from error


@functools.lru_cache(maxsize=1024)
def _checked_colours(path: str, size: int, changed: int) -> dict[str, Any]:
    """Fields of `Pixels` that frame 0 may correct; cached by path, size and time of the file."""
    with open(path, "rb") as opened:
        dataset, file = dicom_dataset.read(opened, _TAGS)
        pixels = dicom_pixels.checked_colours(_pixels(file, dataset)[0])
    return {"colours": pixels.colours, "planar": pixels.planar, "note": pixels.note}


@functools.lru_cache(maxsize=64)
def _occurring(path: str, size: int, changed: int) -> np.ndarray:
    """The sample values that occur in any frame of a file, ascending.

    All frames are read, because they share one scale. Cached by path, size and time of the file.
    """
    with open(path, "rb") as opened:
        dataset, file = dicom_dataset.read(opened, _TAGS)
        pixels, _ = _pixels(file, dataset)
        counts = np.zeros(2**16, np.int64)
        for k in range(len(pixels.layout.frames)):
            counts += np.bincount(dicom_pixels.samples(pixels, k).ravel(), minlength=2**16)
    return np.flatnonzero(counts)


def _mapped(pixels: Pixels, to_rgb: dicom_pixels.ToRgb, ids: Sequence[int]) -> Iterator[np.ndarray]:
    for k in ids:
        yield to_rgb(dicom_pixels.samples(pixels, k))


def _video(
    file: BinaryIO, dataset: pydicom.Dataset
) -> tuple[Callable[[Sequence[int]], Iterator[np.ndarray]], int]:
    """A function that yields frames of the video in a DICOM file, and the position of the video."""
    missing = [name for name in ("Rows", "Columns") if not dataset.get(name)]
    if missing:
        raise UnreadableVideo(f"incomplete: the header lacks {missing[0]}")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    data, start = dicom_layout.stream(file)

    def pictures(ids: Sequence[int]) -> Iterator[np.ndarray]:
        wanted = set(ids)
        syntax = dataset.file_meta.get(_SYNTAX)
        for k, image in enumerate(video.frames(data, syntax, (rows, columns))):
            if image.shape[:2] != (rows, columns):
                raise dicom_layout.wrong_size((rows, columns), k, image.shape[:2])
            if k in wanted:
                yield image
            if k >= ids[-1]:
                return

    return pictures, start


@functools.lru_cache(maxsize=1024)
def _decoding(path: str, size: int, changed: int) -> int:
    """The number of frames that decode from the video in a DICOM file.

    Cached by path, size and time of the file.

    Raises:
      UnreadableVideo: no frame decodes, or the header states another number.
    """
    with open(path, "rb") as opened:
        dataset, file = dicom_dataset.read(opened, _TAGS)
        data, _ = dicom_layout.stream(file)
    held = video.count(data, dataset.file_meta.get(_SYNTAX))
    if not held:
        raise UnreadableVideo("no frames: no picture of the DICOM file's video decodes")
    stated = _whole(dataset, "NumberOfFrames") or held
    if held != stated:
        wrong = dicom_layout.truncated if held < stated else dicom_layout.wrong_count
        raise wrong(stated, held)
    return held


def _header(
    dataset: pydicom.Dataset,
    frames: int,
    pictures: Callable[[Sequence[int]], Iterator[np.ndarray]],
    pixel_note: str,
) -> _Header:
    if _storage(dataset) == _VOLUME:
        raise UnreadableVideo("unsupported: an ultrasound volume, whose frames are slices")
    rows, columns, spacing, note = _region(dataset)
    fps, timing = _frame_rate(dataset)
    modality = _modality(dataset)
    return _Header(
        frames=frames,
        fps=fps,
        rows=rows,
        columns=columns,
        note=notes(
            note,
            pixel_note,
            *timing,
            NON_SQUARE if _non_square(dataset, spacing) else "",
            "" if modality == ULTRASOUND else not_ultrasound(modality),
        ),
        spacing=spacing,
        modality=modality,
        pictures=pictures,
    )


def _modality(dataset: pydicom.Dataset) -> str:
    """The code of the modality, such as "US" or "XA"; "" if the header does not state it.

    A storage class of a single modality decides. Otherwise the element Modality does. A file that
    states no modality is ultrasound if it has ultrasound regions or a storage class of ultrasound.
    """
    kind = _storage(dataset)
    if kind in _CLASSES:
        return _CLASSES[kind]
    code = str(dataset.get("Modality") or "").strip().upper()
    if not re.fullmatch("[A-Z0-9]{0,8}", code):  # not a code, so it may be a name
        code = ""
    if code in _RETIRED_ULTRASOUND:
        return ULTRASOUND
    if code not in _NO_MODALITY:
        return code
    is_ultrasound = kind in _ULTRASOUND_CLASSES or dataset.get("SequenceOfUltrasoundRegions")
    return ULTRASOUND if is_ultrasound else code


def _storage(dataset: pydicom.Dataset) -> str:
    """The storage class of a file, without the prefix `_STORAGE`."""
    stored = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    return str(stored).removeprefix(_STORAGE)


def _frame_rate(dataset: pydicom.Dataset) -> tuple[float, list[str]]:
    """Frames a second (0 = unknown), and notes on the rate.

    Uses the first plausible rate of: the element that FrameIncrementPointer names, the time between
    frames (ms), the cine rate, the display rate. Times have few digits (33.333), so the rate is
    rounded accordingly.
    """
    vector = dataset.get("FrameTimeVector") or ()
    vector = list(vector) if isinstance(vector, Sequence) else []
    frames = _whole(dataset, "NumberOfFrames") or 1
    # Some files contain the times since the first frame instead of those between frames.
    if len(vector) > 3 and (np.diff(vector) > 0).all() and is_regular(vector, 1.0):
        vector = np.diff(vector, prepend=0).tolist()
    later = vector if len(vector) == frames - 1 else vector[1:]  # the first entry is always 0
    negative = any(time < 0 for time in later)  # as where the clock of the machine was set back
    later = [time for time in later if time >= 0]
    even = is_regular(np.cumsum([0, *later]).tolist(), 1.0)
    taken = {
        "FrameTime": _rate_of(_positive(dataset, "FrameTime")),
        "FrameTimeVector": _rate_of(float(np.mean(later)) if later else 0.0),
        "CineRate": possible_rate(_positive(dataset, "CineRate")),
    }
    shown = possible_rate(_positive(dataset, "RecommendedDisplayFrameRate"))
    rates = taken | {"RecommendedDisplayFrameRate": shown}
    pointed = [name for name in _pointed(dataset) if name in rates]
    order = dict.fromkeys([*pointed, *rates])
    source, fps = next(((name, rates[name]) for name in order if rates[name]), ("", 0.0))
    known = [rate for rate in taken.values() if rate]
    differ = known and max(known) - min(known) > max(_RATE_LEVELS, _RATE_SHARE * max(known))
    uneven_too = source == "FrameTime" and taken["FrameTimeVector"] and not even
    misfit = bool(vector) and len(vector) not in (frames, frames - 1)
    return fps, [
        VARIABLE_RATE if source == "FrameTimeVector" and not even else "",
        NEGATIVE_TIMES if source == "FrameTimeVector" and negative else "",
        RATES_DIFFER if differ or uneven_too or misfit else "",
        NO_POINTED_RATE if fps and pointed and not rates[pointed[0]] else "",
    ]


def _rate_of(milliseconds: float) -> float:
    """Frames a second for a time between frames in ms; 0 if it is implausible."""
    return possible_rate(round(1000 / milliseconds, 2)) if milliseconds > 0 else 0.0


def _pointed(dataset: pydicom.Dataset) -> list[str]:
    """The elements that FrameIncrementPointer names, in order."""
    value = dataset.get("FrameIncrementPointer")
    tags = value if isinstance(value, Sequence) else [] if value is None else [value]
    return [keyword_for_tag(int(tag)) for tag in tags]


def _positive(dataset: pydicom.Dataset, keyword: str) -> float:
    """A positive number of the header; 0 if it is missing, empty or not a number."""
    first = next(iter(dicom_dataset.numbers(dataset, keyword)), 0.0)
    return first if first > 0 else 0.0


def _region(dataset: pydicom.Dataset) -> tuple[slice, slice, tuple[float, float], str]:
    """The part of the frame to keep.

    It is the largest 2-D region of tissue or colour flow; of equally large ones the tissue, or the
    first. Side-by-side regions are two pictures, and their union would contain the text between
    them. Regions for another frame size (stale after an export at lower resolution), or too small
    for a picture, are ignored, because they would cut at arbitrary places.

    Returns:
      Rows and columns to keep; the distance of pixels (mm, down and right; 0 = unknown); and a note
      if the whole frame is kept because there is no usable region.
    """
    height, width = int(dataset.Rows), int(dataset.Columns)
    regions = list(dataset.get("SequenceOfUltrasoundRegions") or [])
    pictures = [region for region in regions if _is_picture(region)]
    # One pixel of tolerance, because some makers write the corner just outside the region.
    inside = [
        ((y0, min(y1, height), x0, min(x1, width)), region)
        for (y0, y1, x0, x1), region in zip(map(_box, pictures), pictures, strict=True)
        if 0 <= y0 < y1 <= height + 1 and 0 <= x0 < x1 <= width + 1
        if (y1 - y0) * (x1 - x0) >= _SMALLEST * height * width
    ]
    if not inside:
        note = STALE_REGION if pictures else NOT_2D if regions else NO_REGION
        # Distances in a stale region belong to frames of another size.
        spacing = (0.0, 0.0) if regions else _image_spacing(dataset)
        return slice(0, height), slice(0, width), spacing, note
    (y0, y1, x0, x1), region = max(
        inside, key=lambda pair: (_area(pair[0]), pair[1].RegionDataType == _TISSUE)
    )
    return slice(y0, y1), slice(x0, x1), _spacing(region), ""


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[1] - box[0]) * (box[3] - box[2])


def _is_picture(region: pydicom.Dataset) -> bool:
    return (
        region.get("RegionDataType") in (_TISSUE, _COLOUR_FLOW)
        and region.get("RegionSpatialFormat") == _TWO_DIMENSIONAL
    )


def _box(region: pydicom.Dataset) -> tuple[int, int, int, int]:
    """Top, bottom, left, right, all 0 if one is missing; DICOM's corners lie inside the region."""
    corners = (f"RegionLocation{name}" for name in ("MinY0", "MaxY1", "MinX0", "MaxX1"))
    top, last_row, left, last_column = (region.get(corner) for corner in corners)
    if None in (top, last_row, left, last_column):
        return 0, 0, 0, 0
    return int(top), int(last_row) + 1, int(left), int(last_column) + 1


def _spacing(region: pydicom.Dataset) -> tuple[float, float]:
    """mm between pixels of a region, down and right; 0 = unknown."""
    units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
    if units != (_CENTIMETRES, _CENTIMETRES):
        return 0.0, 0.0
    # A negative distance counts upwards.
    down, right = (region.get(f"PhysicalDelta{axis}") for axis in "YX")
    return abs(float(down or 0)) * 10, abs(float(right or 0)) * 10


def _image_spacing(dataset: pydicom.Dataset) -> tuple[float, float]:
    """mm between pixels of an image without regions, down and right; 0 = unknown."""
    pair = dicom_dataset.numbers(dataset, "PixelSpacing")
    return (pair[0], pair[1]) if len(pair) == 2 and all(np.isfinite(pair)) else (0.0, 0.0)


def _non_square(dataset: pydicom.Dataset, spacing: tuple[float, float]) -> bool:
    """Whether pixels are not square, by the header."""
    ratio = dicom_dataset.numbers(dataset, "PixelAspectRatio")
    pair = spacing if all(spacing) else ratio
    return len(pair) == 2 and all(np.isfinite(pair)) and not is_square(*pair)
