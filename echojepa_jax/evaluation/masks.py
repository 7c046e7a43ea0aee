"""Measures of masks: overlap, distance of borders, and the volume that an LV mask stands for."""

import math

import numpy as np
from scipy import ndimage

DISCS = 20
_FINE = 4  # parts of the side of a pixel, so that discs need not end between pixels

Spacing = tuple[float, float]
"""Size of a pixel: from one to the next one down, and right."""


def dice(true: np.ndarray, found: np.ndarray) -> float:
    """Twice the common area of masks bool [H, W] over the sum of both; NaN if both are empty."""
    total = int(true.sum()) + int(found.sum())
    return 2 * int((true & found).sum()) / total if total else math.nan


def hausdorff95(true: np.ndarray, found: np.ndarray, spacing: Spacing) -> float:
    """The 95th percentile of the distances between two borders, in the unit of `spacing`.

    As in medpy's `hd95`: the border of a mask are its pixels with a neighbour (of four) outside of
    it or outside of the picture. From every pixel of either border the distance to the nearest
    pixel of the other border is taken, and the percentile is that of all these distances together,
    with linear interpolation.

    Args:
      true, found: bool [H, W]. If only one is empty, no distance is defined: the diagonal of the
        picture is returned, which is longer than any distance. NaN if both are empty.
    """
    if not true.any() and not found.any():
        return math.nan
    if not true.any() or not found.any():
        return math.hypot(true.shape[0] * spacing[0], true.shape[1] * spacing[1])
    rows, columns = np.nonzero(true | found)
    near = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    borders = [_border(mask[near]) for mask in (true, found)]
    away = [ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders]
    both = np.concatenate([away[1][borders[0]], away[0][borders[1]]])
    return float(np.percentile(both, 95))


def _border(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def volume(mask: np.ndarray, spacing: Spacing) -> float:
    """The volume of the LV from its mask in one plane, in cubic units of `spacing`.

    Disc summation in a single plane (modified Simpson): the long axis is the principal axis of the
    mask; `DISCS` slices of equal height across it stand for discs, whose diameters are the slices'
    areas over the height: the sum of pi / 4 diameter^2 height. Hence the ejection fraction needs no
    spacing, only the ratio of both.

    Args:
      mask: bool [H, W].

    Returns:
      0 if the mask is empty.
    """
    if not mask.any():
        return 0.0
    fine = np.repeat(np.repeat(mask, _FINE, axis=0), _FINE, axis=1)
    pixel = np.array(spacing) / _FINE
    points = np.argwhere(fine) * pixel
    points -= points.mean(axis=0)
    _, axes = np.linalg.eigh(points.T @ points)
    along = points @ axes[:, -1]
    # Points are centres of pixels, which reach half a pixel further.
    half = np.abs(axes[:, -1]) @ pixel / 2
    low, length = along.min() - half, float(np.ptp(along) + 2 * half)
    slices = np.bincount(((along - low) / length * DISCS).astype(int), minlength=DISCS)
    height = length / DISCS
    diameters = slices * pixel.prod() / height
    return float(np.pi / 4 * np.square(diameters).sum() * height)


def ejection_fraction(end_diastole: float, end_systole: float) -> float:
    """In percent, from both volumes; 0 if the second one is larger; NaN without the first one."""
    return 100 * max(0.0, 1 - end_systole / end_diastole) if end_diastole else math.nan
