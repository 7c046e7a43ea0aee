"""Degrades videos for tests of robustness: acoustics, gain, speckle smoothing and lost frames.

A perturbation is a pure function of the frames and of the video's name, so it is the same on every
machine and in every order. For that, grey levels are computed with whole numbers: processors differ
in the last digit of an exponential, and a grey level that is rounded down may show it. The random
part (the place of a shadow, the noise of haze) is drawn once for each video, and is the same at all
severities. Pixels are changed at the size of the file, before resizing and cropping.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from echojepa_jax.utils.rng import generator

SEVERITIES = ("low", "medium", "high")
RECODED = "h264"  # coding as H.264 alone: a control, which has no severities (see recoded.py)
SEED = 42
VERSION = 2  # raise it when a degraded video would be another one


class Perturbation(NamedTuple):
    """A kind of degradation, one of `NAMES`, at a severity, one of `SEVERITIES`; "" for RECODED."""

    kind: str
    severity: str

    def __str__(self) -> str:
        return " ".join(word for word in self if word)

    def frames(self, ids: np.ndarray, frames: int, name: str) -> np.ndarray:
        """The frames to show instead of the frames `ids` of a video with `frames` frames.

        Only "dropped_frames" changes them: it repeats the last frame that was not dropped.
        """
        if self.kind != "dropped_frames":
            return ids
        share = _DROPPED[SEVERITIES.index(self.severity)]
        # A frame that is lost at one severity is also lost at all higher ones.
        lost = generator(SEED, self.kind, name).random(frames) < share
        lost[0] = False
        last_kept = np.maximum.accumulate(np.where(lost, 0, np.arange(frames)))
        return last_kept[ids]

    def pixels(self, video: np.ndarray, name: str) -> np.ndarray:
        """The degraded frames: uint8 [T, H, W, C] -> uint8 [T, H, W, C]."""
        if self.kind not in KINDS:
            return video
        rng = generator(SEED, self.kind, name)
        # A grey video with three channels is worked on as one with one: it is the same video.
        grey = (video == video[..., :1]).all()
        image = (video[..., :1] if grey else video).astype(np.int32)
        changed = KINDS[self.kind](image, SEVERITIES.index(self.severity), rng)
        degraded = np.clip(changed, 0, 255).astype(np.uint8)
        return np.repeat(degraded, video.shape[-1] // degraded.shape[-1], axis=-1)


_DROPPED = (0.1, 0.25, 0.5)  # shares of a video's frames


_BITS = 16  # of the fractions of a grey level, and of factors


def _fixed(values: np.ndarray) -> np.ndarray:
    """Numbers of 0 to 2^15 as multiples of 2^-16, rounded up, so that whole levels stay: int32."""
    return np.ceil(values * 2**_BITS).astype(np.int32)


def _times(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Grey levels [T, H, W, C] times factors [H, W] of 0 to 1, rounded down as the paper's were."""
    return (image * _fixed(kept)[..., None]) >> _BITS


