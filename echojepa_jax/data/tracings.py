"""Tracings: what each pixel of a frame shows, as a person (or the phantom) outlined it.

Tracings belong to the pixels of the file. `in_clip` puts them through the crop and the resize that
the frames of a clip go through.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from echojepa_jax.data.clips import transforms

STRUCTURES = ("background", "LV", "myocardium", "LA")
"""What a pixel can show, by the number of its label (as in CAMUS): LV is the cavity."""

ED, ES = "ED", "ES"


class BadTracing(Exception):
    """A tracing that cannot be used, with the reason."""


@dataclasses.dataclass(frozen=True)
class Tracing:
    """A traced frame of a video.

    name: of the sample in its source. frame: its number in the file, from 0. phase: "ED", "ES", or
    "" = unknown.
    labels: gives the labels of all pixels, uint8 [H, W], for the height and width of the video's
    frames; it may read a file, and raise BadTracing. outline: what is known of the labels without
    reading them, for a fingerprint.
    """

    name: str
    frame: int
    phase: str
    labels: Callable[[int, int], np.ndarray]
    outline: tuple[float, ...] = ()


def filled(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels whose centres are inside of an outline: bool [height, width].

    Args:
      outline: [n, 2], points (x, y) in pixels; the centre of the first pixel is (0, 0).
    """
    inside = np.zeros((height, width), bool)
    x, y = np.arange(width), np.arange(height)[:, None]
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if y1 != y2:
            # A ray to the right crosses the outline an odd number of times.
            crosses = (min(y1, y2) <= y) & (y < max(y1, y2))
            inside ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def area(outline: np.ndarray) -> float:
    """The area inside of an outline [n, 2], in square pixels."""
    (x, y), (next_x, next_y) = outline.T, np.roll(outline, -1, axis=0).T
    return float(abs(np.sum(x * next_y - next_x * y)) / 2)


def of_outlines(name: str, outlines: dict[int, np.ndarray]) -> list[Tracing]:
    """Tracings of the LV in a video from outlines [n, 2] by frame.

    The frame with the largest area is end diastole, the one with the smallest end systole; others
    are left out. The phase of a single frame is unknown.
    """
    ordered = sorted(outlines, key=lambda frame: -area(outlines[frame]))
    phases = {ordered[0]: ED, ordered[-1]: ES} if len(ordered) > 1 else dict.fromkeys(ordered, "")
    return [
        Tracing(name, frame, phase, _labels_of(outlines[frame]), _texts(outlines[frame]))
        for frame, phase in phases.items()
    ]


def _labels_of(outline: np.ndarray) -> Callable[[int, int], np.ndarray]:
    def labels(height: int, width: int) -> np.ndarray:
        if len(outline) < 3:
            raise BadTracing(f"the outline has {len(outline)} points")
        return filled(outline, height, width).astype(np.uint8) * STRUCTURES.index("LV")

    return labels


def _texts(outline: np.ndarray) -> tuple[float, ...]:
    return tuple(outline.ravel().tolist())


def in_clip(labels: np.ndarray, size: int) -> np.ndarray:
    """Labels [H, W] of a frame as a clip shows it: uint8 [size, size].

    Each structure goes through the same crop and resize as the pixels; a pixel of the clip gets the
    structure that takes the largest part of it.
    """
    shares = np.zeros((1, *labels.shape, len(STRUCTURES)), np.uint8)
    np.put_along_axis(shares, labels[None, ..., None].astype(np.intp), 255, axis=-1)
    out = np.empty((1, size, size, len(STRUCTURES)), np.uint8)
    transforms.cut(shares, transforms.centre_box(*labels.shape), out)
    return out[0].argmax(axis=-1).astype(np.uint8)


def cut_off(labels: np.ndarray) -> np.ndarray:
    """The share of each structure's area in labels [H, W] that the crop of a clip leaves out.

    Returns:
      float64 [structures]; NaN = the frame does not show it.
    """
    top, left, height, width = transforms.centre_box(*labels.shape)
    parts = labels, labels[top : top + height, left : left + width]
    whole, kept = (np.bincount(part.ravel(), minlength=len(STRUCTURES)) for part in parts)
    return 1 - kept / np.where(whole, whole, np.nan)


def spacing_in_clip(
    spacing: tuple[float, float], height: int, width: int, size: int
) -> tuple[float, float]:
    """Millimetres from a pixel of a clip to the next one down, and right; (0, 0) = unknown.

    Args:
      spacing: of the file, see `Sample`. height, width: of its frames.
    """
    _, _, box_height, box_width = transforms.centre_box(height, width)
    return spacing[0] * box_height / size, spacing[1] * box_width / size
