"""The colours and depth of DICOM pictures, found from their content.

A header describes its pixels, and may be wrong: exporters recompress pictures and keep old labels.
Compressed pictures hold their own depth and colours (codestream.py). With more than 8 bits and no
window, the values that occur show how many bits are used. What contradicts the header is noted, and
what cannot be decided is refused: no picture becomes black, white or teal without a word.
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
from echojepa_jax.data.formats.dicom.codestream import OPEN, RGB, YCBCR, YCBCR_PARTIAL, Picture
from echojepa_jax.data.formats.dicom.layout import Layout, Shape
from echojepa_jax.data.formats.video_info import (
    COLOURS_DIFFER,
    DEPTH_DIFFERS,
    DEPTH_UNTOLD,
    MAX_FRAME_PIXELS,
    PLANES_DIFFER,
    WINDOW_UNUSED,
    UnreadableVideo,
    notes,
)

_COLOURS, _LUT = ("Red", "Green", "Blue"), "PaletteColorLookupTable"
_OVERLAY_BIT = 0x60000102
TAGS = [
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelPresentation"),
    *("ExtendedOffsetTable", _OVERLAY_BIT),
    *(f"{colour}{_LUT}{part}" for colour in _COLOURS for part in ("Descriptor", "Data")),
    *(f"Segmented{colour}{_LUT}Data" for colour in _COLOURS),
]
# What labels say of three channels. JPEG 2000's decoders take RCT and ICT back.
_LABELS = {
    **dict.fromkeys(("RGB", "YBR_RCT", "YBR_ICT"), RGB),
    **dict.fromkeys(("YBR_FULL", "YBR_FULL_422"), YCBCR),
    **dict.fromkeys(("YBR_PARTIAL_422", "YBR_PARTIAL_420"), YCBCR_PARTIAL),
}
_OF_ONE_CHANNEL = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_OTHER_COLOURS = ("HSV", "ARGB", "CMYK", "XYB")
_HEAD_BYTES = 4096  # of a picture, which tell its colours
_DARK = 1 / 8  # of a window: where no value is brighter, or none is darker, the window is another's


@dataclasses.dataclass(frozen=True, slots=True)
class Pixels:
    """The pictures of a file as they are stored.

    picture: what the first one says of itself; None if they are not coded, or by RLE. colours: of
    three channels, for all pictures that do not tell. by_label: the header alone tells them.
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
        """Of a sample, as it is stored."""
        return self.picture.bits if self.picture else self.shape.bits

    @property
    def channels(self) -> int:
        return self.picture.channels if self.picture else self.shape.samples


def opened(file: BinaryIO, layout: Layout, dataset: pydicom.Dataset, shape: Shape) -> Pixels:
    """What is known of the pictures before they are decoded.

    Raises:
      UnreadableVideo: no decoder reads them, or they are not those that the header describes.
    """
    label = _LABELS.get(shape.photometric, OPEN)
    planar = int(dataset.get("PlanarConfiguration") or 0) == 1
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not layout.compressed or syntax == pydicom.uid.RLELossless:
        if shape.samples not in (1, 3):
            raise UnreadableVideo(f"unsupported: pictures of {shape.samples} channels")
        if layout.compressed and shape.bits not in (8, 16):
            raise dicom_layout.unsupported_bits(shape.bits)
        if shape.samples == 3:
            _check_label(shape.photometric)
            odd = label == OPEN or shape.photometric in ("YBR_RCT", "YBR_ICT")
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
        told = picture.colours or _told_by_another(file, layout)
        assumed = label
        if picture.with_loss and (shape.photometric != "RGB"):
            assumed = YCBCR  # of full range, as JPEGs are
        if not (told or assumed):
            _check_label(shape.photometric)
        colours = told or assumed or RGB
        right = (colours == RGB) == (label == RGB)
        note = "" if label != OPEN and right else COLOURS_DIFFER
        # Some writers apply the colour transform of JPEG 2000 to YCbCr, which is then the result.
        by_label = not told or (picture.kind == codestream.JPEG_2000 and label == YCBCR)
    elif shape.samples > 1 or shape.photometric not in _OF_ONE_CHANNEL:
        note = COLOURS_DIFFER
    return Pixels(file, layout, shape, picture, colours, planar, note, by_label)


