"""Facts and pixels of a compressed picture: JPEG, lossless JPEG, JPEG-LS, JPEG 2000.

The codestream decides on the size and depth of a picture, and on the meaning of its channels. The
header of the file counts only for facts that the stream lacks. Every format has one decoder, so
that pixels do not depend on the installed packages (docs/formats.md gives the reasons for these
decoders). All decoders reject a truncated picture.
"""

import dataclasses
import re
import struct
from collections.abc import Iterator
from typing import Any

import cv2
import jpeg_ls
import numpy as np
import openjpeg
import simplejpeg

from echojepa_jax.data.formats.jpeg_scans import lacks_scans
from echojepa_jax.utils.extras import pip_install

# The errors of the decoders on damaged pictures.
ERRORS = (ValueError, RuntimeError, IndexError, TypeError, OverflowError, struct.error)
STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
"""The first bytes of compressed pictures; they do not occur within a picture."""
_OTHER_STARTS = (
    *(b"\x89PNG", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"BM", b"II*\0", b"MM\0*", b"GIF8", b"RIFF"),
)
_MARK = re.compile(b"\xff\xd8\xff|\xff\x4f\xff\x51")
_MOST_BEFORE = 128  # bytes that may come before a picture; later ones may begin a thumbnail

RGB, YCBCR, YCBCR_PARTIAL, UNKNOWN = "RGB", "YCbCr", "YCbCr of television's range", ""
"""The meaning of three channels. In television's range, black is 16 and white 235."""

_JPEG, _LOSSLESS, _JPEG_LS, JPEG_2000 = "JPEG", "lossless JPEG", "JPEG-LS", "JPEG 2000"
# Formats by the marker of the frame header: JPEG is sequential, extended or progressive, also with
# arithmetic coding.
_FRAMES = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2, 0xC9, 0xCA), _JPEG),
    **{0xC3: _LOSSLESS, 0xF7: _JPEG_LS},
}
_OTHER_FRAMES = (0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)  # hierarchical and other rare kinds
_END = b"\xff\xd9"
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


