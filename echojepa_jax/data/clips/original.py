"""The transform of the paper's probes (`data.augment=original`): RandAugment, crop and erasing.

In training, a clip goes through RandAugment (Cubuk et al. 2020, as timm's rand-m7-n4-mstd0.5-inc1),
a random resized crop of 8 % of the frame or more, and random erasing (Zhong et al. 2020). All draws
are the same for all frames of a clip. Validation and test show a part of the centre.

The operations are those of Pillow, as in the original. Pillow is imported when it is needed,
because other programs should not wait for it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.data.clips.transforms import random_box

MAGNITUDE, MAGNITUDE_STD, MOST = 7, 0.5, 10
COUNT, PROBABILITY = 4, 0.5  # operations that are drawn, and how likely each is then applied
OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness"),
    *("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"),
)
GREY = (128, 128, 128)  # where a rotated or shifted frame shows nothing

ERASED_SHARE = 0.25  # of all clips
ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)
# Mean and standard deviation of ImageNet's pixels: after normalisation, noise has mean 0 and SD 1.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def as_original(clip: ClipSpec) -> ClipSpec:
    """These clips with the original's crops.

    Evaluation resizes the short side to `size * 256 / 224` pixels, rounded down, and shows the
    centre: it cuts off 6 % of a square frame at each border.
    """
    centre = clip.size / int(clip.size * 256 / 224)
    return dataclasses.replace(clip, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), centre=centre)


def rand_augment(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws 4 operations and applies each with probability 0.5: uint8 [T, H, W, 3] -> the same."""
    from PIL import Image

    frames = [Image.fromarray(frame) for frame in video]
    for name in rng.choice(OPERATIONS, COUNT):
        if rng.random() < PROBABILITY:
            level = float(np.clip(rng.normal(MAGNITUDE, MAGNITUDE_STD), 0, MOST))
            change = operation(str(name), level, int(rng.choice((-1, 1))))
            frames = [change(frame) for frame in frames]
    return np.stack([np.asarray(frame) for frame in frames])


def operation(name: str, level: float, sign: int) -> Callable[[Any], Any]:
    """One of `OPERATIONS` on a Pillow image in RGB.

    Args:
      level: 0 to 10; higher is stronger. sign: 1 or -1, for operations with two directions.
    """
    from PIL import Image, ImageEnhance, ImageOps

    share = level / MOST

    def moved(*matrix: float) -> Callable[[Any], Any]:
        kind, by = Image.Transform.AFFINE, Image.Resampling.BICUBIC
        return lambda image: image.transform(image.size, kind, matrix, by, fillcolor=GREY)

    match name:
        case "AutoContrast":
            return ImageOps.autocontrast
        case "Equalize":
            return ImageOps.equalize
        case "Invert":
            return ImageOps.invert
        case "Posterize":
            return lambda image: ImageOps.posterize(image, 4 - int(share * 4))
        case "Solarize":
            return lambda image: ImageOps.solarize(image, 256 - int(share * 256))
        case "SolarizeAdd":
            more = int(share * 110)
            table = [min(255, i + more) if i < 128 else i for i in range(256)]
            return lambda image: image.point(table * 3)
        case "Rotate":
            degrees, by = sign * share * 30, Image.Resampling.BICUBIC
            return lambda image: image.rotate(degrees, by, fillcolor=GREY)
        case "ShearX":
            return moved(1, sign * share * 0.3, 0, 0, 1, 0)
        case "ShearY":
            return moved(1, 0, 0, sign * share * 0.3, 1, 0)
        case "TranslateX":
            return lambda image: moved(1, 0, sign * share * 0.45 * image.width, 0, 1, 0)(image)
        case "TranslateY":
            return lambda image: moved(1, 0, 0, 0, 1, sign * share * 0.45 * image.height)(image)
        case _:  # Color, Contrast, Brightness, Sharpness: 1 leaves the image as it is
            enhancer, factor = getattr(ImageEnhance, name), 1 + sign * share * 0.9
            return lambda image: enhancer(image).enhance(factor)


def erase(clip: np.ndarray, rng: np.random.Generator) -> None:
    """Fills a rectangle of one clip in four with noise: uint8 [T, size, size, 3], in place.

    The rectangle is the same in all frames. The noise is normal, with ImageNet's mean and standard
    deviation, and differs from pixel to pixel. Unlike the original's, it ends at black and white.
    """
    if rng.random() >= ERASED_SHARE:
        return
    frames, height, width, colours = clip.shape
    top, left, high, wide = random_box(height, width, rng, area=ERASED_AREA, aspect=ERASED_ASPECT)
    noise = rng.normal(_MEAN, _STD, (frames, high, wide, colours))
    clip[:, top : top + high, left : left + wide] = np.clip(noise.round(), 0, 255)
