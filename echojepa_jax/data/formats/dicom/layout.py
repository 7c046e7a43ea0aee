"""Finds the frames of a DICOM file in its bytes, because its header may be wrong.

A data set may differ from its transfer syntax, fragments of compressed pictures may have wrong
tables or no end, and uncompressed colours may take three bytes per pixel, or two.
"""

import contextlib
import dataclasses
import io
import re
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from echojepa_jax.data.formats.dicom.codestream import STARTS
from echojepa_jax.data.formats.video_info import UnreadableVideo

_PIXEL_DATA, _ITEM, _END = (0x7FE0, 0x0010), (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_FLOATS = ((0x7FE0, 0x0008), (0x7FE0, 0x0009))
_UNDEFINED = 0xFFFFFFFF
_HEAD_BYTES = 256  # enough to recognise a video
_TYPE = re.compile(rb"[A-Z?]{2}")  # the two letters of a value representation, or "??"
# The end of a picture and the start of the next one within a fragment.
_BETWEEN = re.compile(rb"\xff\xd9\0*(?=\xff\xd8\xff|\xff\x4f\xff\x51)")
_HALVED = ("YBR_FULL_422", "YBR_PARTIAL_422")

Piece = tuple[int, int]  # a part of a file: its position, and its number of bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The positions of the pixels in a file.

    frames: the pieces of each frame, in order. compressed: pixels are compressed in fragments.
    halved: two pixels share their colours (4:2:2). big_endian: samples of 16 bits are big-endian.
    swapped: samples of 8 bits are in big-endian words that start at `origin`.
    """

    frames: Sequence[Sequence[Piece]]
    compressed: bool
    halved: bool = False
    big_endian: bool = False
    swapped: bool = False
    origin: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """The facts of the header, 0 if it lacks them; `bits` is BitsAllocated."""

    frames: int
    rows: int
    columns: int
    samples: int
    bits: int
    photometric: str


def locate(file: BinaryIO, shape: Shape, has_pictures: bool, table: bytes) -> tuple[Layout, int]:
    """Finds the frames in `file`, whose position is the pixel data.

    Args:
      has_pictures: compressed pictures of the transfer syntax begin with their own mark (not RLE).
      table: the bytes of the extended offset table; empty = none.

    Returns:
      The layout, and the position of the pixel data.

    Raises:
      UnreadableVideo: there are no pixel data, or another number of frames than the header states.
    """
    begin, big_endian = pixel_data(file)
    start, length, kind = _head(file, begin, big_endian)
    file.seek(start)
    # Uncompressed pixels that look like an item are improbable, and have a defined length.
    tag = _tag(file.read(4))
    if tag in (_ITEM, _END, ()) if length == _UNDEFINED else tag == _ITEM and has_pictures:
        return _fragmented(file, start, shape, has_pictures, table), begin
    rest = _size(file) - start
    pieces, halved = _native(start, rest if length == _UNDEFINED else length, rest, shape)
    swapped = big_endian and kind == b"OW" and shape.bits == 8
    return Layout(pieces, False, halved, big_endian, swapped, start), begin


def _head(file: BinaryIO, begin: int, big_endian: bool) -> tuple[int, int, bytes]:
    """The element at `begin`: the position of its value, its length in bytes, and its type (b"" if
    it is not written).
    """
    endian = ">" if big_endian else "<"
    file.seek(begin + 4)
    rest = file.read(8).ljust(8, b"\0")
    implicit = struct.unpack(f"{endian}I", rest[:4])[0]
    explicit = struct.unpack(f"{endian}I", rest[4:])[0]
    # Lengths are even, while the letters of a type of pixels would form an odd length.
    if big_endian or (rest[0] % 2 and _TYPE.fullmatch(rest[:2])):
        if rest[2:4] == b"\0\0":
            return begin + 12, explicit, rest[:2]
        if big_endian or implicit > _size(file):  # types of short values have lengths of 2 bytes
            return begin + 8, struct.unpack(f"{endian}H", rest[2:4])[0], rest[:2]
    # Some files contain zeros in place of the type.
    if not implicit and (0 < explicit <= _size(file) - begin - 12 or explicit == _UNDEFINED):
        return begin + 12, explicit, b""
    return begin + 8, implicit, b""


def pixel_data(file: BinaryIO) -> tuple[int, bool]:
    """The position of the pixel data, which is near the position of `file`, and whether the element
    is big-endian.

    Raises:
      UnreadableVideo: there are no pixel data, or they are floating-point numbers.
    """
    here = file.tell()
    for position in (here, here - 4, here + 4):
        file.seek(max(0, position))
        head = file.read(4)
        for endian in "<>":
            tag = struct.unpack(f"{endian}HH", head) if len(head) == 4 else ()
            if tag == _PIXEL_DATA:
                return position, endian == ">"
            if tag in _FLOATS:
                raise UnreadableVideo("unsupported: DICOM pixels that are floating-point numbers")
    raise UnreadableVideo("no frames: the DICOM file holds no pixel data")


def read(file: BinaryIO, layout: Layout, k: int) -> bytes:
    """The bytes of frame `k`."""
    parts = []
    for start, size in layout.frames[k]:
        before = (start - layout.origin) % 2 if layout.swapped else 0
        file.seek(start - before)
        part = file.read(before + size + (before + size) % 2 * layout.swapped)
        if layout.swapped:
            part = np.frombuffer(part[: len(part) // 2 * 2], ">u2").astype("<u2").tobytes()
        parts.append(part[before : before + size])
    return b"".join(parts)


def head(file: BinaryIO) -> bytes:
    """The first bytes of the first fragment with pixels; the position of `file` is the pixel data,
    and stays. b"" if there are no fragments.
    """
    here, data = file.tell(), b""
    with contextlib.suppress(UnreadableVideo):  # without pixel data
        start, _, _ = _head(file, *pixel_data(file))
        for _ in range(2):  # the table of offsets, then the fragment
            file.seek(start)
            item = file.read(8)
            data = file.read(_HEAD_BYTES) if _tag(item) == _ITEM else b""
            start += 8 + int.from_bytes(item[4:], "little")
    file.seek(here)
    return data


def stream(file: BinaryIO) -> tuple[bytes, int]:
    """The bytes of all fragments in `file`, whose position is the pixel data, and this position.

    Raises:
      UnreadableVideo: there are no fragments, or the file ends within one.
    """
    begin, big_endian = pixel_data(file)
    items, ending = _items(file, _head(file, begin, big_endian)[0])
    if ending == "cut":
        raise UnreadableVideo("truncated: the file ends within its video")
    if len(items) < 2:
        raise UnreadableVideo("no frames: the DICOM file holds no fragments")
    parts = []
    for start, size in items[1:]:
        file.seek(start)
        parts.append(file.read(size))
    return b"".join(parts), begin


def beginning(file: BinaryIO, layout: Layout, k: int, size: int) -> bytes:
    """The first `size` bytes of frame `k`, or fewer if its first piece is shorter."""
    start, held = layout.frames[k][0]
    file.seek(start)
    return file.read(min(size, held))


def wrong_size(stated: Sequence[int], k: int, held: Sequence[int]) -> UnreadableVideo:
    """The error for frame `k` with another height and width than the header states."""
    return UnreadableVideo(
        f"wrong Rows and Columns: header states {stated[0]} x {stated[1]}, "
        f"frame {k} has {held[0]} x {held[1]}"
    )


def unsupported_bits(bits: int) -> UnreadableVideo:
    """The error for samples of so many bits."""
    return UnreadableVideo(f"unsupported: DICOM pixels of {bits} {'bit' if bits == 1 else 'bits'}")


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


def wrong_count(stated: int, held: int) -> UnreadableVideo:
    """The error for a complete file with another number of frames than its header states."""
    # An error, because it is unclear which frames belong to the video.
    return UnreadableVideo(
        f"wrong NumberOfFrames: header states {stated} frames, file holds {held}"
    )


def truncated(stated: int, held: int) -> UnreadableVideo:
    """The error for a truncated file with fewer frames than its header states."""
    return UnreadableVideo(f"truncated: header states {stated} frames, file holds {held}")


# --- uncompressed pixels --------------------------------------------------------------------------


def _native(start: int, length: int, rest: int, shape: Shape) -> tuple[list[list[Piece]], bool]:
    """The frames of uncompressed pixels, and whether their colours are halved."""
    if shape.bits not in (8, 16):
        raise unsupported_bits(shape.bits)
    pixels = shape.rows * shape.columns * (shape.bits // 8)
    # The number of channels by the label, which counts if the number of bytes agrees with it.
    labelled = 3 if shape.photometric.startswith(("RGB", "YBR")) else 1
    if labelled != shape.samples and 0 <= length - max(1, shape.frames) * pixels * labelled < 2:
        raise UnreadableVideo(
            f"wrong SamplesPerPixel: header states {shape.samples}, the file holds {labelled}"
        )
    whole = max(1, pixels * shape.samples)
    sizes = {whole: False}
    if shape.samples == 3 and shape.photometric.startswith("YBR") and shape.columns % 2 == 0:
        half = {max(1, 2 * pixels): True}
        sizes = half | sizes if shape.photometric in _HALVED else sizes | half
        quartered = shape.frames * (pixels * 3 // 2)
        if shape.photometric == "YBR_PARTIAL_420" and 0 <= length - quartered < 2:
            raise UnreadableVideo("unsupported: uncompressed DICOM pixels of YBR_PARTIAL_420")
    # The number of bytes, without one byte of padding, decides; if none fits, the label does.
    fits = [size for size in sizes if 0 <= length - shape.frames * size < 2]
    if not shape.frames:
        fits = [size for size in sizes if length >= size and length % size < 2]
    size = next(iter(fits or sizes))
    frames = shape.frames or max(1, length // size)
    # Some writers pad each frame to an even number of bytes, and not only the last one.
    step = size + size % 2 if length == shape.frames * (size + 1) else size
    held = min(length, rest) // step
    if shape.bits == 16 and not fits and 0 <= length - frames * (size // 2) < 2:
        raise UnreadableVideo(
            "wrong BitsAllocated or NumberOfFrames: the pixel data has half the bytes for them"
        )
    if held > frames and not fits:
        raise wrong_count(frames, held)
    if held < frames:
        raise truncated(frames, held)
    return [[(start + k * step, size)] for k in range(frames)], sizes[size]


# --- pictures in fragments ------------------------------------------------------------------------


def _fragmented(
    file: BinaryIO, start: int, shape: Shape, has_pictures: bool, extended: bytes
) -> Layout:
    items, ending = _items(file, start)
    table = b""
    if items:
        file.seek(items[0][0])
        begins_picture = file.read(12).startswith(STARTS)
        if not (has_pictures and begins_picture):  # else the file lacks the table of offsets
            file.seek(items[0][0])
            table = file.read(items[0][1])
            items = items[1:]
    # Run-length coded frames begin with the number of their planes and the offset of the first.
    planes = struct.pack("<II", shape.samples * shape.bits // 8, 64)
    marks = STARTS if has_pictures else (planes,)
    begun = []
    for position, _ in items:
        file.seek(position)
        begun.append(file.read(12).startswith(marks))
    starts = sum(begun)
    stated = shape.frames or starts or len(items)
    if ending == "cut" or not items:
        raise truncated(max(1, stated), min(starts or len(items), max(1, stated) - 1))
    if has_pictures and not starts and (plain := _native_items(items, stated, shape)):
        return plain
    if len(items) == stated:
        return Layout([[item] for item in items], True)
    if has_pictures and len(items) < stated:
        pictures = [part for item in items for part in _pictures(file, item)]
        if len(pictures) == stated:
            return Layout([[picture] for picture in pictures], True)
    if starts > stated:
        raise wrong_count(stated, starts)
    if len(items) < stated:
        if ending == "other":
            last = len(items) - 1
            raise UnreadableVideo(f"damaged: the data after frame {last} are not a fragment")
        if ending == "delimiter":
            raise wrong_count(stated, starts or len(items))
        raise truncated(stated, len(items))
    firsts = [k for k, begins in enumerate(begun) if begins]
    if starts != stated or firsts[0] != 0:
        firsts = _by_table(items, stated, table, extended)
    ends = [*firsts[1:], len(items)]
    return Layout([items[a:b] for a, b in zip(firsts, ends, strict=True)], True)


def _native_items(items: Sequence[Piece], frames: int, shape: Shape) -> Layout | None:
    """The layout of uncompressed pixels in fragments, one frame each or all in one; None if the
    fragments contain something else.
    """
    if shape.bits not in (8, 16) or not shape.samples:
        return None
    size = shape.rows * shape.columns * shape.samples * (shape.bits // 8)
    if len(items) == frames and all(0 <= held - size < 2 for _, held in items):
        return Layout([[(position, size)] for position, _ in items], False)
    ((position, held), *more) = items
    if more or not 0 <= held - frames * size < 2:
        return None
    return Layout([[(position + k * size, size)] for k in range(frames)], False)


def _pictures(file: BinaryIO, item: Piece) -> Iterator[Piece]:
    """Yield the pictures in a fragment, in order."""
    start, size = item
    file.seek(start)
    data, begin = file.read(size), 0
    for end in (*(match.end() for match in _BETWEEN.finditer(data)), size):
        yield start + begin, end - begin
        begin = end


def _items(file: BinaryIO, start: int) -> tuple[list[Piece], str]:
    """The items from `start` on, and how they end: "delimiter", "end" (of the file, or zeros up to
    it), "cut" (the file ends within an item), or "other" (something that is not an item follows).
    """
    size, position = _size(file), start
    items: list[Piece] = []
    while True:
        file.seek(position)
        head = file.read(8)
        if items and items[-1][1] % 2 and _tag(head) not in (_ITEM, _END):
            # An odd length does not count the padding byte that follows.
            file.seek(position + 1)
            padded = file.read(8)
            if _tag(padded) in (_ITEM, _END):
                head, position = padded, position + 1
        if _tag(head) == _END:
            return items, "delimiter"
        if len(head) < 8 or not any(head):
            return items, "end"
        if _tag(head) != _ITEM:
            return items, "other"
        length = struct.unpack("<I", head[4:])[0]
        position += 8
        if position + length > size:
            return items, "cut"
        items.append((position, length))
        position += length


def _tag(head: bytes) -> tuple[int, ...]:
    return struct.unpack("<HH", head[:4]) if len(head) >= 4 else ()


def _by_table(items: Sequence[Piece], frames: int, table: bytes, extended: bytes) -> list[int]:
    """The first fragment of each frame, by a table of offsets."""
    places = {position - items[0][0]: k for k, (position, _) in enumerate(items)}
    for offsets in (
        np.frombuffer(extended[: len(extended) // 8 * 8], "<u8").tolist(),
        np.frombuffer(table[: len(table) // 4 * 4], "<u4").tolist(),
    ):
        firsts = [places.get(offset, -1) for offset in offsets]
        if len(firsts) == frames and firsts[0] == 0 and firsts == sorted(set(firsts)):
            return firsts
    if frames == 1:
        return [0]
    raise UnreadableVideo(
        f"no frames: it is unclear which of {len(items)} fragments belong to which of {frames} "
        "frames"
    )
