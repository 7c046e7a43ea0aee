"""Frames upright, as the display matrix of a video says: phones and hand-held probes turn pictures.

The matrix maps a stored pixel (x, y) to the place (a x + c y, b x + d y) where it is shown. Quarter
turns and mirrors are done here; other angles are not, as they would invent pixels.
"""

from typing import Any

import numpy as np
from av.video.frame import VideoFrame

_MATRIX = "DISPLAYMATRIX"
_NONE = (False, 1, 1)  # the turn of a picture that stays as it is
_ROUNDING = 0.001  # share of the largest number below which another one means 0


def upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """The pixels [H, W, 3] of a frame, turned and mirrored: [H, W, 3] or [W, H, 3]."""
    sideways, right, down = _turn(frame) or _NONE
    if sideways:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image[::down, ::right])


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Height and width of what `upright` gives."""
    sideways, _, _ = _turn(frame) or _NONE
    return (frame.width, frame.height) if sideways else (frame.height, frame.width)


def is_odd(frame: VideoFrame) -> bool:
    """Whether the matrix turns by another angle than quarters of a circle."""
    return _turn(frame) is None


def _turn(frame: VideoFrame) -> tuple[bool, int, int] | None:
    """Whether rows are shown as columns, and then the steps to the right and down, 1 or -1.

    None: another angle.
    """
    data: Any = frame.side_data.get(_MATRIX)
    if data is None:
        return _NONE
    # Nine numbers, of which these four have 16 bits after the point: where a step to the right and
    # a step down lead, (x, y) of each.
    numbers = np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    signs = np.where(np.abs(numbers) > _ROUNDING * np.abs(numbers).max(), np.sign(numbers), 0)
    (a, b), (c, d) = signs.astype(int).tolist()
    if a and d and not b and not c:
        return False, a, d
    return (True, c, b) if b and c and not a and not d else None
