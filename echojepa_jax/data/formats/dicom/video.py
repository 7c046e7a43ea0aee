"""MPEG-2, H.264 and HEVC inside DICOM files: bare streams, or streams in a container."""

import io
from collections.abc import Iterator

import numpy as np

from echojepa_jax.data.formats import containers, orientation, video
from echojepa_jax.data.formats.dicom.codestream import STARTS

# Transfer syntaxes, without the prefix 1.2.840.10008.1.2.4., and FFmpeg's names of the streams.
_BARE = {
    **dict.fromkeys(("100", "100.1", "101", "101.1"), "mpegvideo"),
    **dict.fromkeys(
        ("102", "102.1", "103", "103.1", "104", "104.1", "105", "105.1", "106", "106.1"), "h264"
    ),
    **dict.fromkeys(("107", "108"), "hevc"),
}
SYNTAXES = {f"1.2.840.10008.1.2.4.{k}": name for k, name in _BARE.items()}


def is_video(head: bytes, syntax: str | None) -> bool:
    """Whether the first fragment, with these first bytes, is a video and not a picture."""
    return not head.startswith((*STARTS, b"GIF8")) and bool(_kind(head, syntax))


def count(data: bytes, syntax: str | None) -> int:
    """The number of frames that decode from a stream.

    Raises:
      UnreadableVideo: the stream is truncated, a frame is damaged, or there is no video.
    """
    kind = _kind(data, syntax)
    containers.check_complete(io.BytesIO(data), kind)
    return sum(1 for _ in video.every_frame(data, kind, checked=True))


def frames(data: bytes, syntax: str | None, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield all frames of a stream as RGB uint8 [H, W, 3].

    Args:
      size: rows and columns in the header. A display matrix in the stream counts only if this is
        the size after the turn, because the regions in the header refer to it.

    Raises:
      UnreadableVideo: a frame does not decode, or there is no video.
    """
    for frame in video.every_frame(data, _kind(data, syntax), checked=False):
        image = frame.to_ndarray(format="rgb24", threads=1)
        is_turned = image.shape[:2] != size == orientation.upright_size(frame)
        yield orientation.upright(image, frame) if is_turned else image


def _kind(data: bytes, syntax: str | None) -> str:
    """FFmpeg's name of the container or stream, named because its guess also follows playlists; ""
    if it is no video.

    The first bytes decide, as some exporters write the transfer syntax of another codec.
    """
    if container := containers.recognised(data[:132]):
        return container
    if data[:1] == b"G" and data[188:189] in (b"G", b""):
        return "mpegts"
    if data.startswith(b"\0\0\1\xba"):
        return "mpeg"
    mark = data[:64].lstrip(b"\0")
    first = mark[1:3] if data.startswith(b"\0\0") and mark.startswith(b"\1") else b""
    if first[:1] == b"\xb3":  # a sequence header
        return "mpegvideo"
    if first in (b"\x40\1", b"\x42\1", b"\x46\1"):  # a parameter set, or the mark before it
        return "hevc"
    if first[:1] in (b"\x67", b"\x27", b"\x47", b"\x09"):
        return "h264"
    return SYNTAXES.get(syntax or "", "")