class Unsupported(ValueError):
    """A kind of picture that no installed decoder reads; str(e) names it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """The facts of a codestream.

    bits: bits of a channel. colours: RGB, YCBCR or UNKNOWN.
    start: position of the codestream: behind filling, or in a container.
    """

    kind: str
    height: int
    width: int
    channels: int
    bits: int
    colours: str
    start: int = 0

    @property
    def with_loss(self) -> bool:
        """Whether it is an ordinary JPEG, whose colours are YCbCr unless it states otherwise."""
        return self.kind == _JPEG


def describe(data: bytes) -> Picture:
    """The facts of a compressed picture; its first few kilobytes are enough.

    Raises:
      Unsupported: another kind of picture.
      ValueError, or another one of `ERRORS`: the picture is damaged.
    """
    if data.startswith(b"\xff\xd8"):
        return _describe_jpeg(data)
    if data.startswith((b"\xff\x4f", STARTS[2])):
        return _describe_jpeg_2000(data)
    if data.startswith(_OTHER_STARTS):
        raise Unsupported("pictures that are neither JPEG nor JPEG 2000")
    found = _MARK.search(data[:_MOST_BEFORE])
    if found is None:
        raise ValueError("not a picture")
    return dataclasses.replace(describe(data[found.start() :]), start=found.start())


def decode(data: bytes, picture: Picture, colours: str) -> np.ndarray:
    """Decodes a compressed picture.

    Args:
      colours: the meaning of three channels.

    Returns:
      uint8 [H, W], or RGB uint8 [H, W, 3]. With more than 8 bits, uint16 with channels as stored.

    Raises:
      Unsupported: no installed decoder reads the picture.
      ValueError, or another one of `ERRORS`: the picture is damaged.
    """
    if picture.channels not in (1, 3):
        raise Unsupported(f"pictures of {picture.channels} channels")
    data = data[picture.start :]
    if picture.kind == _JPEG and lacks_scans(data):
        raise ValueError("scans are missing")
    if picture.kind == JPEG_2000:
        pixels = _jpeg_2000(data)
        if pixels.dtype.kind == "i":  # keep the raw bits, because the header states their meaning
            pixels = pixels.view(pixels.dtype.str.replace("i", "u")) & (2**picture.bits - 1)
    elif picture.kind == _JPEG_LS:
        pixels = _jpeg_ls(data, picture)
    elif picture.bits > 8:
        pixels = _deep(data, picture)
    elif picture.kind == _LOSSLESS:
        if picture.bits < 8:
            raise Unsupported(f"lossless JPEG of {picture.bits} bits")
        pixels = _turbo(_stored_as_is(data), picture)
    else:
        data = data if colours != RGB or picture.colours else _marked(data)
        pixels = _turbo(_of_three_channels(data) if picture.channels == 3 else data, picture)
        colours = RGB  # libjpeg-turbo has converted the channels
    if pixels.shape[:2] != (picture.height, picture.width):
        raise ValueError("the size differs from the header")
    return to_rgb(pixels, colours) if picture.channels == 3 and picture.bits <= 8 else pixels


def to_rgb(pixels: np.ndarray, colours: str) -> np.ndarray:
    """Converts pixels, uint8 [H, W, 3], whose channels are `colours`, to RGB."""
    if colours in (RGB, UNKNOWN):
        return pixels
    luma, blue, red = cv2.split(np.ascontiguousarray(pixels))
    if colours == YCBCR_PARTIAL:
        levels = np.arange(256)
        luma = cv2.LUT(luma, _rounded((levels - 16) * (255 / 219)))
        stretched = _rounded((levels - 128) * (255 / 224) + 128)
        blue, red = cv2.LUT(blue, stretched), cv2.LUT(red, stretched)
    return cv2.cvtColor(cv2.merge([luma, red, blue]), cv2.COLOR_YCrCb2RGB)


def _rounded(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


# --- facts in the markers -------------------------------------------------------------------------


def _segments(data: bytes, position: int, last: int) -> Iterator[tuple[int, bytes]]:
    """Yield the markers after `position` with their content, up to the marker `last`."""
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ValueError("a marker is missing")
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, data[position + 4 : position + 2 + length]
        if marker == last:
            return
        position += 2 + length


def _describe_jpeg(data: bytes) -> Picture:
    jfif, adobe, colours, frame = False, -1, UNKNOWN, None
    for marker, held in _segments(data, 2, 0xDA):
        if marker in _OTHER_FRAMES:
            raise Unsupported(f"JPEG of the kind SOF{marker - 0xC0}")
        if marker in _FRAMES:
            frame = _FRAMES[marker], held
        # Like libjpeg, ignore markers that are too short.
        elif marker == 0xE0 and held.startswith(b"JFIF\0") and len(held) >= 14:
            jfif = True
        elif marker == 0xEE and held.startswith(b"Adobe") and len(held) >= 12:
            adobe = held[11]
        elif marker == 0xE8 and held.startswith(b"mrfx") and len(held) >= 5:
            colours = RGB if held[4] else UNKNOWN  # the decoder inverts this transform
        elif marker == 0xE8 and held.startswith(b"SPIFF\0") and len(held) >= 19:
            # "RGB" means nothing here, because CharLS writes it for any three channels.
            colours = YCBCR if held[18] in (3, 4) else UNKNOWN
    if frame is None:
        raise ValueError("no frame header")
    kind, held = frame
    bits, height, width, channels = struct.unpack(">BHHB", held[:6])
    ids, sampling = held[6 : 6 + 3 * channels : 3], held[7 : 6 + 3 * channels : 3]
    if channels != 3:
        colours = UNKNOWN
    else:
        # The order of libjpeg: JFIF first, then Adobe's marker, then the names of components.
        if jfif:
            colours = YCBCR
        elif adobe >= 0:
            colours = YCBCR if adobe else RGB
        elif ids == b"RGB":
            colours = RGB
        elif len(set(sampling)) > 1:  # only chroma is subsampled
            colours = YCBCR
    return Picture(kind, height, width, channels, bits, colours)


def _describe_jpeg_2000(data: bytes) -> Picture:
    start, colours = 0, UNKNOWN
    if not data.startswith(b"\xff\x4f"):  # in boxes
        start = data.index(b"\xff\x4f\xff\x51")
        box = data[:start].find(b"colr\1\0\0")  # an enumerated colour space
        space = int.from_bytes(data[box + 7 : box + 11], "big") if box >= 0 else 0
        colours = YCBCR if space == 18 else UNKNOWN  # 16 (RGB) is the default of OpenJPEG
    size = None
    for marker, held in _segments(data, start + 2, 0x90):
        if marker == 0x51:
            right, below, left, above = struct.unpack(">4I", held[2:18])
            channels = int.from_bytes(held[34:36], "big")
            size = below - above, right - left, channels, (held[36] & 0x7F) + 1
            if channels == 3 and len({held[37 + 3 * k : 39 + 3 * k] for k in range(3)}) > 1:
                raise Unsupported("JPEG 2000 with colours of lower resolution")
        elif marker == 0x52 and held[4]:  # the decoder inverts the colour transform
            colours = RGB
    if size is None:
        raise ValueError("the SIZ marker is missing")
    return Picture(JPEG_2000, *size, colours if size[2] == 3 else UNKNOWN, start)


# --- decoders -------------------------------------------------------------------------------------


def _closed(data: bytes) -> bytes:
    """The stream with its end marker, which some writers omit, and without padding after it."""
    bare = data.rstrip(b"\0\xff")
    if bare.endswith(_END):
        return bare
    bare = data.rstrip(b"\0")
    return bare + (b"\0" if bare.endswith(b"\xff") else b"") + _END  # a zero follows a stored 255


def _turbo(data: bytes, picture: Picture) -> np.ndarray:
    """Decodes JPEG, and lossless JPEG with RGB or grey channels, with libjpeg-turbo."""
    space = "GRAY" if picture.channels == 1 else "RGB"
    data = _closed(data)
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace=space, strict=True)
    except ValueError as error:
        if str(error).startswith(
            ("Unsupported", "Sorry", "Not implemented", "Could not determine")
        ):
            raise Unsupported("a kind of JPEG that libjpeg-turbo does not read") from error
        bare = _closed(data[:-2])
        if "extraneous bytes before marker 0xd9" not in str(error) or bare == data:
            raise
        # The picture is complete, with zeros before its end marker.
        pixels = simplejpeg.decode_jpeg(bare, colorspace=space, strict=True)
    return pixels[..., 0] if picture.channels == 1 else pixels


def _marked(data: bytes) -> bytes:
    """The JPEG with a marker that states RGB."""
    return data[:2] + _ADOBE_RGB + data[2:]


def _of_three_channels(data: bytes) -> bytes:
    """The JPEG with Adobe's code for three channels, 1 (YCbCr), instead of that for four, 2."""
    place = data.find(b"\xff\xee\x00\x0eAdobe")
    if 0 <= place < data.find(b"\xff\xda") and data[place + 15] > 1:
        return data[: place + 15] + b"\1" + data[place + 16 :]
    return data


