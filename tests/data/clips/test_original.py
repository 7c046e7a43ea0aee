"""The paper's transform of clips: what each operation does, and how often it is drawn."""

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from echojepa_jax.data.clips import original
from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.utils.rng import generator

PIXELS = generator(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)


def changed(pixels, name, level, sign=1):
    return np.asarray(original.operation(name, level, sign)(Image.fromarray(pixels)))


@pytest.mark.parametrize(
    ("name", "sign", "expected"),
    [
        ("Invert", 1, lambda x: 255 - x),
        ("Posterize", 1, lambda x: x // 64 * 64),  # 4 - 2.8, so 2 bits
        ("Solarize", 1, lambda x: np.where(x < 256 - 179, x, 255 - x)),
        ("SolarizeAdd", 1, lambda x: np.where(x < 128, x + 77, x)),
        ("Brightness", 1, lambda x: np.minimum(255, x * 1.63)),
        ("Brightness", -1, lambda x: x * 0.37),
        ("Color", -1, lambda x: _luma(x) + 0.37 * (x - _luma(x))),
        ("Contrast", -1, lambda x: _luma(x).mean() + 0.37 * (x - _luma(x).mean())),
    ],
)
def test_operations_on_colours_at_the_magnitude_of_the_recipe(name, sign, expected):
    wanted = expected(PIXELS.astype(float))
    # Pillow rounds the luma, then cuts off fractions.
    assert np.abs(changed(PIXELS, name, 7, sign) - wanted).max() < (1.5 if "C" in name else 1)


def _luma(x):
    return (x @ (0.299, 0.587, 0.114))[..., None]


def test_contrast_is_stretched_by_colour_and_edges_are_softened_or_sharpened():
    pale = PIXELS // 4 + 90
    for name in ("AutoContrast", "Equalize"):
        stretched = changed(pale, name, 7)
        assert (stretched.min(axis=(0, 1)) == 0).all()
        assert (stretched.max(axis=(0, 1)) >= 254).all()
    softer, sharper = (changed(pale, "Sharpness", 7, sign).std() for sign in (-1, 1))
    assert softer < pale.std() < sharper


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ShearX", lambda x, y, sign: (x + sign * 0.21 * y, y)),
        ("ShearY", lambda x, y, sign: (x, y + sign * 0.21 * x)),
        ("TranslateX", lambda x, y, sign: (x + sign * 0.315 * 40, y)),
        ("TranslateY", lambda x, y, sign: (x, y + sign * 0.315 * 30)),
        ("Rotate", lambda x, y, sign: _rotated(x, y, sign * np.radians(21))),
    ],
)
def test_operations_on_places_move_a_ramp_and_leave_grey(name, source, sign):
    y, x = np.mgrid[:30, :40] + 0.5
    ramp = np.repeat((2 * x + 3 * y)[..., None], 3, axis=2).astype(np.uint8)
    at_x, at_y = source(x, y, sign)
    found = changed(ramp, name, 7, sign)
    inside = (at_x > 2) & (at_x < 38) & (at_y > 2) & (at_y < 28)
    assert np.abs(found[inside, 0] - (2 * at_x + 3 * at_y)[inside]).max() < 2
    outside = (at_x < 0) | (at_x > 40) | (at_y < 0) | (at_y > 30)
    assert outside.any()
    assert (found[outside] == 128).all()


def _rotated(x, y, angle):
    x, y = x - 20, y - 15
    return 20 + x * np.cos(angle) - y * np.sin(angle), 15 + x * np.sin(angle) + y * np.cos(angle)


def test_four_operations_are_drawn_and_half_of_them_applied(monkeypatch):
    drawn = []

    def spy(name, level, sign):
        drawn.append((name, level, sign))
        return lambda image: image

    monkeypatch.setattr(original, "operation", spy)
    counts = []
    for i in range(1500):
        before = len(drawn)
        original.rand_augment(PIXELS[None], generator(i))
        counts.append(len(drawn) - before)
    names, levels, signs = map(np.array, zip(*drawn, strict=True))
    expected = 1500 * stats.binom(4, 0.5).pmf(range(5))
    assert stats.chisquare(np.bincount(counts), expected).pvalue > 1e-3
    assert set(names) == {*original.OPERATIONS}
    assert stats.chisquare(np.unique(names, return_counts=True)[1]).pvalue > 1e-3
    assert stats.kstest(levels, stats.norm(7, 0.5).cdf).pvalue > 1e-3
    assert stats.chisquare(np.unique(signs, return_counts=True)[1]).pvalue > 1e-3


def test_all_frames_of_a_clip_go_through_the_same_operations():
    clip = np.stack([PIXELS] * 3)
    found = [original.rand_augment(clip, generator(i)) for i in range(40)]
    assert all((one == one[0]).all() and one.shape == clip.shape for one in found)
    assert len({one.tobytes() for one in found}) > 30
    np.testing.assert_array_equal(found[3], original.rand_augment(clip, generator(3)))


def test_one_clip_in_four_loses_a_rectangle_to_noise():
    areas, noise = [], []
    for i in range(1000):
        clip = np.full((2, 24, 24, 3), 7, np.uint8)
        original.erase(clip, generator(i))
        erased = (clip != 7).any(axis=(0, 3))
        rows, columns = (np.flatnonzero(erased.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            box = clip[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            areas.append(box.shape[1] * box.shape[2] / 24**2)
            noise.append(box.reshape(2, -1, 3))
            assert ((box != 7).any(axis=(0, 3))).all()
    assert stats.binomtest(len(areas), 1000, 0.25).pvalue > 1e-3
    # The sides are rounded to pixels.
    assert 0.01 < min(areas) < 0.04
    assert 0.28 < max(areas) < 0.37
    pixels = np.concatenate(noise, axis=1)
    assert np.abs(pixels.mean(axis=(0, 1)) - (124, 116, 104)).max() < 2
    assert np.abs(pixels.std(axis=(0, 1)) - (58, 56, 55)).max() < 2  # without black and white: less
    assert abs(np.corrcoef(pixels[0, :, 0], pixels[1, :, 0])[0, 1]) < 0.02
    assert abs(np.corrcoef(pixels[0, :, 0], pixels[0, :, 1])[0, 1]) < 0.02


@pytest.mark.parametrize(("size", "short"), [(112, 128), (224, 256), (336, 384), (32, 36)])
def test_evaluation_shows_the_centre_of_the_short_side(size, short):
    clip = original.as_original(ClipSpec(16, size, "stride", 2))
    assert clip.centre == size / short
    assert (clip.area, clip.aspect) == ((0.08, 1.0), (0.75, 4 / 3))
