"""Crop boxes and resizing."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from echojepa_jax.data.clips import transforms
from echojepa_jax.utils.rng import generator

RECIPE = {"area": (0.5, 1.0), "aspect": (0.9, 1.1)}


@given(
    height=st.integers(1, 800),
    width=st.integers(1, 1100),
    seed=st.integers(0, 2**32),
    ranges=st.sampled_from(
        [((0.5, 1.0), (0.9, 1.1)), ((0.01, 0.02), (0.1, 10.0)), ((1.0, 1.0), (1.0, 1.0))]
    ),
)
def test_boxes_lie_inside_the_frame(height, width, seed, ranges):
    area, aspect = ranges
    rng = generator(seed)
    top, left, h, w = transforms.random_box(height, width, rng, area=area, aspect=aspect)
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0
    assert w > 0


def test_area_is_uniform_aspect_log_uniform_and_position_free():
    rng = generator(0)
    # A large frame, so that rounding to pixels does not show; areas of at most 0.8 always fit at
    # these aspects.
    shapes = {"area": (0.5, 0.8), "aspect": (0.9, 1.1)}
    boxes = np.array([transforms.random_box(4000, 4000, rng, **shapes) for _ in range(4000)])
    top, left, h, w = boxes.T
    area = h * w / 4000**2
    assert stats.kstest(area, stats.uniform(0.5, 0.3).cdf).pvalue > 1e-3
    low, high = math.log(0.9), math.log(1.1)
    assert stats.kstest(np.log(w / h), stats.uniform(low, high - low).cdf).pvalue > 1e-3
    for offset, free in ((top, 4000 - h), (left, 4000 - w)):
        place = (offset + rng.random(offset.size)) / (free + 1)
        assert stats.kstest(place, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("frame", "box"),
    [
        ((100, 300), (0, 95, 100, 110)),
        ((300, 100), (94, 0, 111, 100)),
        ((100, 100), (0, 0, 100, 100)),
    ],
)
def test_a_shape_that_never_fits_falls_back_to_the_centre(frame, box):
    class Never:
        """A generator whose boxes are always too large."""

        def uniform(self, low, high):
            return high

    # Twice the frame's area at any aspect cannot fit.
    assert transforms.random_box(*frame, Never(), area=(1.0, 20.0), aspect=(0.9, 1.1)) == box


def test_cutting_is_the_bilinear_resize_of_the_box_and_one_box_serves_all_frames():
    clip = generator(0).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    out = np.zeros((3, 32, 32, 3), np.uint8)
    transforms.cut(clip, (5, 10, 40, 36), out)
    for frame, result in zip(clip, out, strict=True):
        patch = np.ascontiguousarray(frame[5:45, 10:46])
        assert np.array_equal(result, cv2.resize(patch, (32, 32), interpolation=cv2.INTER_LINEAR))


def test_grey_stays_grey_and_flat_stays_flat():
    grey = np.repeat(generator(1).integers(0, 256, (2, 60, 60, 1), dtype=np.uint8), 3, axis=3)
    out = np.zeros((2, 24, 24, 3), np.uint8)
    transforms.cut(grey, (0, 0, 60, 60), out)
    assert (out == out[..., :1]).all()
    transforms.cut(np.full((2, 60, 60, 3), 77, np.uint8), (1, 2, 50, 55), out)
    assert (out == 77).all()


@pytest.mark.parametrize(
    ("height", "width", "resized"),
    [(112, 112, 56), (90, 160, 56), (160, 90, 56), (112, 112, 64), (112, 168, 64)],
)
def test_evaluation_crop_equals_short_side_resize_and_centre_crop(height, width, resized):
    """At 56 pixels; the paper resizes more, so that the crop is smaller than the frame."""
    rows, columns = np.mgrid[:height, :width]
    smooth = (127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 7)).astype(np.uint8)
    clip = np.repeat(smooth[None, :, :, None], 3, axis=3)
    out = np.zeros((1, 56, 56, 3), np.uint8)
    transforms.cut(clip, transforms.centre_box(height, width, 56 / resized), out)
    short = min(height, width)
    full = cv2.resize(clip[0], (round(width * resized / short), round(height * resized / short)))
    top, left = (full.shape[0] - 56) // 2, (full.shape[1] - 56) // 2
    reference = full[top : top + 56, left : left + 56].astype(int)
    assert np.abs(out[0] - reference).max() <= 8
    assert np.abs(out[0] - reference).mean() < 2
