"""Pictures of clips and their masks: which tokens the encoder sees, and which it must predict."""

import base64
import math

import cv2
import numpy as np

# Of the page's legend too. Targets are painted over; what is neither fades into a dark slate, which
# differs from the black that surrounds an ultrasound sector.
TARGET_COLOUR = (230, 159, 0)
DROPPED_COLOUR = (44, 52, 66)
TARGET_OPACITY, DROPPED_OPACITY = 0.6, 0.85

MAX_FRAMES = 8
MAX_SIDE = 128
GAP = 3
JPEG_QUALITY = 88  # a quarter of the size of PNG on speckle


def paint(
    clip: np.ndarray, grid: tuple[int, int, int], context_ids: np.ndarray, target_ids: np.ndarray
) -> np.ndarray:
    """Marks the tokens of a clip.

    Args:
      clip: uint8 [T, H, W, 3].
      grid: tokens along time, height and width (T', Hp, Wp), numbered `(t * Hp + h) * Wp + w`.
      context_ids, target_ids: [Kc], [Kt].

    Returns:
      uint8 [T, H, W, 3]: context tokens as they are, targets tinted, other tokens darkened.
    """
    count = math.prod(grid)
    colour = np.tile(np.array(DROPPED_COLOUR, np.float32), (count, 1))
    opacity = np.full((count, 1), DROPPED_OPACITY, np.float32)
    colour[target_ids] = TARGET_COLOUR
    opacity[target_ids] = TARGET_OPACITY
    opacity[context_ids] = 0.0

    def to_pixels(tokens: np.ndarray) -> np.ndarray:
        pixels = tokens.reshape(*grid, -1)
        for axis in range(3):
            pixels = pixels.repeat(clip.shape[axis] // grid[axis], axis=axis)
        return pixels

    share = to_pixels(opacity)
    return np.rint(clip * (1 - share) + to_pixels(colour) * share).astype(np.uint8)


def strip(clip: np.ndarray, token_frames: int) -> str:
    """Frames side by side as a JPEG data URI: the first of each tubelet, at most MAX_FRAMES.

    Args:
      clip: uint8 [T, H, W, 3].
      token_frames: T', tubelets along time.
    """
    shown = np.linspace(0, token_frames - 1, min(token_frames, MAX_FRAMES)).astype(int)
    frames = clip[shown * (len(clip) // token_frames)]
    _, height, width, _ = frames.shape
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = (round(width * scale), round(height * scale))
    gap = np.full((size[1], GAP, 3), 255, np.uint8)
    row: list[np.ndarray] = []
    for frame in frames:
        row += [cv2.resize(frame, size, interpolation=cv2.INTER_AREA), gap]
    picture = cv2.cvtColor(np.concatenate(row[:-1], axis=1), cv2.COLOR_RGB2BGR)
    # Full colour resolution: otherwise the tint bleeds over the edges of tokens.
    quality = [
        cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    _, data = cv2.imencode(".jpg", picture, quality)
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