def _stored_as_is(data: bytes) -> bytes:
    """The lossless JPEG, declared as RGB, so that libjpeg-turbo does not convert colours."""
    position, parts = 2, [data[:2], _ADOBE_RGB]
    for marker, held in _segments(data, 2, 0xDA):
        segment = struct.pack(">BBH", 0xFF, marker, len(held) + 2) + held
        position = data.index(segment, position) + len(segment)
        if not 0xE0 <= marker <= 0xEF:
            parts.append(segment)
    return b"".join((*parts, data[position:]))


def _deep(data: bytes, picture: Picture) -> np.ndarray:
    """Decodes JPEG and lossless JPEG of more than 8 bits, which only a large package reads.

    The package does not report a truncated picture, but reads the bytes that follow it. So the
    picture is decoded twice, with different bytes after it.
    """
    try:
        from imagecodecs import jpeg8_decode
    except ImportError as error:
        what = f"{picture.kind} of {picture.bits} bits ({pip_install('deep_jpeg')})"
        raise Unsupported(what) from error
    # With RGB as input and output, the channels stay as they are.
    as_it_is = {"colorspace": "RGB", "outcolorspace": "RGB"}
    spaces: dict[str, Any] = as_it_is if picture.channels == 3 else {}
    whole = _closed(data)
    pixels, followed = (
        jpeg8_decode(d, **spaces) for d in (whole, whole[:-2] + b"\x5a" * 256 + _END)
    )
    if not np.array_equal(pixels, followed):
        raise ValueError("the picture is truncated")
    return pixels


def _jpeg_2000(data: bytes) -> np.ndarray:
    if _END in data[-4:]:
        return np.asarray(openjpeg.decode(data))
    try:
        return np.asarray(openjpeg.decode(data + _END))  # some writers omit the end marker
    except RuntimeError:
        if not data.endswith(b"\0"):
            raise
        return np.asarray(openjpeg.decode(data[:-1] + _END))  # the zero was padding


def _jpeg_ls(data: bytes, picture: Picture) -> np.ndarray:
    decoded, info = jpeg_ls.decode_buffer(_closed(data))
    pixels = np.frombuffer(decoded, np.uint8 if picture.bits <= 8 else "<u2")
    shape = picture.height, picture.width, picture.channels
    if info["interleave_mode"] == 0 and picture.channels > 1:  # plane by plane
        return np.moveaxis(pixels.reshape(shape[2], *shape[:2]), 0, -1)
    return pixels.reshape(shape if picture.channels > 1 else shape[:2])
