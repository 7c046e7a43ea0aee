"""Finds the ultrasound sector of a recording by its motion.

Speckle changes from frame to frame; text and scales change rarely or never. Pixels that change
often are dense in the sector and sparse along the trace of an ECG, so the largest dense piece is
the sector. Its convex hull, widened a little, is kept. Another screen within the recording, such as
a page of patient data, is detected because it changes the picture as a whole.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels"""

CHANGE = 10  # grey levels by which a moving pixel changes in all; coding noise changes it by fewer
# A moving pixel changes this often (less often in very short recordings), each time by so many grey
# levels. An overlay that appears and disappears twice changes four times.
_MIN_STEPS, _STEP = 5, 5
_WINDOW = 1 / 24  # share of the longer side: the square in which changing pixels are counted
_DENSE = 0.25  # share of the pixels in that square that change
_MARGIN = 1 / 50  # share of the longer side by which the hull is widened
_SMALLEST = 0.04  # smallest share of the frame that a sector covers
# Screens are compared as thumbnails of this side (pixels). Thumbnails of a heart that follow each
# other, even at every fourth frame, have a correlation of 0.77 or more; a heart and a page of text
# have 0.3 at most (measured on the phantom and on DICOMs that packages ship). A thumbnail whose
# grey levels have a standard deviation below _BLANK is not compared.
_THUMB, _ALIKE, _BLANK = 24, 0.5, 2.0
# M-mode and spectral Doppler fill a rectangle; a sector leaves its upper corners empty.
_FULL_AREA, _FULL_TOP = 0.93, 0.85


class NoSector(Exception):
    """A recording shows no sector, or also another screen; str(e) is "category: details"."""


@dataclasses.dataclass(frozen=True)
class Sector:
    """The part of the frames that is ultrasound.

    corners: int32 [C, 2], x and y of a convex polygon. shape: height and width of the frames.
    """

    corners: np.ndarray
    shape: tuple[int, int]

    @property
    def box(self) -> Box:
        """The smallest rectangle that contains the sector."""
        left, top, width, height = cv2.boundingRect(self.corners)
        return top, left, height, width

    def mask(self) -> np.ndarray:
        """uint8 [H, W]: 1 inside, 0 outside."""
        inside = np.zeros(self.shape, np.uint8)
        cv2.fillConvexPoly(inside, self.corners, 1)
        return inside


class Motion:
    """Which pixels of a recording move.

    Args:
      frames: grey pictures, uint8 [H, W], in order of time.
    """

    def __init__(self, frames: Iterable[np.ndarray] = ()) -> None:
        self._frames = 0
        self._before: Any = None
        self._lowest: Any = None
        self._highest: Any = None
        # For each pixel: the largest step from frame to frame, and how many steps exceed the noise.
        self._largest: Any = None
        self._steps: Any = None
        for frame in frames:
            self.add(frame)

    def add(self, frame: np.ndarray) -> None:
        """Takes the next frame into account."""
        if not self._frames:
            self._lowest, self._highest = frame.copy(), frame.copy()
            self._largest, self._steps = np.zeros_like(frame), np.zeros_like(frame)
        else:
            step = cv2.absdiff(frame, self._before)
            self._lowest = cv2.min(self._lowest, frame)
            self._highest = cv2.max(self._highest, frame)
            self._largest = cv2.max(self._largest, step)
            self._steps = cv2.add(self._steps, (step > _STEP).astype(np.uint8))
        self._before = frame.copy()
        self._frames += 1

    def moving(self) -> np.ndarray:
        """float32 [H, W]: 1 where a pixel changes slowly or repeatedly, else 0."""
        changes = cv2.subtract(self._highest, self._lowest)
        slowly = self._largest < changes / 2
        repeatedly = self._steps >= max(1, min(_MIN_STEPS, self._frames - 2))
        return ((changes > CHANGE) & (slowly | repeatedly)).astype(np.float32)


def find(motion: Motion, *, any_shape: bool = False) -> Sector:
    """Finds the sector of a recording.

    Args:
      any_shape: accept rectangles too, because the header states that this is a 2-D picture.

    Raises:
      NoSector: hardly anything moves, or the moving part does not have the shape of a sector.
    """
    changes = motion.moving()
    height, width = changes.shape
    side = max(height, width)
    window = max(3, round(side * _WINDOW) | 1)
    dense = (cv2.blur(changes, (window, window)) > _DENSE).astype(np.uint8)
    count, labels, facts, _ = cv2.connectedComponentsWithStats(dense)
    if count < 2:
        raise NoSector("not a sector: nothing moves")
    largest = 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))
    # Blurring has widened the piece: only pixels that change count.
    inside = (labels == largest) & (changes > 0)
    points = cv2.findNonZero(inside.astype(np.uint8))
    hull = cv2.convexHull(points)
    if cv2.contourArea(hull) < _SMALLEST * height * width:
        raise NoSector("not a sector: hardly anything moves")
    exact = Sector(hull[:, 0], (height, width))
    if not any_shape and _is_rectangle(exact):
        raise NoSector("not a sector: motion fills a rectangle, as in M-mode and spectral Doppler")
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


class Screens:
    """Detects when a recording changes to another screen.

    Args:
      corners: corners of the sector, int32 [C, 2] (x, y); only pixels inside it are compared.
      size: height and width of the pictures in pixels.
    """

    def __init__(self, corners: np.ndarray, size: tuple[int, int]) -> None:
        inside = np.zeros(size, np.uint8)
        cv2.fillConvexPoly(inside, corners, 255)
        self._inside = _thumb(inside) > 250
        self._before: np.ndarray | None = None

    def changes(self, picture: np.ndarray) -> bool:
        """Whether this picture, uint8 [H, W] or [H, W, 3], shows another screen than the last one.

        Pictures of uniform brightness, such as black ones, are skipped.
        """
        # The mean of the channels: a saturated Doppler colour is less bright than a white page.
        grey = picture if picture.ndim == 2 else picture.mean(axis=2).astype(np.uint8)
        now = _thumb(grey)[self._inside].astype(np.float32)
        if not len(now) or now.std() < _BLANK:
            return False
        before, self._before = self._before, now
        if before is None:
            return False
        shared = ((before - before.mean()) * (now - now.mean())).mean()
        return float(shared) < _ALIKE * float(before.std() * now.std())


def _thumb(grey: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(grey, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA))


def scaled(corners: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Maps corners of the frame to a picture that shows `box` at `size` (height, width).

    corners: [C, 2], x and y. Returns int32 [C, 2].
    """
    top, left, height, width = box
    moved = (corners - (left, top) + 0.5) * (size[1] / width, size[0] / height) - 0.5
    return np.rint(moved).astype(np.int32)
