"""Finds what looks like text burned into a recording: names, dates and numbers beside the sector.

Unlike tissue, characters do not change over time. They are brighter than their surroundings, have
about the same height, and stand in a row; small ones touch each other. Look at everything that this
detector finds. It can miss text, so an empty result does not prove that there is none.
"""

import cv2
import numpy as np

_BRIGHTER = 40  # grey levels above the neighbourhood
# Height of a character: the minimum in pixels; the maximum in pixels, or as a share of the frame.
_LOWEST, _HIGHEST, _HIGHEST_SHARE = 4, 12, 1 / 12
_CHANGE = 12  # grey levels by which coding may change a still pixel
_IN_A_ROW = 3  # characters that make a text
_WIDEST = 1.6  # width of one character, in heights; a wider piece contains several characters
_LONGEST = 20  # width of a piece of several characters, in heights
_STROKES = 3  # strokes that one pixel row of such a piece crosses; an arc of tissue has only two


def find(
    lowest: np.ndarray, highest: np.ndarray, where: np.ndarray
) -> list[tuple[int, int, int, int]]:
    """Boxes (top, left, height, width) of rows of characters.

    Args:
      lowest, highest: uint8 [H, W], the darkest and brightest grey of each pixel over time.
      where: bool or uint8 [H, W], the part to search.
    """
    tallest = max(_HIGHEST, round(lowest.shape[0] * _HIGHEST_SHARE))
    # Strokes stand out from a background from which everything as thin as a character is removed.
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (tallest, tallest))
    strokes = cv2.morphologyEx(lowest, cv2.MORPH_TOPHAT, kernel) > _BRIGHTER
    strokes &= np.asarray(where, bool)
    strokes &= cv2.absdiff(highest, lowest) < _CHANGE
    # The edges of characters are sharp, those of tissue are not.
    strokes &= cv2.morphologyEx(lowest, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > _BRIGHTER
    count, labels, facts, _ = cv2.connectedComponentsWithStats(strokes.astype(np.uint8))
    characters = []
    for k in range(1, count):
        x, y, w, h, area = map(int, facts[k])
        piece = labels[y : y + h, x : x + w] == k
        if _LOWEST <= h <= tallest and area >= h and _is_text(piece):
            characters.append((y, x, h, w))
    return [_around(row) for row in _rows(characters) if _count(row) >= _IN_A_ROW]


def _is_text(piece: np.ndarray) -> bool:
    """Whether a connected piece has the shape of one character or of several."""
    height, width = piece.shape
    if width <= _WIDEST * height:
        return True
    begins = np.diff(piece.astype(np.int8), axis=1, prepend=0) > 0
    return width <= _LONGEST * height and int(begins.sum(axis=1).max()) >= _STROKES


def _count(row: list[tuple[int, int, int, int]]) -> int:
    """The approximate number of characters in a row; most are narrower than they are high."""
    return sum(max(1, round(1.25 * w / h)) if w > _WIDEST * h else 1 for _, _, h, w in row)


def _rows(characters: list[tuple[int, int, int, int]]) -> list[list[tuple[int, int, int, int]]]:
    """Characters that follow each other on a line, left to right."""
    rows: list[list[tuple[int, int, int, int]]] = []
    for box in sorted(characters, key=lambda box: box[1]):
        for row in rows:
            if _follows(row[-1], box):
                row.append(box)
                break
        else:
            rows.append([box])
    return rows


def _follows(left: tuple[int, int, int, int], right: tuple[int, int, int, int]) -> bool:
    height = max(left[2], right[2])
    gap = right[1] - (left[1] + left[3])
    level = abs((left[0] + left[2]) - (right[0] + right[2]))
    return min(left[2], right[2]) >= 0.5 * height and -1 <= gap <= height and level <= height / 2


def _around(row: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    top, left = min(box[0] for box in row), row[0][1]
    bottom = max(box[0] + box[2] for box in row)
    return top, left, bottom - top, max(box[1] + box[3] for box in row) - left
