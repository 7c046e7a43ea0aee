"""Turns frames upright by the display matrix of a video, which phones and hand-held probes write.

The matrix maps a stored pixel (x, y) to the position (a x + c y, b x + d y) on the display. Only
quarter turns and mirrors are applied, because other angles would need interpolation.
"""

from typing import Any

import numpy as np
from av.video.frame import VideoFrame

_MATRIX = "DISPLAYMATRIX"
_NONE = (False, 1, 1)  # no turn
_ROUNDING = 0.001  # numbers below this share of the largest one count as 0


def upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """The pixels [H, W, 3] of a frame, turned and mirrored: [H, W, 3] or [W, H, 3]."""
    sideways, right, down = _turn(frame) or _NONE
    if sideways:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image[::down, ::right])


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Height and width of a frame after `upright`."""
    sideways, _, _ = _turn(frame) or _NONE
    return (frame.width, frame.height) if sideways else (frame.height, frame.width)


def has_odd_angle(frame: VideoFrame) -> bool:
    """Whether the matrix turns by an angle that is not a multiple of 90 degrees."""
    return _turn(frame) is None


def _turn(frame: VideoFrame) -> tuple[bool, int, int] | None:
    """Whether rows become columns, and the steps to the right and down (1 or -1) after that.

    None: the angle is not a multiple of 90 degrees.
    """
    data: Any = frame.side_data.get(_MATRIX)
    if data is None:
        return _NONE
    # Nine numbers. The four used here are fixed-point numbers with 16 fractional bits: the (x, y)
    # displacements of a step to the right and of a step down.
    numbers = np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    signs = np.where(np.abs(numbers) > _ROUNDING * np.abs(numbers).max(), np.sign(numbers), 0)
    (a, b), (c, d) = signs.astype(int).tolist()
    if a and d and not b and not c:
        return False, a, d
    return (True, c, b) if b and c and not a and not d else None
