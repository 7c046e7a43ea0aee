"""Exact frames of ultrasound DICOM files, through pydicom, cropped to the ultrasound region.

Privacy: of the header only the tags listed here are read, so no name, date or id can reach a log;
for the same reason pydicom's own messages, which quote values, never become a reason. (Preparation
asks for the ids of patient and study, to hash them at once: `identity`.) The crop removes the
banner burned into the pixels around the sector.
"""

import contextlib
import dataclasses
import logging
import math
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from echojepa_jax.data.video_info import (
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

_COLOURS, _LUT = ("Red", "Green", "Blue"), "PaletteColorLookupTable"
_TAGS = [
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "WindowCenter", "WindowWidth"),
    *("RescaleSlope", "RescaleIntercept", "SequenceOfUltrasoundRegions"),
    *("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate", "PixelSpacing"),
    *("FrameIncrementPointer", "Modality", "SOPClassUID", "PixelAspectRatio"),
    *(f"{colour}{_LUT}{part}" for colour in _COLOURS for part in ("Descriptor", "Data")),
    *(f"Segmented{colour}{_LUT}Data" for colour in _COLOURS),
]
# What pydicom 3 and its plugins raise on damaged files; found by damaging files at random.
_PYDICOM_ERRORS = (
    *(AttributeError, EOFError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    *(InvalidDicomError, BytesLengthException, struct.error),
)
_PIXEL_DATA, _ITEM = (0x7FE0, 0x0010), (0xFFFE, 0xE000)
# Of JPEG and JPEG-LS, and of JPEG 2000: they do not occur within a picture.
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
# Values of RegionDataType, RegionSpatialFormat and PhysicalUnits (DICOM PS3.3, C.8.5.5).
_TISSUE, _COLOUR_FLOW, _TWO_DIMENSIONAL, _CENTIMETRES = 1, 2, 1, 3
_SYNTAX = "TransferSyntaxUID"
_SMALLEST = 0.05  # share of the frame that a picture covers at least
# Elements without which pixels have no meaning, whatever their coding.
_NEEDED = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
# Storage classes that are made for another kind of machine, by what follows `_STORAGE`. Those for
# any picture (secondary captures) and for ultrasound are not here: the element Modality decides.
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
_ULTRASOUND_CLASSES = ("3", "3.1", "6", "6.1", "6.2")
_NO_MACHINE = ("", "OT", "SC")  # codes of Modality that name none
# How the rates of two elements may differ: one is a whole number of frames a second, the other a
# time of few digits.
_RATE_LEVELS, _RATE_SHARE = 0.5, 0.05

logging.getLogger("pydicom").propagate = False  # its warnings quote the file's values
warnings.filterwarnings("ignore", module="pydicom")


@dataclasses.dataclass(frozen=True, slots=True)
class _Header:
    """What the header says; `rows` and `columns` are the part of the frame to keep."""

    frames: int
    fps: float
    rows: slice
    columns: slice
    note: str
    spacing: tuple[float, float]
    modality: str
    compressed: bool
    to_rgb: Callable[[np.ndarray], np.ndarray]


def probe(path: str) -> VideoInfo:
    """The facts of a DICOM file; all its frames are counted, the first one is decoded.

    Raises:
      UnreadableVideo: not DICOM, no image, truncated, or an encoding that is not supported.
    """
    with _opened(path) as (file, header):
        image = next(_images(file, header, [0]))
    height, width = image.shape[:2]
    facts = header.frames, header.fps, height, width
    return VideoInfo(*facts, note=header.note, spacing=header.spacing, modality=header.modality)


def frames(path: str, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames `ids` (ascending, none twice) as RGB uint8 [H, W, 3], cropped.

    Raises:
      UnreadableVideo: as `probe`, or the file holds fewer frames than asked for.
    """
    with _opened(path) as (file, header):
        if ids[-1] >= header.frames:
            raise fewer_frames(header.frames, ids[-1])
        yield from _images(file, header, ids)


def coded(path: str) -> Iterator[bytes]:
    """Yield the bytes of the coded pictures, and none of the header.

    Raises:
      UnreadableVideo: as `probe`.
    """
    with _opened(path) as (file, _):
        # The file stands at the pixel data, which end it.
        while block := file.read(2**20):
            yield block


def identity(path: str) -> tuple[str, str]:
    """Who is shown and in which examination, "" where the header does not tell.

    These are names of people: hash them before they go anywhere.
    """
    tags = ["PatientID", "PatientName", "StudyInstanceUID"]
    try:
        with open(path, "rb") as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
        patient, name, study = (str(dataset.get(tag) or "").strip() for tag in tags)
    except _PYDICOM_ERRORS as error:
        raise UnreadableVideo("damaged: the DICOM header cannot be read") from error
    return patient or name, study


def _images(file: BinaryIO, header: _Header, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames `ids` as uint8 [H, W, 3]."""
    # One plugin for every syntax: Pillow's colours are wrong for JPEGs with an Adobe marker, and a
    # mixture would make pixels depend on what happens to be installed.
    plugin = "pylibjpeg" if header.compressed else ""
    for k in ids:
        # One call a frame: pydicom's iterator forgets after its first frame that colour is halved.
        pixels = pixel_array(file, index=k, decoding_plugin=plugin)
        yield header.to_rgb(pixels[header.rows, header.columns])


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[BinaryIO, _Header]]:
    """Open a DICOM file and read its header; whatever pydicom raises becomes UnreadableVideo."""
    if first_bytes(path)[128:132] != b"DICM":
        raise UnreadableVideo("not a video file: named .dcm, but no DICOM content")
    stage = "header"
    try:
        with open(path, "rb") as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            header = _header(dataset)
            start = file.tell()
            _check_pixel_data(file, dataset, header.frames)
            file.seek(start)
            stage = "pixel data"
            yield file, header
    except _PYDICOM_ERRORS as error:
        raise UnreadableVideo(_reason(error, stage)) from error


def _reason(error: Exception, stage: str) -> str:
    """Why pydicom gave up, in words of our own: its message may quote a name."""
    if isinstance(error, OSError) and error.errno:
        return f"unreadable: {os.strerror(error.errno)}"
    if isinstance(error, NotImplementedError):
        return f"unsupported: a DICOM {stage} of this form"
    # Elements are attributes of a data set, or keys, as tags.
    element = error.name if isinstance(error, AttributeError) else ""
    if isinstance(error, KeyError) and isinstance(error.args[0], int):
        element = keyword_for_tag(error.args[0])
    if element and tag_for_keyword(element) is not None:
        return f"incomplete: the header lacks {element}"
    return f"damaged: the DICOM {stage} cannot be read"


def _header(dataset: pydicom.Dataset) -> _Header:
    syntax = dataset.file_meta.get(_SYNTAX)
    if not any(name in dataset for name in _NEEDED):  # a report, a waveform, an index
        raise UnreadableVideo("no frames: the DICOM file holds no image")
    missing = [name for name in _NEEDED if dataset.get(name) is None]
    if missing or syntax is None:
        raise UnreadableVideo(f"incomplete: the header lacks {(missing or [_SYNTAX])[0]}")
    try:
        supported = get_decoder(syntax).is_available
    except NotImplementedError:
        supported = False
    if not supported or syntax == DeflatedExplicitVRLittleEndian:
        raise UnreadableVideo(f"unsupported: DICOM transfer syntax {syntax.name}")
    check_size(int(dataset.Rows), int(dataset.Columns))
    rows, columns, spacing, note = _region(dataset)
    fps, timing = _frame_rate(dataset)
    modality = _modality(dataset)
    return _Header(
        frames=int(dataset.get("NumberOfFrames") or 1),
        fps=fps,
        rows=rows,
        columns=columns,
        note=notes(
            note,
            *timing,
            NON_SQUARE if _non_square(dataset, spacing) else "",
            "" if modality == ULTRASOUND else not_ultrasound(modality),
        ),
        spacing=spacing,
        modality=modality,
        compressed=syntax.is_compressed,
        to_rgb=_to_rgb(dataset),
    )


def _modality(dataset: pydicom.Dataset) -> str:
    """The code of the kind of machine, such as "US" or "XA"; "" where the header does not tell.

    What the file is stored as counts first, where that is for one kind of machine only; a file that
    names no machine is ultrasound if it has regions or is stored as that.
    """
    stored = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID"))
    kind = stored.removeprefix(_STORAGE)
    if kind in _CLASSES:
        return _CLASSES[kind]
    said = str(dataset.get("Modality") or "").strip().upper()
    if not re.fullmatch("[A-Z0-9]{0,8}", said):  # no code, and so perhaps a name
        said = ""
    if said not in _NO_MACHINE:
        return said
    shown = kind in _ULTRASOUND_CLASSES or dataset.get("SequenceOfUltrasoundRegions")
    return ULTRASOUND if shown else said


def _frame_rate(dataset: pydicom.Dataset) -> tuple[float, list[str]]:
    """Frames a second, and notes on them.

    From the element that FrameIncrementPointer names, else the time between frames (ms), else the
    cine or display rate, else 0; the first that a machine can have. Times are written with few
    digits (33.333), so the rate is rounded to what they can tell.
    """
    vector = dataset.get("FrameTimeVector") or ()
    vector = list(vector) if isinstance(vector, Sequence) else []
    frames = int(dataset.get("NumberOfFrames") or 1)
    later = vector if len(vector) == frames - 1 else vector[1:]  # the first entry is always 0
    even = is_regular(np.cumsum([0, *later]).tolist(), 1.0)
    taken = {
        "FrameTime": _rate_of(_positive(dataset, "FrameTime")),
        "FrameTimeVector": _rate_of(float(np.mean(later)) if later else 0.0),
        "CineRate": possible_rate(_positive(dataset, "CineRate")),
    }
    shown = possible_rate(_positive(dataset, "RecommendedDisplayFrameRate"))
    pointed = [name for name in _pointed(dataset) if name in taken]
    order = dict.fromkeys([*pointed, *taken])
    source, fps = next(
        ((name, taken[name]) for name in order if taken[name]), ("RecommendedDisplay", shown)
    )
    known = [rate for rate in taken.values() if rate]
    differ = known and max(known) - min(known) > max(_RATE_LEVELS, _RATE_SHARE * max(known))
    uneven_too = source == "FrameTime" and taken["FrameTimeVector"] and not even
    misfit = bool(vector) and len(vector) not in (frames, frames - 1)
    return fps, [
        VARIABLE_RATE if source == "FrameTimeVector" and not even else "",
        RATES_DIFFER if differ or uneven_too or misfit else "",
        NO_POINTED_RATE if pointed and not taken[pointed[0]] else "",
    ]


def _rate_of(milliseconds: float) -> float:
    """The rate of frames so far apart; 0 for what no machine makes."""
    return possible_rate(round(1000 / milliseconds, 2)) if milliseconds > 0 else 0.0


def _pointed(dataset: pydicom.Dataset) -> list[str]:
    """The elements that FrameIncrementPointer names, in order."""
    value = dataset.get("FrameIncrementPointer")
    tags = value if isinstance(value, Sequence) else [] if value is None else [value]
    return [keyword_for_tag(int(tag)) for tag in tags]


def _positive(dataset: pydicom.Dataset, keyword: str) -> float:
    """A positive number of the header; 0 where it is absent, empty or not a number."""
    try:
        return max(0.0, float(dataset.get(keyword) or 0))
    except (TypeError, ValueError):
        return 0.0


def _region(dataset: pydicom.Dataset) -> tuple[slice, slice, tuple[float, float], str]:
    """The rows and columns to keep, the distance of pixels (mm, down and right; 0 = unknown), and a
    note where the whole frame is kept for want of a region.

    The largest 2-D region of tissue or colour flow is kept, of equal ones the tissue, or the first:
    side-by-side regions are two pictures, and their union would hold the text between them. Regions
    written for another frame size (stale after an export at lower resolution), or too small for a
    picture, would cut at random, so they are not used.
    """
    height, width = int(dataset.Rows), int(dataset.Columns)
    regions = list(dataset.get("SequenceOfUltrasoundRegions") or [])
    pictures = [region for region in regions if _is_picture(region)]
    # One pixel of grace: some makers write the corner outside.
    inside = [
        ((y0, min(y1, height), x0, min(x1, width)), region)
        for (y0, y1, x0, x1), region in zip(map(_box, pictures), pictures, strict=True)
        if 0 <= y0 < y1 <= height + 1 and 0 <= x0 < x1 <= width + 1
        if (y1 - y0) * (x1 - x0) >= _SMALLEST * height * width
    ]
    if not inside:
        note = STALE_REGION if pictures else NOT_2D if regions else NO_REGION
        # What a stale region says of distances is for frames of another size.
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
    """Top, bottom, left and right, all 0 if one is not told; the named corners are inside."""
    corners = (f"RegionLocation{name}" for name in ("MinY0", "MaxY1", "MinX0", "MaxX1"))
    top, last_row, left, last_column = (region.get(corner) for corner in corners)
    if None in (top, last_row, left, last_column):
        return 0, 0, 0, 0
    return int(top), int(last_row) + 1, int(left), int(last_column) + 1


def _spacing(region: pydicom.Dataset) -> tuple[float, float]:
    """mm between pixels of a region, down and right; 0 = it does not tell."""
    units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
    if units != (_CENTIMETRES, _CENTIMETRES):
        return 0.0, 0.0
    # A negative one counts upwards.
    down, right = (region.get(f"PhysicalDelta{axis}") for axis in "YX")
    return abs(float(down or 0)) * 10, abs(float(right or 0)) * 10


def _image_spacing(dataset: pydicom.Dataset) -> tuple[float, float]:
    """The same for an image without regions."""
    pair = dataset.get("PixelSpacing")
    return (float(pair[0]), float(pair[1])) if pair and len(pair) == 2 else (0.0, 0.0)


def _non_square(dataset: pydicom.Dataset, spacing: tuple[float, float]) -> bool:
    """Whether the header says that pixels are higher than wide, or wider than high."""
    ratio = dataset.get("PixelAspectRatio") or (1, 1)
    pair = spacing if all(spacing) else tuple(map(float, ratio))
    return len(pair) == 2 and not is_square(*pair)


def _to_rgb(dataset: pydicom.Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """The map from decoded pixels [H, W] or [H, W, 3] to uint8 [H, W, 3]; one for all frames."""
    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        return _palette(dataset)
    if int(dataset.BitsAllocated) > 16:
        raise UnreadableVideo("unsupported: DICOM pixels of more than 16 bits")
    low, high = _stored_range(dataset)
    if photometric == "MONOCHROME1":
        low, high = high, low

    def to_rgb(pixels: np.ndarray) -> np.ndarray:
        if (low, high) != (0, 255):
            levels = (pixels.astype(np.float32) - low) * (255 / (high - low))
            pixels = np.clip(np.rint(levels), 0, 255)
        pixels = pixels.astype(np.uint8)
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)

    return to_rgb


def _stored_range(dataset: pydicom.Dataset) -> tuple[float, float]:
    """The stored values that become black and white: the window of deep grey images, else all bits.

    The window is DICOM's linear one (PS3.3 C.11.2.1.2), taken back through the rescale slope.
    Eight-bit ultrasound is stored as it was shown, so it needs none.
    """
    bits, signed = int(dataset.BitsStored), int(dataset.get("PixelRepresentation") or 0)
    centre, width = (_first(dataset.get(key)) for key in ("WindowCenter", "WindowWidth"))
    if bits > 8 and dataset.SamplesPerPixel == 1 and math.isfinite(centre) and width > 1:
        low = centre - 0.5 - (width - 1) / 2
        slope = float(dataset.get("RescaleSlope") or 1)
        intercept = float(dataset.get("RescaleIntercept") or 0)
        return (low - intercept) / slope, (low + width - 1 - intercept) / slope
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _first(value: object) -> float:
    """The first of the numbers in an element that may hold several, one or none (then NaN)."""
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    return float(numbers[0]) if numbers.size else float("nan")


def _palette(dataset: pydicom.Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """The map of palette indices [H, W] to uint8 [H, W, 3]."""
    entries, first, _ = dataset.RedPaletteColorLookupTableDescriptor
    entries = entries or 2**16  # 16 bits cannot say 65,536
    if "RedPaletteColorLookupTableData" in dataset:
        endian = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        channels = [dataset[f"{colour}{_LUT}Data"].value for colour in _COLOURS]
        dtype = np.dtype(f"{endian}u{2 if len(channels[0]) >= 2 * entries else 1}")
        table = np.stack([np.frombuffer(data, dtype, count=entries) for data in channels], axis=-1)
    else:  # in segments, which pydicom expands
        table = apply_color_lut(np.arange(first, first + entries), dataset)
    # Entries are either of 16 bits, or of 8 bits whatever the size they are stored in.
    table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
    return lambda pixels: table[np.clip(pixels.astype(np.int32) - first, 0, entries - 1)]


def _check_pixel_data(file: BinaryIO, dataset: pydicom.Dataset, frames: int) -> None:
    """Raise UnreadableVideo unless `file`, standing at the pixel data, holds all of `frames`."""
    syntax = dataset.file_meta.TransferSyntaxUID
    endian = "<" if syntax.is_little_endian else ">"
    head = file.read(8)
    if len(head) < 8 or struct.unpack(f"{endian}HH", head[:4]) != _PIXEL_DATA:
        raise UnreadableVideo("no frames: the DICOM file holds no pixel data")
    # In explicit VR the length follows two empty bytes.
    length = struct.unpack(f"{endian}I", head[4:] if syntax.is_implicit_VR else file.read(4))[0]
    if syntax.is_compressed:
        fragments, begun, complete = _fragments(file)
        held = (
            max(frames, begun) if complete and fragments >= frames else min(fragments, frames - 1)
        )
    else:
        frame_bytes = -(-_frame_bits(dataset) // 8)
        held = min(length, os.fstat(file.fileno()).st_size - file.tell()) // frame_bytes
    if held > frames:  # which ones are meant, nobody can tell
        raise UnreadableVideo(
            f"wrong NumberOfFrames: header says {frames} frames, file holds {held}"
        )
    if held < frames:
        raise UnreadableVideo(f"truncated: header says {frames} frames, file holds {held}")


def _frame_bits(dataset: pydicom.Dataset) -> int:
    """The bits of one uncompressed frame; 4:2:2 shares each colour between two pixels."""
    samples = int(dataset.SamplesPerPixel)
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        samples = 2
    return int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated)


def _fragments(file: BinaryIO) -> tuple[int, int, bool]:
    """Count the whole fragments of compressed pixel data, and those that begin a JPEG picture.

    False where the file ends within them.
    """
    size, items, begun = os.fstat(file.fileno()).st_size, 0, 0
    while len(head := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) != _ITEM:
            return max(0, items - 1), begun, True  # the first item is the offset table
        if file.tell() + length > size:
            break
        end = file.tell() + length
        begun += file.read(4).startswith(_PICTURE_STARTS)
        file.seek(end)
        items += 1
    return max(0, items - 1), begun, False
