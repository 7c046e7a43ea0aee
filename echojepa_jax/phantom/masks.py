"""The phantom's truth by pixel: which structure of the left heart lies there at an instant.

Structures are labelled once, on a fine grid of material coordinates at end diastole, from the
outlines that the picture is painted with. At an instant, every pixel has the label of the material
that lies at its centre. The myocardium has its nominal thickness: in the picture, its outer border
is a little rough.
"""

import functools

import cv2
import numpy as np

from echojepa_jax.phantom.bmode import filled
from echojepa_jax.phantom.heart import Scene, chambers
from echojepa_jax.phantom.motion import Motion

BACKGROUND, LV, MYOCARDIUM, LA = range(4)
# Which outline of `chambers` is the left atrium; PSAX does not show it.
_ATRIUM = {"A4C": 2, "A2C": 1, "PLAX": 3}
_FINE = 4  # points of the grid in the side of a pixel


def labels(scene: Scene, frame: int) -> np.ndarray:
    """The labels of all pixels of a frame: uint8 [size, size].

    They are BACKGROUND, LV (the cavity), MYOCARDIUM (the wall of the LV, open at its base) and LA,
    also where they reach beyond the sector.
    """
    across, down = (np.arange(scene.size) - scene.tip[:, None]) * scene.spacing
    x, y = np.meshgrid(across, down)
    p, q = Motion(scene, x, y).material(scene.instant(frame))
    found, (left, top), pitch = _material(scene)
    column, row = (np.rint((at - start) / pitch).astype(int) for at, start in ((p, left), (q, top)))
    inside = (column >= 0) & (row >= 0) & (column < found.shape[1]) & (row < found.shape[0])
    return np.where(inside, found[row * inside, column * inside], BACKGROUND).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _material(scene: Scene) -> tuple[np.ndarray, tuple[float, float], float]:
    """Labels uint8 [H, W] at end diastole, (p, q) of the first one, and the distance of points."""
    outlines = [outline for outline, _ in chambers(scene)]
    atrium, wall = _ATRIUM.get(scene.view), scene.patient.wall
    ours = outlines[:1] if atrium is None else [outlines[0], outlines[atrium]]
    pitch = scene.spacing / _FINE
    low, high = np.min(np.concatenate(ours), axis=0), np.max(np.concatenate(ours), axis=0)
    low, high = low - 1.2 * wall, high + 1.2 * wall
    width, height = ((high - low) / pitch).astype(int) + 2
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) * pitch + low
    blood = [filled(outline, grid) > 0 for outline in outlines]
    away = pitch * cv2.distanceTransform(
        np.logical_not(blood[0]).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    found = np.full((height, width), BACKGROUND, np.uint8)
    # Below the base are the valve and the atrium.
    found[(away <= wall) & ((scene.view == "PSAX") | (grid[..., 1] <= scene.patient.length))] = (
        MYOCARDIUM
    )
    found[np.any(blood, axis=0)] = BACKGROUND
    if atrium is not None:
        found[blood[atrium]] = LA
    found[blood[0]] = LV
    return found, (float(low[0]), float(low[1])), pitch
