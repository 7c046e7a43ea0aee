"""Finds the colours and the depth of DICOM pictures from their content.

A header describes its pixels, and may be wrong: exporters recompress pictures and keep old labels.
Compressed pictures contain their own depth and colours (codestream.py). With more than 8 bits and
no window, the values that occur show how many bits are used. A contradiction to the header gives a
note, and an undecidable one rejects the file, so that no picture silently becomes black, white or
teal.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut
from rle.rle import decode_frame as decode_rle

from echojepa_jax.data.formats.dicom import codestream, grey
from echojepa_jax.data.formats.dicom import layout as dicom_layout
from echojepa_jax.data.formats.dicom.codestream import RGB, UNKNOWN, YCBCR, YCBCR_PARTIAL, Picture
from echojepa_jax.data.formats.dicom.dataset import numbers
from echojepa_jax.data.formats.dicom.layout import Layout, Shape
from echojepa_jax.data.formats.video_info import (
    COLOURS_DIFFER,
    DEPTH_DIFFERS,
    DEPTH_UNKNOWN,
    MAX_FRAME_PIXELS,
    PLANES_DIFFER,
    WINDOW_UNUSED,
    UnreadableVideo,
    notes,
)

_COLOURS, _LUT = ("Red", "Green", "Blue"), "PaletteColorLookupTable"
_OVERLAY_BITS = [0x60000102 + layer * 0x20000 for layer in range(16)]
# Elements that give the grey values of pixels in ways that are not read: tables, and windows in the
# functional groups of frames.
_GREY_TABLES = ("ModalityLUTSequence", "VOILUTSequence", "FrameVOILUTSequence")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
TAGS = [
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelPresentation"),
    *("ExtendedOffsetTable", *_OVERLAY_BITS, "PixelPaddingValue", "VOILUTFunction"),
    *(*_GREY_TABLES, *_GROUPS),
    *(f"{colour}{_LUT}{part}" for colour in _COLOURS for part in ("Descriptor", "Data")),
    *(f"Segmented{colour}{_LUT}Data" for colour in _COLOURS),
]
# The meaning of labels for three channels. Decoders of JPEG 2000 invert RCT and ICT.
_LABELS = {
    **dict.fromkeys(("RGB", "YBR_RCT", "YBR_ICT"), RGB),
    **dict.fromkeys(("YBR_FULL", "YBR_FULL_422"), YCBCR),
    **dict.fromkeys(("YBR_PARTIAL_422", "YBR_PARTIAL_420"), YCBCR_PARTIAL),
}
_OF_ONE_CHANNEL = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_OTHER_COLOURS = ("HSV", "ARGB", "CMYK", "XYB")
_HEAD_BYTES = 4096  # the first bytes of a picture, which describe its colours
_DARK = 1 / 8  # share of a window: if all values lie in its darkest or brightest part, it is wrong
_INSIDE = 1 / 8  # share of the values in the file: a window with fewer is for another depth


@dataclasses.dataclass(frozen=True, slots=True)
class Pixels:
    """The pictures of a file as they are stored.

    picture: the description in the first compressed picture; None for uncompressed pixels and RLE.
    colours: the meaning of three channels, for pictures that do not state it.
    planar: uncompressed channels follow one another, instead of being interleaved.
    by_label: `colours` comes from the header alone.
    """

    file: BinaryIO
    layout: Layout
    shape: Shape
    picture: Picture | None
    colours: str
    planar: bool
    note: str
    by_label: bool = False

    @property
    def bits(self) -> int:
        """Bits of a stored sample."""
        return self.picture.bits if self.picture else self.shape.bits

    @property
    def channels(self) -> int:
        return self.picture.channels if self.picture else self.shape.samples


def opened(file: BinaryIO, layout: Layout, dataset: pydicom.Dataset, shape: Shape) -> Pixels:
    """Describes the pictures of a file before they are decoded.

    Raises:
      UnreadableVideo: no decoder reads them, or the header describes other pictures.
    """
    label = _LABELS.get(shape.photometric, UNKNOWN)
    planar = int(dataset.get("PlanarConfiguration") or 0) == 1
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not layout.compressed or syntax == pydicom.uid.RLELossless:
        if shape.samples not in (1, 3):
            raise UnreadableVideo(f"unsupported: pictures of {shape.samples} channels")
        if layout.compressed and shape.bits not in (8, 16):
            raise dicom_layout.unsupported_bits(shape.bits)
        if shape.samples == 3:
            _check_label(shape.photometric)
            odd = label == UNKNOWN or shape.photometric in ("YBR_RCT", "YBR_ICT")
        else:
            odd = shape.photometric not in _OF_ONE_CHANNEL
        note = COLOURS_DIFFER if odd else ""
        by_label = shape.samples == 3 and not layout.halved
        return Pixels(file, layout, shape, None, label or RGB, planar, note, by_label)
    first = dicom_layout.read(file, layout, 0)
    if syntax is None and not first.startswith(codestream.STARTS):
        raise UnreadableVideo("incomplete: the header lacks TransferSyntaxUID")
    picture = _described(first, 0)
    if picture.height * picture.width > MAX_FRAME_PIXELS:
        raise UnreadableVideo("damaged: frame 0 does not decode")
    if picture.bits > 16:
        raise dicom_layout.unsupported_bits(picture.bits)
    colours, note, by_label = RGB, "", False
    if picture.channels == 3:
        stated = picture.colours or _stated_by_another(file, layout)
        assumed = label
        if picture.with_loss and (shape.photometric != "RGB"):
            assumed = YCBCR  # JPEGs have the full range
        if not (stated or assumed):
            _check_label(shape.photometric)
        colours = stated or assumed or RGB
        right = (colours == RGB) == (label == RGB)
        note = "" if label != UNKNOWN and right else COLOURS_DIFFER
        # Some writers apply the colour transform of JPEG 2000 to YCbCr, which is then the result.
        by_label = not stated or (picture.kind == codestream.JPEG_2000 and label == YCBCR)
    elif shape.samples > 1 or shape.photometric not in _OF_ONE_CHANNEL:
        note = COLOURS_DIFFER
    return Pixels(file, layout, shape, picture, colours, planar, note, by_label)


def checked_colours(pixels: Pixels) -> Pixels:
    """Corrects the colours and the order of channels by the values of frame 0 (see grey.py).

    Colours that the codestream states are not changed.

    Raises:
      UnreadableVideo: frame 0 does not decode.
    """
    if not pixels.by_label or pixels.bits > 8:
        return pixels
    as_it_is = dataclasses.replace(pixels, colours=RGB)
    frame = samples(as_it_is, 0)
    if pixels.picture is None and not pixels.layout.compressed and pixels.colours == RGB:
        other = dataclasses.replace(as_it_is, planar=not pixels.planar)
        if grey.is_better(samples(other, 0), frame):
            return dataclasses.replace(other, note=notes(pixels.note, PLANES_DIFFER))
    seen = grey.colours_of(frame)
    if seen == UNKNOWN or (seen == RGB) == (pixels.colours == RGB):
        return pixels
    return dataclasses.replace(pixels, colours=seen, note=COLOURS_DIFFER)


def _check_label(photometric: str) -> None:
    """Checks the label of three channels whose colours nothing else states.

    Raises:
      UnreadableVideo: the label is wrong or not supported.
    """
    if photometric == "PALETTE COLOR":
        raise UnreadableVideo("wrong PhotometricInterpretation: a palette for three channels")
    if photometric in _OTHER_COLOURS:
        raise UnreadableVideo(f"unsupported: PhotometricInterpretation {photometric}")
    if photometric not in (*_LABELS, *_OF_ONE_CHANNEL):  # the message omits it: it may be a name
        raise UnreadableVideo("wrong PhotometricInterpretation: DICOM does not define this value")


def _stated_by_another(file: BinaryIO, layout: Layout) -> str:
    """The colours that a later picture states, because some writers mark only one picture."""
    for k in range(1, len(layout.frames)):
        head = dicom_layout.beginning(file, layout, k, _HEAD_BYTES)
        try:
            if stated := codestream.describe(head).colours:
                return stated
        except codestream.ERRORS:
            continue  # decoding will report the error
    return UNKNOWN


def _described(data: bytes, k: int) -> Picture:
    try:
        return codestream.describe(data)
    except codestream.Unsupported as error:
        raise UnreadableVideo(f"unsupported: {error}") from error
    except codestream.ERRORS as error:
        raise UnreadableVideo(f"damaged: frame {k} does not decode") from error


def samples(pixels: Pixels, k: int) -> np.ndarray:
    """Frame `k` as it is stored: unsigned [H, W] or [H, W, 3]; channels of 8 bits become RGB.

    Raises:
      UnreadableVideo: it does not decode.
    """
    data = dicom_layout.read(pixels.file, pixels.layout, k)
    if pixels.picture is not None:
        return _decoded(pixels, data, k)
    if pixels.layout.compressed:
        stored = _from_rle(pixels.shape, data, k)
    else:
        stored = _from_bytes(pixels, data, k)
    deep = stored.dtype != np.uint8
    return stored if stored.ndim == 2 or deep else codestream.to_rgb(stored, pixels.colours)


def _decoded(pixels: Pixels, data: bytes, k: int) -> np.ndarray:
    first, shape = pixels.picture, pixels.shape
    assert first is not None
    picture = _described(data, k)
    if (picture.channels, picture.bits) != (first.channels, first.bits):
        raise UnreadableVideo(f"mixed pictures: frame {k} has other channels or bits than frame 0")
    if (picture.height, picture.width) != (shape.rows, shape.columns):
        size = picture.height, picture.width
        raise dicom_layout.wrong_size((shape.rows, shape.columns), k, size)
    colours = picture.colours or pixels.colours
    if picture.kind == codestream.JPEG_2000 and pixels.colours == YCBCR:
        colours = YCBCR
    try:
        return codestream.decode(data, picture, colours)
    except codestream.Unsupported as error:
        raise UnreadableVideo(f"unsupported: {error}") from error
    except codestream.ERRORS as error:
        raise UnreadableVideo(f"damaged: frame {k} does not decode") from error


def _from_rle(shape: Shape, data: bytes, k: int) -> np.ndarray:
    stated, held = shape.samples * shape.bits // 8, int.from_bytes(data[:4], "little")
    if held != stated and held in (1, 2, 3, 6):
        raise UnreadableVideo(
            f"wrong SamplesPerPixel or BitsAllocated: header states {stated} bytes a pixel, frame "
            f"{k} has {held}"
        )
    try:
        planes = decode_rle(data, shape.rows * shape.columns, shape.bits, "<")
        stored = np.frombuffer(planes, f"<u{shape.bits // 8}")
        stored = stored.reshape(shape.samples, shape.rows, shape.columns)
    except codestream.ERRORS as error:
        raise UnreadableVideo(f"damaged: frame {k} does not decode") from error
    return stored[0] if shape.samples == 1 else np.moveaxis(stored, 0, -1)


def _from_bytes(pixels: Pixels, data: bytes, k: int) -> np.ndarray:
    """Uncompressed pixels [H, W] or [H, W, C]."""
    shape, layout = pixels.shape, pixels.layout
    dtype = np.dtype(f"{'>' if layout.big_endian else '<'}u{shape.bits // 8}")
    try:
        stored = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)
        size = shape.rows, shape.columns
        if layout.halved:
            # The brightness of two pixels, then the colours that both share.
            pairs = stored.reshape(shape.rows, shape.columns // 2, 4)
            luma = pairs[..., :2].reshape(size)
            shared = np.repeat(pairs[..., 2:], 2, axis=1)
            return np.dstack([luma, shared])
        if shape.samples == 1:
            return stored.reshape(size)
        if pixels.planar:
            return np.moveaxis(stored.reshape(shape.samples, *size), 0, -1)
        return stored.reshape(*size, shape.samples)
    except ValueError as error:
        raise UnreadableVideo(f"truncated: frame {k} is incomplete") from error


# --- from samples to displayed pixels -------------------------------------------------------------

ToRgb = Callable[[np.ndarray], np.ndarray]


def display_map(
    dataset: pydicom.Dataset, pixels: Pixels, occurring: Callable[[], np.ndarray]
) -> tuple[ToRgb, str]:
    """The map from samples to uint8 [H, W, 3], the same for all frames, and a note on it.

    Args:
      occurring: returns the sample values in all frames, ascending; called only if needed.

    Raises:
      UnreadableVideo: the header contradicts the samples, and it is unclear which one is right.
    """
    photometric = pixels.shape.photometric
    if photometric == "PALETTE COLOR" and pixels.channels == 1:
        return _palette(dataset, pixels, occurring)
    inverted = photometric == "MONOCHROME1" and pixels.channels == 1
    if pixels.channels == 1 and dataset.get("PixelPresentation") == "COLOR":
        raise UnreadableVideo("unsupported: a palette for some of the values only")
    sign = dataset.get("PixelRepresentation")
    if sign is None and pixels.bits > 8 and pixels.channels == 1:
        raise UnreadableVideo("incomplete: the header lacks PixelRepresentation")
    signed = sign == 1 and pixels.channels == 1  # colours are never negative
    stated = _stated_bits(dataset, pixels)
    if pixels.bits == 8 and not signed and (stated >= 8 or pixels.picture is not None):
        falling = pixels.channels == 1 and _slope(dataset) < 0
        table = np.arange(256)[:: -1 if falling else 1]
        note = "" if stated == 8 else DEPTH_DIFFERS
        has_marks = pixels.channels == 1 and not (pixels.picture and pixels.picture.with_loss)
        padding = _padding(dataset, table) if has_marks else []
    else:
        present = occurring()
        padding = _padding(dataset, present)
        table, note = _levels(dataset, pixels, signed, np.setdiff1d(present, padding))
    table = (255 - table if inverted else table).astype(np.uint8)
    table[padding] = 0
    as_it_is = bool(np.array_equal(table, np.arange(256)))

    def to_rgb(stored: np.ndarray) -> np.ndarray:
        levels = stored if as_it_is and stored.dtype == np.uint8 else table[stored]
        if levels.ndim == 2:
            return np.repeat(levels[..., None], 3, axis=-1)
        deep = stored.dtype != np.uint8
        return codestream.to_rgb(levels, pixels.colours) if deep else levels

    return to_rgb, note


def _padding(dataset: pydicom.Dataset, present: np.ndarray) -> list[int]:
    """The sample that marks places without a picture, if it occurs beside other samples."""
    value = dataset.get("PixelPaddingValue")
    marked = [] if value is None else [int(value) & 0xFFFF]
    return marked if len(present) > 1 and np.isin(marked, present).all() else []


def _levels(
    dataset: pydicom.Dataset, pixels: Pixels, signed: bool, present: np.ndarray
) -> tuple[np.ndarray, str]:
    """The displayed level of each possible sample, 0 (black) to 255: float [2^16]; and a note."""
    stored, shift, note = _stored_bits(dataset, pixels, signed, present)
    if stored > 8 and pixels.channels == 1:
        _check_tables(dataset)
    raw = np.arange(2**16)
    values = (raw >> shift) & (2**stored - 1)
    if signed:
        values = np.where(values >= 2 ** (stored - 1), values - 2**stored, values)
    lowest, highest = int(values[present].min()), int(values[present].max())
    window = _window(dataset) if stored > 8 and pixels.channels == 1 else None
    if window is not None:
        low, high = window
        darkest, brightest = sorted(window)  # a negative slope reverses them
        edge = _DARK * (brightest - darkest)
        inside = (values[present] >= darkest) & (values[present] <= brightest)
        if highest < darkest + edge or lowest > brightest - edge or inside.mean() < _INSIDE:
            window, note = None, notes(note, WINDOW_UNUSED)
    if window is None:
        bits = _bits(lowest, highest)
        stated = stored - 1 if signed and lowest >= 0 else stored
        if stated <= 8:
            bits = stated
        # Pictures rarely use the full range, so one unused bit is normal. But 8 used bits of 16
        # would be displayed as black.
        elif bits == 8 or stated - bits >= 2:
            note = notes(note, DEPTH_UNKNOWN)
        else:
            bits = stated
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if lowest < 0 else (0, 2**bits - 1)
        if pixels.channels == 1 and _slope(dataset) < 0:
            low, high = high, low
    elif dataset.get("VOILUTFunction") == "SIGMOID":
        steps = np.clip((values - (low + high) / 2) / (high - low), -9, 9)
        return np.rint(255 / (1 + np.exp(-4 * steps))), note
    return np.clip(np.rint((values - low) * (255 / (high - low))), 0, 255), note


def _check_tables(dataset: pydicom.Dataset) -> None:
    """Checks that nothing but a window or a factor turns stored values into grey ones.

    Raises:
      UnreadableVideo: something else does.
    """
    for part in (dataset, *(item for group in _GROUPS for item in dataset.get(group) or ())):
        for name in _GREY_TABLES:
            if part.get(name) and (name != "VOILUTSequence" or _window(dataset) is None):
                raise UnreadableVideo(f"unsupported: grey values that {name} gives")


def _stated_bits(dataset: pydicom.Dataset, pixels: Pixels) -> int:
    """BitsStored; if it is missing, the bits of the pictures."""
    stated = dataset.get("BitsStored")
    return pixels.bits if stated is None else int(stated)


def _bits(lowest: int, highest: int) -> int:
    """The number of bits for these values, at least 8, including the sign if one is negative."""
    if lowest >= 0:
        return max(8, highest.bit_length())
    return max(8, 1 + max(highest.bit_length(), (-lowest - 1).bit_length()))


def _stored_bits(
    dataset: pydicom.Dataset, pixels: Pixels, signed: bool, present: np.ndarray
) -> tuple[int, int, str]:
    """The number of bits of a sample, the number of unused bits below them, and a note."""
    bits, stated = pixels.bits, _stated_bits(dataset, pixels)
    stored = stated if 1 <= stated <= bits else bits
    used = int(np.bitwise_or.reduce(present))
    top = int(dataset.get("HighBit") or stored - 1)
    shift = top + 1 - stored if stored <= top + 1 <= bits else 0
    note = "" if stored == stated else DEPTH_DIFFERS
    if shift and used & (2**shift - 1):
        if used >= 2**stored:
            raise UnreadableVideo(
                f"wrong HighBit: header states bits {shift} to {top}, pixels also use lower ones"
            )
        shift, note = 0, DEPTH_DIFFERS
    # 0, if graphics are not in the bits of the pixels.
    graphics = [int(dataset[tag].value or 0) for tag in _OVERLAY_BITS if tag in dataset]
    above = max(graphics, default=0) >= stored + shift
    if used < 2 ** (stored + shift) or above:
        return stored, shift, note  # graphics in the upper bits do not belong to the picture
    if signed and _is_sign_extended(present >> shift, stored, bits - shift):
        return stored, shift, note
    if bits > 8 and pixels.picture is None:
        raise UnreadableVideo(
            f"wrong BitsStored: header states {stated} bits, pixels use {used.bit_length()}"
        )
    return bits, 0, DEPTH_DIFFERS  # the compressed picture states its bits


def _is_sign_extended(values: np.ndarray, stored: int, bits: int) -> bool:
    """Whether the bits above those stored repeat the sign, in every value."""
    above = values >> (stored - 1)
    return bool(np.isin(above, (0, 2 ** (bits - stored + 1) - 1)).all())


def _window(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """The stored values that the header maps to black and to white; None without a window.

    This is DICOM's linear window (PS3.3 C.11.2.1.2) with the rescale slope inverted.
    """
    centre, width = (_number(dataset, key, math.nan) for key in ("WindowCenter", "WindowWidth"))
    if not (math.isfinite(centre) and width > 1):
        return None
    low = centre - 0.5 - (width - 1) / 2
    slope, intercept = _slope(dataset), _number(dataset, "RescaleIntercept", 0.0)
    return (low - intercept) / slope, (low + width - 1 - intercept) / slope


def _slope(dataset: pydicom.Dataset) -> float:
    """The factor for stored values; if it is negative, the largest value is the darkest."""
    return _number(dataset, "RescaleSlope", 1.0) or 1.0


def _number(dataset: pydicom.Dataset, name: str, default: float) -> float:
    """The first number of an element; `default` if there is none."""
    first = next(iter(numbers(dataset, name)), math.nan)
    return first if math.isfinite(first) else default


# --- palettes -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Table:
    """The entries of a palette for one colour.

    first: the pixel value of the first entry. count: entries that the descriptor states.
    bits: bits of an entry that the descriptor states. entries: those in the file.
    """

    first: int
    count: int
    bits: int
    entries: np.ndarray


def _palette(
    dataset: pydicom.Dataset, pixels: Pixels, occurring: Callable[[], np.ndarray]
) -> tuple[ToRgb, str]:
    """The map from palette indices [H, W] to uint8 [H, W, 3], and a note."""
    if pixels.picture and pixels.picture.with_loss:
        raise UnreadableVideo("unsupported: a palette for pictures with lossy compression")
    signed = dataset.get("PixelRepresentation") == 1
    stored, shift, note = pixels.bits, 0, ""
    if _stated_bits(dataset, pixels) < stored:
        stored, shift, note = _stored_bits(dataset, pixels, signed, occurring())
    endian = ">" if pixels.layout.big_endian else "<"
    tables = [_table(dataset, colour, endian, signed) for colour in _COLOURS]
    colours = list(zip(tables, _as_levels(tables), strict=True))

    def to_rgb(image: np.ndarray) -> np.ndarray:
        indices = (image.astype(np.int32) >> shift) & (2**stored - 1)
        channels = []
        for table, levels in colours:
            places = indices
            if table.first < 0:  # signed pixels with entries for negative values
                sign = 2 ** (stored - 1)
                places = np.where(places >= sign, places - 2 * sign, places)
            places = np.clip(places - table.first, 0, table.count - 1)
            if len(levels) < table.count and places.max() >= len(levels):
                raise UnreadableVideo(
                    f"wrong palette: pixels use entry {places.max()}, the file holds {len(levels)}"
                )
            channels.append(levels[places])
        return np.stack(channels, axis=-1)

    return to_rgb, note


def _table(dataset: pydicom.Dataset, colour: str, endian: str, signed: bool) -> _Table:
    name, data = f"{colour}{_LUT}Descriptor", dataset.get(f"{colour}{_LUT}Data")
    if dataset.get(name) is None:
        raise UnreadableVideo(f"incomplete: the header lacks {name}")
    try:
        count, first, bits = map(int, dataset[name].value)
    except (TypeError, ValueError) as error:
        raise UnreadableVideo(f"wrong {name}: it is not three numbers") from error
    count = (count & 0xFFFF) or 2**16  # 0 stands for 65,536, which does not fit into 16 bits
    first &= 0xFFFF
    if signed and first >= 2**15:
        first -= 2**16
    if data and not isinstance(data, bytes):  # numbers (US or SS), instead of bytes (OW)
        data = np.atleast_1d(np.asarray(data, np.int64)).astype(f"{endian}u2").tobytes()
    if data:
        entries = _entries(data, count, bits, endian)
    elif dataset.get(f"Segmented{colour}{_LUT}Data"):
        every = apply_color_lut(np.arange(first, first + count), dataset)
        entries = every[..., _COLOURS.index(colour)]
    else:
        raise UnreadableVideo(f"incomplete: the header lacks {colour}{_LUT}Data")
    return _Table(first, count, bits, entries)


def _as_levels(tables: Sequence[_Table]) -> list[np.ndarray]:
    """The entries of each colour as levels from 0 to 255: uint8 [N].

    Files also contain entries of 8 bits in 16, and of 12 bits whose descriptor states 16.
    """
    wide = [table for table in tables if table.entries.dtype.itemsize > 1]
    if not wide:
        return [table.entries for table in tables]
    values = np.concatenate([table.entries for table in wide])
    width = max(8, int(values.max()).bit_length())
    if width > 8 and not (np.any(values % 256) and np.any(values % 257)):
        width = 16  # 8 bits in the upper byte, or repeated in both bytes
    elif width > 8 and width + 1 >= wide[0].bits > width:
        width = wide[0].bits  # a palette without white
    return [
        (table.entries >> (width - 8)).astype(np.uint8)
        if table.entries.dtype.itemsize > 1
        else table.entries
        for table in tables
    ]


def _entries(data: bytes, entries: int, bits: int, endian: str) -> np.ndarray:
    """The entries of one colour that the file contains.

    An entry has the number of bytes that the descriptor states, unless only the other number (of 1
    and 2) fits the length of the data. A padding byte and one missing entry are common.
    """
    stated = 2 if bits > 8 else 1
    fits = [n for n in (stated, 3 - stated) if abs(len(data) - entries * n) <= 2]
    size = (fits or [stated])[0]
    if size == 1 and endian == ">" and len(data) % 2 == 0:
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()  # stored in words
    return np.frombuffer(data[: len(data) // size * size], f"{endian}u{size}")[:entries]
