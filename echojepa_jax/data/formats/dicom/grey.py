"""Finds the meaning of a frame's three channels from its values: ultrasound is mostly grey.

Exporters convert pixels and keep old labels, so a header may state wrong colours or a wrong order
of the channels. A grey picture that is read wrongly is coloured everywhere, which one frame shows.
"""

import numpy as np

from echojepa_jax.data.formats.dicom.codestream import RGB, UNKNOWN, YCBCR

_MOST, _HALF, _FEW = 0.8, 0.5, 0.2  # shares of the pixels
_LEVELS = 4  # the largest difference between the channels of a grey pixel
_STEP = 8  # the smallest difference between a textured pixel and the one before it
_ENOUGH = 0.02  # the smallest share of textured pixels that gives an answer


def colours_of(frame: np.ndarray) -> str:
    """The colours in which most pixels of a frame, uint8 [H, W, 3], are grey: RGB or YCBCR.

    UNKNOWN, if that holds for both or for neither.
    """
    part = frame[::2, ::2].astype(np.int16)
    as_rgb = float((np.ptp(part, axis=-1) <= _LEVELS).mean())
    as_ycbcr = float((np.abs(part[..., 1:] - 128) <= _LEVELS).all(axis=-1).mean())
    if as_rgb > _MOST and as_ycbcr < _FEW:
        return RGB
    return YCBCR if as_ycbcr > _MOST and as_rgb < _FEW else UNKNOWN


def is_better(frame: np.ndarray, other: np.ndarray) -> bool:
    """Whether a frame is in the right order, and another one with the same bytes is not.

    Args:
      frame, other: RGB, uint8 [H, W, 3]; in the right order, most textured pixels are grey.
    """
    return _grey_share(frame) > _MOST and _grey_share(other) < _HALF


def _grey_share(frame: np.ndarray) -> float:
    """The share of grey ones among textured pixels: a flat area looks grey in any order."""
    part = frame[::2].astype(np.int16)
    changes = np.abs(np.diff(part, axis=1)).max(axis=-1) > _STEP
    textured = part[:, 1:][changes]
    if len(textured) < _ENOUGH * changes.size:
        return 0.0
    return float((np.ptp(textured, axis=-1) <= _LEVELS).mean())
