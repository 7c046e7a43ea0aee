"""Stills: PNG and JPEG files, read with OpenCV."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from echojepa_jax.data.formats.video_info import (
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
    height, width = _read(path).shape[:2]
    return VideoInfo(frames=1, fps=0.0, height=height, width=width)


def frames(path: str, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the only frame as RGB uint8 [H, W, 3].

    Raises:
      UnreadableVideo: it does not decode, or `ids` contains a later frame.
    """
    if ids[-1] > 0:
        raise fewer_frames(1, ids[-1])
    yield _read(path)


def coded(path: str) -> Iterator[bytes]:
    """Yield the coded picture."""
    yield Path(path).read_bytes()


def _read(path: str) -> np.ndarray:
    data = Path(path).read_bytes()
    if data.startswith(_PNG):
        # The first chunk contains the size, and a damaged one could demand any amount of memory.
        check_size(int.from_bytes(data[20:24]), int.from_bytes(data[16:20]))
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise UnreadableVideo("damaged: the picture does not decode") from error
    if image is None:
        raise UnreadableVideo("damaged: the picture does not decode")
    check_size(*image.shape[:2])
    return image
