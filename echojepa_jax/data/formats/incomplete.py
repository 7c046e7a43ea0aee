"""Finds pictures that end too soon, where FFmpeg's decoder fills in the rest without an error.

Some decoders have an option against this. The others read on behind the end of the picture. So a
second decoder gets every packet with other bytes behind it: if it shows another frame, the picture
is not complete.
"""

import hashlib
import re

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_SILENT = {
    *("vp8", "vp9", "huffyuv", "ffvhuff", "ffv1", "gif", "jpegls"),
    *("msvideo1", "asv2", "snow", "cfhd"),
}
# Codecs of units. Units begin with a mark, as in AVI and in bare streams, or with their size, as in
# MP4: then the decoder sees that one ends too soon.
_OF_UNITS = {"h264", "hevc"}
_UNIT = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)  # the mark, and the byte with the unit's type
_STRICT = {
    "mjpeg": {"err_detect": "explode"},
    **{codec: {"discard_damaged_percentage": "0"} for codec in ("cinepak", "qtrle")},
}
_TAIL = hashlib.sha512(b"no picture").digest()  # 64 bytes without a pattern


def is_silent(stream: VideoStream) -> bool:
    """Whether the decoder of a stream accepts incomplete pictures."""
    name = stream.codec_context.codec.canonical_name
    # From version 3 on, FFV1 has a global header, and a check sum at the end of each picture.
    has_check_sums = name == "ffv1" and stream.codec_context.extradata
    return (name in _SILENT and not has_check_sums) or _has_marked_units(stream)


def decoder_options(stream: VideoStream) -> dict[str, str]:
    """Options with which the decoder of a stream reports more of the incomplete pictures."""
    name = stream.codec_context.codec.canonical_name
    if name == "hevc" and _has_marked_units(stream):
        return {"err_detect": "explode"}
    return _STRICT.get(name, {})


def _has_marked_units(stream: VideoStream) -> bool:
    context = stream.codec_context
    return context.codec.canonical_name in _OF_UNITS and (context.extradata or b"")[:1] != b"\1"


class SecondDecoder:
    """Decodes the packets of a stream again, with other bytes behind each of them.

    Args:
      stream: the same stream of the same file, opened a second time.
    """

    def __init__(self, stream: VideoStream):
        self._decoder = stream.codec_context
        self._name = stream.codec_context.codec.canonical_name
        # VP9 packs hidden pictures together, and tells their sizes at the end of the packet.
        self._split = (
            BitStreamFilterContext("vp9_superframe_split", stream) if self._name == "vp9" else None
        )

    def agrees(self, packet: Packet, frames: list[VideoFrame]) -> bool:
        """Whether the decoder shows the same `frames` of the next packet as the first one."""
        try:
            again = [frame for part in self._parts(packet) for frame in self._decoder.decode(part)]
        except av.error.FFmpegError:
            return not frames
        return len(again) == len(frames) and all(map(_are_equal, again, frames))

    def _parts(self, packet: Packet) -> list[Packet | None]:
        """The pictures of a packet, each with other bytes behind it; None = no more packets."""
        if not packet.size:
            return [None]
        pictures = self._split.filter(packet) if self._split else [packet]
        parts: list[Packet | None] = []
        for picture in pictures:
            part = Packet(self._with_tail(bytes(picture)))
            for data in picture.iter_sidedata():  # palettes
                part.set_sidedata(data)
            parts.append(part)
        return parts

    def _with_tail(self, picture: bytes) -> bytes:
        if self._name in _OF_UNITS:
            return self._with_tail_of_units(picture)
        if self._name != "gif":
            # Long enough to end the picture, because FFV1 hides an open end.
            return picture + _TAIL * (1 + len(picture) // 8)
        # More of the blocks into which a GIF divides its data, before the empty last one: zeros,
        # because a code that is not defined yet would end the picture. A pixel has 12 bits at most.
        end = picture.rfind(b"\0")
        blocks = 1 + self._decoder.height * self._decoder.width * 12 // 8 // 255
        return picture[:end] + (b"\xff" + bytes(255)) * blocks + picture[end:]

    def _with_tail_of_units(self, picture: bytes) -> bytes:
        """More data in the last unit with pixels; others may follow it, and would be damaged."""
        units = [unit for unit in _UNIT.finditer(picture) if self._has_pixels(unit[1][0])]
        if not units:
            return picture
        end = picture.find(b"\0\0\1", units[-1].end())
        unit = (picture if end < 0 else picture[:end]).rstrip(b"\0")
        # To arithmetic coding, ones are as improbable as the zeros that FFmpeg reads are probable.
        return unit + b"\xff" * (64 + len(unit) // 8) + picture[len(unit) :]

    def _has_pixels(self, first: int) -> bool:
        """Whether a unit with this first byte is a slice."""
        return first & 31 in (1, 5) if self._name == "h264" else first >> 1 & 63 < 32


def _are_equal(one: VideoFrame, other: VideoFrame) -> bool:
    first = one.to_ndarray(format="rgb24", threads=1)
    return np.array_equal(first, other.to_ndarray(format="rgb24", threads=1))
