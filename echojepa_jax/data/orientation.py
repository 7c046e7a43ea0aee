"""Frames upright, as the display matrix of a video says: phones and hand-held probes turn pictures.

The matrix maps a stored pixel (x, y) to the place (a x + c y, b x + d y) where it is shown. Quarter
turns and mirrors are done here; other angles are not, as they would invent pixels.
"""

from typing import Any

import numpy as np
from av.video.frame import VideoFrame

_MATRIX = "DISPLAYMATRIX"
_ROUNDING = 0.001  # share of the largest number below which another one means 0


def upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """The pixels [H, W, 3] of a frame, turned and mirrored: [H, W, 3] or [W, H, 3]."""
    (a, b), (c, d) = _directions(frame)
    if b and c and not a and not d:
        image, right, down = image.transpose(1, 0, 2), c, b
    elif a and d and not b and not c:
        right, down = a, d
    else:
        return image
    return np.ascontiguousarray(image[::down, ::right])


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Height and width of what `upright` gives."""
    (a, b), (c, d) = _directions(frame)
    sideways = b and c and not a and not d
    return (frame.width, frame.height) if sideways else (frame.height, frame.width)


def is_odd(frame: VideoFrame) -> bool:
    """Whether the matrix turns by another angle than quarters of a circle."""
    (a, b), (c, d) = _directions(frame)
    return not ((a and d and not b and not c) or (b and c and not a and not d))


def _directions(frame: VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a step right and a step down lead, (x, y) of each: -1, 0 or 1."""
    data: Any = frame.side_data.get(_MATRIX)
    if data is None:
        return (1, 0), (0, 1)
    # Nine numbers, of which these four have 16 bits after the point.
    numbers = np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    signs = np.where(np.abs(numbers) > _ROUNDING * np.abs(numbers).max(), np.sign(numbers), 0)
    (a, b), (c, d) = signs.astype(int).tolist()
    return (a, b), (c, d)
