"""Frames upright, as the display matrix of a video says: phones and hand-held probes turn pictures.

The matrix maps a stored pixel (x, y) to the place (a x + c y, b x + d y) where it is shown. Quarter
turns and mirrors are done here; other angles are not, as they would invent pixels.
"""

from typing import Any

import numpy as np
from av.video.frame import VideoFrame

_DISPLAY_MATRIX = "DISPLAYMATRIX"


def upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """The pixels [H, W, 3] of a frame, turned and mirrored: [H, W, 3] or [W, H, 3]."""
    (a, b), (c, d) = _matrix(frame)
    if _is_sideways(frame):
        image, right, down = image.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    if is_odd(frame) or (right >= 0 and down >= 0):
        return np.ascontiguousarray(image)
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Height and width of what `upright` gives."""
    return (frame.width, frame.height) if _is_sideways(frame) else (frame.height, frame.width)


def is_odd(frame: VideoFrame) -> bool:
    """Whether the matrix turns by another angle than quarters of a circle."""
    (a, b), (c, d) = _matrix(frame)
    return not ((a and d and not b and not c) or (b and c and not a and not d))


def _is_sideways(frame: VideoFrame) -> bool:
    (a, _), (c, _) = _matrix(frame)
    return bool(c) and not a and not is_odd(frame)


def _matrix(frame: VideoFrame) -> np.ndarray:
    """The directions in which a step right and a step down are shown: -1, 0 or 1, [2, 2]."""
    data: Any = frame.side_data.get(_DISPLAY_MATRIX)
    if data is None:
        return np.eye(2, dtype=np.int32)
    # Nine numbers, the four of interest with 16 bits after the point; what is within rounding of an
    # axis is on it.
    numbers = np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    largest = np.abs(numbers).max()
    return np.where(np.abs(numbers) > 0.001 * largest, np.sign(numbers), 0).astype(np.int32)
