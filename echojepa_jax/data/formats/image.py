"""Stills: PNG and JPEG files, read with OpenCV."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from echojepa_jax.data.formats.jpeg_scans import lacks_scans
from echojepa_jax.data.formats.video_info import (
    DEPTH_UNKNOWN,
    UnreadableVideo,
    VideoInfo,
    check_size,
    fewer_frames,
)

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def is_picture(head: bytes) -> bool:
    """Whether a file that starts with these bytes is a PNG or JPEG."""
    return head.startswith((_PNG, _JPEG))


def probe(path: str) -> VideoInfo:
    """The facts of a picture.

    Raises:
      UnreadableVideo: it does not decode.
    """
    image, note = _read(path)
    return VideoInfo(frames=1, fps=0.0, height=image.shape[0], width=image.shape[1], note=note)


def frames(path: str, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the only frame as RGB uint8 [H, W, 3].

    Raises:
      UnreadableVideo: it does not decode, or `ids` contains a later frame.
    """
    if ids[-1] > 0:
        raise fewer_frames(1, ids[-1])
    yield _read(path)[0]


def coded(path: str) -> Iterator[bytes]:
    """Yield the coded picture."""
    yield Path(path).read_bytes()


def _read(path: str) -> tuple[np.ndarray, str]:
    """The pixels, uint8 [H, W, 3], and a note on them."""
    data = Path(path).read_bytes()
    if data.startswith(_PNG):
        # The first chunk contains the size, and a damaged one could demand any amount of memory.
        check_size(int.from_bytes(data[20:24]), int.from_bytes(data[16:20]))
    elif not _is_whole_jpeg(data):
        raise UnreadableVideo("damaged: the picture ends too soon")
    deep = data.startswith(_PNG) and data[24:25] == bytes([16])
    try:
        how = cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_ANYDEPTH if deep else 0)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error as error:
        raise UnreadableVideo("damaged: the picture does not decode") from error
    if image is None:
        raise UnreadableVideo("damaged: the picture does not decode")
    check_size(*image.shape[:2])
    return _of_8_bits(image) if deep else (image, "")


def _is_whole_jpeg(data: bytes) -> bool:
    """Whether a JPEG contains its whole picture: OpenCV shows a missing part as grey."""
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, strict=True)
    except ValueError as error:  # OpenCV judges the others
        return "premature end" not in str(error).lower()
    return not lacks_scans(data)


def _of_8_bits(image: np.ndarray) -> tuple[np.ndarray, str]:
    """Pixels of 16 bits as uint8, and a note if they use 14 bits or fewer (as with DICOM)."""
    bits = max(8, int(image.max()).bit_length())
    bits, note = (bits, DEPTH_UNKNOWN) if bits <= 14 else (16, "")
    return np.rint(image * (255 / (2**bits - 1))).astype(np.uint8), note
