"""Where the ultrasound sector lies in a recording, judged by what moves; and blackening the rest.

Speckle changes from frame to frame, text and scales do not. Pixels that change lie densely in the
sector, thinly along an ECG's trace; the largest dense piece is the sector. Its convex hull, a
little widened, is kept.
"""

import dataclasses

import cv2
import numpy as np

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels"""

CHANGE = 10  # grey levels by which a pixel must change to count; coding noise changes fewer
_WINDOW = 1 / 24  # of the longer side: over this square the share of changing pixels is taken
_DENSE = 0.25  # share of changing pixels in that square
_MARGIN = 1 / 50  # of the longer side, by which the hull is widened
_SMALLEST = 0.04  # share of the frame that a sector covers at least
# A rectangle of data is an M-mode or a spectral Doppler; a fan leaves its upper corners empty.
_FULL_AREA, _FULL_TOP = 0.93, 0.85


class NoSector(Exception):
    """A recording that shows no sector; str(e) is the reason, "not a sector: ..."."""


@dataclasses.dataclass(frozen=True)
class Sector:
    """The part of the frames that is ultrasound.

    corners: int32 [C, 2], x and y of a convex polygon. shape: height and width of the frames.
    """

    corners: np.ndarray
    shape: tuple[int, int]

    @property
    def box(self) -> Box:
        """The smallest rectangle that holds it."""
        left, top, width, height = cv2.boundingRect(self.corners)
        return top, left, height, width

    def mask(self) -> np.ndarray:
        """uint8 [H, W]: 1 inside, 0 outside."""
        inside = np.zeros(self.shape, np.uint8)
        cv2.fillConvexPoly(inside, self.corners, 1)
        return inside


def find(lowest: np.ndarray, highest: np.ndarray, *, any_shape: bool = False) -> Sector:
    """The sector of a recording.

    Args:
      lowest, highest: uint8 [H, W], the darkest and brightest grey of each pixel over all frames.
      any_shape: rectangles are welcome too, because the header says that this is a 2-D picture.

    Raises:
      NoSector: hardly anything moves, or what moves has not the shape of a sector.
    """
    height, width = lowest.shape
    side = max(height, width)
    window = max(3, round(side * _WINDOW) | 1)
    changes = (highest.astype(np.int16) - lowest > CHANGE).astype(np.float32)
    dense = (cv2.blur(changes, (window, window)) > _DENSE).astype(np.uint8)
    count, labels, facts, _ = cv2.connectedComponentsWithStats(dense)
    if count < 2:
        raise NoSector("not a sector: nothing moves")
    largest = 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))
    # Blurring has widened the piece: only what really changed in it counts.
    inside = (labels == largest) & (changes > 0)
    points = cv2.findNonZero(inside.astype(np.uint8))
    hull = cv2.convexHull(points)
    if cv2.contourArea(hull) < _SMALLEST * height * width:
        raise NoSector("not a sector: hardly anything moves")
    exact = Sector(hull[:, 0], (height, width))
    if not any_shape and _is_rectangle(exact):
        raise NoSector("not a sector: it fills a rectangle, as M-mode and spectral Doppler do")
    return _widened(exact, max(1, round(side * _MARGIN)))


def _is_rectangle(sector: Sector) -> bool:
    top, left, height, width = sector.box
    rows = sector.mask()[top : top + height, left : left + width].sum(axis=1)
    area = rows.sum() / (height * width)
    upper = rows[: max(1, height // 12)].mean() / rows.max()
    return bool(area > _FULL_AREA and upper > _FULL_TOP)


def _widened(sector: Sector, margin: int) -> Sector:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    mask = cv2.dilate(sector.mask(), kernel)
    return Sector(cv2.convexHull(cv2.findNonZero(mask))[:, 0], sector.shape)


def scaled(corners: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Corners in a picture that shows `box` at `size` (height, width); int32 [C, 2]."""
    top, left, height, width = box
    moved = (corners - (left, top) + 0.5) * (size[1] / width, size[0] / height) - 0.5
    return np.rint(moved).astype(np.int32)
