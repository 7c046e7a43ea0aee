"""Spatial transforms of a clip: choose a box, and resize it to the model's input size.

The only augmentation of the recipe is one random resized crop for the whole clip. There are no
flips, because left and right are anatomy, and the device normalises grey values. Pixels stay uint8.
"""

import math

import cv2
import numpy as np

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels"""

CROP_TRIES = 10

# Clips are made in parallel already, and OpenCV's threads would only compete with that.
cv2.setNumThreads(0)


def random_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Box:
    """Draw a box inside a frame of height x width pixels.

    Its area is uniform in `area` (shares of the frame), its width / height log-uniform in `aspect`,
    its position uniform (Szegedy et al. 2015, as in torchvision's RandomResizedCrop). A shape that
    does not fit is drawn again, up to 10 times in all; then the largest centred box with an allowed
    aspect is used.
    """
    log_aspect = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(CROP_TRIES):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*log_aspect))
        box_height, box_width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return top, left, box_height, box_width
    ratio = min(max(width / height, aspect[0]), aspect[1])
    return _centred(
        height, width, min(height, round(width / ratio)), min(width, round(height * ratio))
    )


def centre_box(height: int, width: int, share: float = 1.0) -> Box:
    """Return the centred square whose side is this share of the short side.

    It is as if the short side were resized, then cropped.
    """
    side = round(share * min(height, width))
    return _centred(height, width, side, side)


def cut(clip: np.ndarray, box: Box, out: np.ndarray) -> None:
    """Resize the `box` of each frame of `clip` [T, H, W, C] into `out` [T, size, size, C], uint8.

    Bilinear without antialiasing, as in the original code. OpenCV resizes the three interleaved
    channels of a frame about six times faster than the 3 T channels of all frames at once.

    Raises:
      ValueError: `clip` and `out` have different numbers of channels; OpenCV would leave `out`
        unchanged without an error.
    """
    if clip.shape[3] != out.shape[3]:
        raise ValueError(f"a clip has {clip.shape[3]} channels instead of {out.shape[3]}")
    top, left, height, width = box
    size = out.shape[2], out.shape[1]
    for frame, target in zip(clip, out, strict=True):
        cv2.resize(
            frame[top : top + height, left : left + width],
            size,
            dst=target,
            interpolation=cv2.INTER_LINEAR,
        )


def _centred(height: int, width: int, box_height: int, box_width: int) -> Box:
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