def judged(pixels: Pixels) -> Pixels:
    """The pictures with the colours and the order of channels that frame 0 shows (see grey.py).

    What the codestream says is not changed.

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
    if seen == OPEN or (seen == RGB) == (pixels.colours == RGB):
        return pixels
    return dataclasses.replace(pixels, colours=seen, note=COLOURS_DIFFER)


def _check_label(photometric: str) -> None:
    """Raise UnreadableVideo for three channels that are no colours we know, by a label alone."""
    if photometric == "PALETTE COLOR":
        raise UnreadableVideo("wrong PhotometricInterpretation: a palette for three channels")
    if photometric in _OTHER_COLOURS:
        raise UnreadableVideo(f"unsupported: PhotometricInterpretation {photometric}")
    if photometric not in (*_LABELS, *_OF_ONE_CHANNEL):  # and so perhaps a name
        raise UnreadableVideo("wrong PhotometricInterpretation: DICOM does not define this value")


def _told_by_another(file: BinaryIO, layout: Layout) -> str:
    """The colours that the first picture tells that tells any: some writers mark one of many."""
    for k in range(1, len(layout.frames)):
        head = dicom_layout.beginning(file, layout, k, _HEAD_BYTES)
        try:
            if told := codestream.describe(head).colours:
                return told
        except codestream.ERRORS:
            continue  # decoding will say what is wrong with it
    return OPEN


def _described(data: bytes, k: int) -> Picture:
    try:
        return codestream.describe(data)
    except codestream.Unsupported as error:
        raise UnreadableVideo(f"unsupported: {error}") from error
    except codestream.ERRORS as error:
        raise UnreadableVideo(f"damaged: frame {k} does not decode") from error


def samples(pixels: Pixels, k: int) -> np.ndarray:
    """Frame `k` as it is stored: unsigned [H, W] or [H, W, 3], which are RGB if they have 8 bits.

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
    said, held = shape.samples * shape.bits // 8, int.from_bytes(data[:4], "little")
    if held != said and held in (1, 2, 3, 6):
        raise UnreadableVideo(
            f"wrong SamplesPerPixel or BitsAllocated: header says {said} bytes a pixel, frame {k} "
            f"has {held}"
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
            # Two brightnesses, then the colours that both pixels share.
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


# --- from samples to what is shown ----------------------------------------------------------------

ToRgb = Callable[[np.ndarray], np.ndarray]


def shown(
    dataset: pydicom.Dataset, pixels: Pixels, occurring: Callable[[], np.ndarray]
) -> tuple[ToRgb, str]:
    """The map from samples to uint8 [H, W, 3], one for all frames, and a note on it.

    Args:
      occurring: gives the samples that occur in any frame, ascending; asked for only if needed.

    Raises:
      UnreadableVideo: the header contradicts the samples, and nothing tells which is right.
    """
    photometric = pixels.shape.photometric
    if photometric == "PALETTE COLOR" and pixels.channels == 1:
        return _palette(dataset, pixels, occurring)
    inverted = photometric == "MONOCHROME1" and pixels.channels == 1
    if pixels.channels == 1 and dataset.get("PixelPresentation") == "COLOR":
        raise UnreadableVideo("unsupported: a palette for a part of the values")
    sign = dataset.get("PixelRepresentation")
    if sign is None and pixels.bits > 8 and pixels.channels == 1:
        raise UnreadableVideo("incomplete: the header lacks PixelRepresentation")
    signed = sign == 1 and pixels.channels == 1  # there are no colours below black
    said = _said_bits(dataset, pixels)
    if pixels.bits == 8 and not signed and (said >= 8 or pixels.picture is not None):
        falling = pixels.channels == 1 and _slope(dataset) < 0
        table = np.arange(256)[:: -1 if falling else 1]
        note = "" if said == 8 else DEPTH_DIFFERS
    else:
        table, note = _levels(dataset, pixels, signed, occurring())
    table = (255 - table if inverted else table).astype(np.uint8)
    as_it_is = bool(np.array_equal(table, np.arange(256)))

    def to_rgb(stored: np.ndarray) -> np.ndarray:
        levels = stored if as_it_is and stored.dtype == np.uint8 else table[stored]
        if levels.ndim == 2:
            return np.repeat(levels[..., None], 3, axis=-1)
        deep = stored.dtype != np.uint8
        return codestream.to_rgb(levels, pixels.colours) if deep else levels

    return to_rgb, note


def _levels(
    dataset: pydicom.Dataset, pixels: Pixels, signed: bool, present: np.ndarray
) -> tuple[np.ndarray, str]:
    """What each possible sample is shown as, 0 (black) to 255: float [2^16]; and a note."""
    stored, shift, note = _stored_bits(dataset, pixels, signed, present)
    raw = np.arange(2**16)
    values = (raw >> shift) & (2**stored - 1)
    if signed:
        values = np.where(values >= 2 ** (stored - 1), values - 2**stored, values)
    lowest, highest = int(values[present].min()), int(values[present].max())
    window = _window(dataset) if stored > 8 and pixels.channels == 1 else None
    if window is not None:
        low, high = window
        darkest, brightest = sorted(window)  # the other way round where the slope is negative
        edge = _DARK * (brightest - darkest)
        if highest < darkest + edge or lowest > brightest - edge:
            window, note = None, notes(note, WINDOW_UNUSED)
    if window is None:
        bits = _bits(lowest, highest)
        said = stored - 1 if signed and lowest >= 0 else stored
        if said <= 8:
            bits = said
        # Every value of 12 bits is rare, of 11 usual; but 8 bits are not shown as dark ones of 16.
        elif bits == 8 or said - bits >= 2:
            note = notes(note, DEPTH_UNTOLD)
        else:
            bits = said
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if lowest < 0 else (0, 2**bits - 1)
        if pixels.channels == 1 and _slope(dataset) < 0:
            low, high = high, low
    return np.clip(np.rint((values - low) * (255 / (high - low))), 0, 255), note


def _said_bits(dataset: pydicom.Dataset, pixels: Pixels) -> int:
    """BitsStored; where it is missing, what the coded picture says."""
    said = dataset.get("BitsStored")
    return pixels.bits if said is None else int(said)


def _bits(lowest: int, highest: int) -> int:
    """The bits that hold these values, 8 at least; with a sign if there is one."""
    if lowest >= 0:
        return max(8, highest.bit_length())
    return max(8, 1 + max(highest.bit_length(), (-lowest - 1).bit_length()))


def _stored_bits(
    dataset: pydicom.Dataset, pixels: Pixels, signed: bool, present: np.ndarray
) -> tuple[int, int, str]:
    """The bits that a sample has, those below them, and a note."""
    bits, said = pixels.bits, _said_bits(dataset, pixels)
    stored = said if 1 <= said <= bits else bits
    used = int(np.bitwise_or.reduce(present))
    top = int(dataset.get("HighBit") or stored - 1)
    shift = top + 1 - stored if stored <= top + 1 <= bits else 0
    note = "" if stored == said else DEPTH_DIFFERS
    if shift and used & (2**shift - 1):
        if used >= 2**stored:
            raise UnreadableVideo(
                f"wrong HighBit: header says bits {shift} to {top}, pixels use lower ones as well"
            )
        shift, note = 0, DEPTH_DIFFERS
    if used < 2 ** (stored + shift) or dataset.get(_OVERLAY_BIT):
        return stored, shift, note  # graphics in the upper bits are none of the picture
    if signed and _is_sign_extended(present >> shift, stored, bits - shift):
        return stored, shift, note
    if bits > 8 and pixels.picture is None:
        raise UnreadableVideo(
            f"wrong BitsStored: header says {said} bits, pixels use {used.bit_length()}"
        )
    return bits, 0, DEPTH_DIFFERS  # as the coded picture says itself


def _is_sign_extended(values: np.ndarray, stored: int, bits: int) -> bool:
    """Whether the bits above those stored repeat the sign, in every value."""
    above = values >> (stored - 1)
    return bool(np.isin(above, (0, 2 ** (bits - stored + 1) - 1)).all())


def _window(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """The stored values that become black and white by the header.

    It is DICOM's linear window (PS3.3 C.11.2.1.2), taken back through the rescale slope.
    """
    centre, width = (_first(dataset.get(key)) for key in ("WindowCenter", "WindowWidth"))
    if not (math.isfinite(centre) and width > 1):
        return None
    low = centre - 0.5 - (width - 1) / 2
    slope, intercept = _slope(dataset), float(dataset.get("RescaleIntercept") or 0)
    return (low - intercept) / slope, (low + width - 1 - intercept) / slope


def _slope(dataset: pydicom.Dataset) -> float:
    """What stored values are multiplied with: below 0, the highest of them is the darkest."""
    return float(dataset.get("RescaleSlope") or 1)


def _first(value: object) -> float:
    """The first of the numbers in an element that may hold several, one or none (then NaN)."""
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    return float(numbers[0]) if numbers.size else float("nan")


# --- palettes -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Table:
    """A palette's entries of one colour, as many as there are: `said` many, of so many `bits`, of
    which the first belongs to the index `first`.
    """

    first: int
    said: int
    bits: int
    entries: np.ndarray


def _palette(
    dataset: pydicom.Dataset, pixels: Pixels, occurring: Callable[[], np.ndarray]
) -> tuple[ToRgb, str]:
    """The map of palette indices [H, W] to uint8 [H, W, 3], and a note."""
    if pixels.picture and pixels.picture.with_loss:
        raise UnreadableVideo("unsupported: a palette for pictures that are coded with loss")
    signed = dataset.get("PixelRepresentation") == 1
    stored, shift, note = pixels.bits, 0, ""
    if _said_bits(dataset, pixels) < stored:
        stored, shift, note = _stored_bits(dataset, pixels, signed, occurring())
    endian = ">" if pixels.layout.big_endian else "<"
    tables = [_table(dataset, colour, endian, signed) for colour in _COLOURS]
    colours = list(zip(tables, _as_levels(tables), strict=True))

    def to_rgb(image: np.ndarray) -> np.ndarray:
        indices = (image.astype(np.int32) >> shift) & (2**stored - 1)
        channels = []
        for table, levels in colours:
            places = indices
            if table.first < 0:  # of signed pixels some are below 0, and then entries begin there
                sign = 2 ** (stored - 1)
                places = np.where(places >= sign, places - 2 * sign, places)
            places = np.clip(places - table.first, 0, table.said - 1)
            if len(levels) < table.said and places.max() >= len(levels):
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
        said, first, bits = map(int, dataset[name].value)
    except (TypeError, ValueError) as error:
        raise UnreadableVideo(f"wrong {name}: it is not three numbers") from error
    said = (said & 0xFFFF) or 2**16  # 16 bits cannot say 65,536
    first &= 0xFFFF
    if signed and first >= 2**15:
        first -= 2**16
    if data:
        entries = _entries(data, said, bits, endian)
    elif dataset.get(f"Segmented{colour}{_LUT}Data"):
        every = apply_color_lut(np.arange(first, first + said), dataset)
        entries = every[..., _COLOURS.index(colour)]
    else:
        raise UnreadableVideo(f"incomplete: the header lacks {colour}{_LUT}Data")
    return _Table(first, said, bits, entries)


def _as_levels(tables: Sequence[_Table]) -> list[np.ndarray]:
    """The entries of each colour, from 0 to 255: uint8 [N].

    Entries of 8 bits are stored in 16 as well, and those of 12 in 16 that are said to be used.
    """
    wide = [table for table in tables if table.entries.dtype.itemsize > 1]
    if not wide:
        return [table.entries for table in tables]
    values = np.concatenate([table.entries for table in wide])
    width = max(8, int(values.max()).bit_length())
    if width > 8 and not (np.any(values % 256) and np.any(values % 257)):
        width = 16  # 8 bits in the upper byte, or in both
    elif width > 8 and width + 1 >= wide[0].bits > width:
        width = wide[0].bits  # a palette without white
    return [
        (table.entries >> (width - 8)).astype(np.uint8)
        if table.entries.dtype.itemsize > 1
        else table.entries
        for table in tables
    ]


def _entries(data: bytes, entries: int, bits: int, endian: str) -> np.ndarray:
    """The entries of one colour, as many as there are.

    They take as many bytes as the descriptor says, or, if that is what fits, as it does not say; a
    byte of filling and an entry that is missing are usual.
    """
    said = 2 if bits > 8 else 1
    fits = [n for n in (said, 3 - said) if abs(len(data) - entries * n) <= 2]
    size = (fits or [said])[0]
    if size == 1 and endian == ">" and len(data) % 2 == 0:
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()  # stored in words
    return np.frombuffer(data[: len(data) // size * size], f"{endian}u{size}")[:entries]