def _radial_attenuation(image: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    """exp(-rate r), where r is the distance from the centre of the top edge in heights and widths.

    The data of the paper's table were made with this formula (usaugment's DepthAttenuation without
    a floor).
    """
    rate = (0.75, 1.5, 2.15)[level]
    return _times(image, np.exp(-rate * _from_top(image)))


def _depth_attenuation(image: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    """1 - (y / H)^gamma: the formula of the paper's appendix. A higher gamma attenuates less."""
    gamma = (0.75, 1.5, 2.15)[level]
    height = image.shape[1]
    return _times(image, 1 - (np.arange(height) / height)[:, None] ** gamma)


def _shadow(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """1 - s exp(-dx^2 / 2 (sigma W)^2 - dy^2 / 2 (sigma H)^2) around a random place."""
    strength, sigma = ((0.4, 0.15), (0.6, 0.20), (0.8, 0.25))[level]
    height, width = image.shape[1:3]
    x, y = (
        int(share * size)
        for share, size in zip(rng.uniform(0.2, 0.8, 2), (width, height), strict=True)
    )
    across = np.exp(-((np.arange(width) - x) ** 2) / (2 * (sigma * width) ** 2))
    down = np.exp(-((np.arange(height) - y) ** 2) / (2 * (sigma * height) ** 2))
    return _times(image, 1 - strength * np.outer(down, across))


def _haze(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Adds 0.5 s U(0, 1) exp(-(r - radius)^2 / 2 sigma^2): a noisy ring around the top centre.

    All frames of a video get the same noise, because haze from reverberation does not move.
    """
    strength = (0.25, 0.5, 1.0)[level]
    radius, sigma = rng.uniform(0.2, 0.6), 0.1
    ring = np.exp(-((_from_top(image) - radius) ** 2) / (2 * sigma**2))
    noise = rng.random(ring.shape)
    return ((image << _BITS) + _fixed(255 * strength * 0.5 * noise * ring)[..., None]) >> _BITS


def _speckle_smoothing(image: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    """A bilateral filter of 5 x 5 pixels, stronger at higher severities; rounded to levels."""
    return np.stack([_bilateral(frame, level) for frame in image])


def _gain(image: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    """Adds 4, 8 or 12 dB on a display of 60 dB; levels above white are clipped."""
    return image + (image > 0) * (255 * (4, 8, 12)[level] // 60)


def _dynamic_range(image: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    """Reduces the display from 60 dB to 50, 40 or 30 dB; lower levels become black."""
    shown = (50, 40, 30)[level]
    return (60 * image - 255 * (60 - shown)) // shown


KINDS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "radial_attenuation": _radial_attenuation,
    "depth_attenuation": _depth_attenuation,
    "shadow": _shadow,
    "haze": _haze,
    "speckle_smoothing": _speckle_smoothing,
    "gain": _gain,
    "dynamic_range": _dynamic_range,
}
NAMES = (*KINDS, "dropped_frames", RECODED)


def severities(kind: str) -> tuple[str, ...]:
    """The severities of a kind; a control has none."""
    return ("",) if kind == RECODED else SEVERITIES


def _from_top(image: np.ndarray) -> np.ndarray:
    """Distance of each pixel from the centre of the top edge, [H, W], in heights and widths."""
    height, width = image.shape[1:3]
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    return np.sqrt((columns - 0.5) ** 2 + rows**2)


_SMOOTHING = ((0.7, 0.1), (1.2, 0.3), (2.0, 0.6))  # sigmas: in pixels, and in grey levels of 0..1


def _bilateral(frame: np.ndarray, level: int) -> np.ndarray:
    """Means over 5 x 5 pixels, weighted by Gaussians of their distance and of their difference.

    Differences are root mean squares over colours. Pixels beyond the border are mirrored.

    Args:
      frame: int32 [H, W, C], grey levels of 0 to 255.
    """
    height, width, colours = frame.shape
    wide = cv2.copyMakeBorder(frame, 2, 2, 2, 2, cv2.BORDER_REFLECT_101).reshape(
        height + 4, width + 4, colours
    )
    total, weights = np.zeros_like(frame), np.zeros((height, width, 1), np.int32)
    for dy in range(5):
        for dx in range(5):
            other = wide[dy : dy + height, dx : dx + width]
            apart = np.square(other - frame).sum(axis=-1, keepdims=True)
            weight = _weights(level, colours, (dy - 2) ** 2 + (dx - 2) ** 2)[apart]
            total += weight * other
            weights += weight
    return (total + weights // 2) // weights


@functools.cache
def _weights(level: int, colours: int, distance: int) -> np.ndarray:
    """Weights in the filter by the sum over colours of squared differences of 0 to 255: int32.

    Args:
      distance: square of the distance in pixels.
    """
    near, alike = _SMOOTHING[level]
    squares = np.arange(colours * 255**2 + 1) / colours / 255**2
    return _fixed(np.exp(-squares / (2 * alike**2) - distance / (2 * near**2)))
