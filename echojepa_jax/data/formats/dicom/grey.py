"""What three channels are, by their values: nearly all of an ultrasound picture is grey.

Where headers alone name the colours, or the order of the channels, they may be wrong: exporters
convert pixels and keep old labels. Read wrongly, a grey picture is coloured all over, so that one
frame shows it.
"""

import numpy as np

from echojepa_jax.data.formats.dicom.codestream import OPEN, RGB, YCBCR

_MOST, _HALF, _FEW = 0.8, 0.5, 0.2  # shares of the pixels
_LEVELS = 4  # by which the channels of a grey pixel may differ
_STEP, _ENOUGH = 8, 0.02  # by which textured pixels differ, and the share of them that can tell


def colours_of(frame: np.ndarray) -> str:
    """RGB or YCBCR, if most pixels of a frame, uint8 [H, W, 3], are grey as the one and few as the
    other; else OPEN.
    """
    part = frame[::2, ::2].astype(np.int16)
    as_rgb = float((np.ptp(part, axis=-1) <= _LEVELS).mean())
    as_ycbcr = float((np.abs(part[..., 1:] - 128) <= _LEVELS).all(axis=-1).mean())
    if as_rgb > _MOST and as_ycbcr < _FEW:
        return RGB
    return YCBCR if as_ycbcr > _MOST and as_rgb < _FEW else OPEN


def is_better(frame: np.ndarray, other: np.ndarray) -> bool:
    """Whether most textured pixels of a frame are grey, and not half of those of the other frame,
    which has the same bytes in another order. Both are RGB, uint8 [H, W, 3].
    """
    return _grey_share(frame) > _MOST and _grey_share(other) < _HALF


def _grey_share(frame: np.ndarray) -> float:
    """Of pixels that differ from the one before: where nothing changes, any order looks grey."""
    part = frame[::2].astype(np.int16)
    changes = np.abs(np.diff(part, axis=1)).max(axis=-1) > _STEP
    textured = part[:, 1:][changes]
    if len(textured) < _ENOUGH * changes.size:
        return 0.0
    return float((np.ptp(textured, axis=-1) <= _LEVELS).mean())
