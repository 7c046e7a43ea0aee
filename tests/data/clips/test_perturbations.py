"""Perturbations follow their formulas, are functions of the video's name alone, and are the same on
every processor."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from echojepa_jax.data.clips.perturbations import KINDS, NAMES, RECODED, SEVERITIES, Perturbation
from echojepa_jax.utils.rng import generator

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def video() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in grey levels of 255."""
    return float(np.abs(found.astype(float) - np.clip(expected, 0, 255)).max())


@pytest.mark.parametrize(("severity", "rate"), [("low", 0.75), ("medium", 1.5), ("high", 2.15)])
def test_radial_attenuation_follows_its_formula(video, severity, rate):
    found = Perturbation("radial_attenuation", severity).pixels(video, "a")
    for y, x in ((0, 0), (0, 15), (7, 3), (19, 29)):
        r = np.sqrt((x / (WIDTH - 1) - 0.5) ** 2 + (y / (HEIGHT - 1)) ** 2)
        assert apart(found[:, y, x], video[:, y, x] * np.exp(-rate * r)) <= 1


@pytest.mark.parametrize(("severity", "gamma"), [("low", 0.75), ("medium", 1.5), ("high", 2.15)])
def test_depth_attenuation_follows_its_formula(video, severity, gamma):
    found = Perturbation("depth_attenuation", severity).pixels(video, "a")
    for y in range(HEIGHT):
        assert apart(found[:, y], video[:, y] * (1 - (y / HEIGHT) ** gamma)) <= 1


def test_a_shadow_has_one_place_at_all_severities(video):
    values = ((0.4, 0.15), (0.6, 0.2), (0.8, 0.25))
    for severity, (s, sigma) in zip(SEVERITIES, values, strict=True):
        share_x, share_y = generator(42, "shadow", "a").uniform(0.2, 0.8, 2)
        mx, my = int(share_x * WIDTH), int(share_y * HEIGHT)
        found = Perturbation("shadow", severity).pixels(video, "a")
        for y in range(HEIGHT):
            for x in range(WIDTH):
                far = (x - mx) ** 2 / (2 * (sigma * WIDTH) ** 2)
                far += (y - my) ** 2 / (2 * (sigma * HEIGHT) ** 2)
                assert apart(found[:, y, x], video[:, y, x] * (1 - s * np.exp(-far))) <= 1


def test_smoothing_is_a_bilateral_filter(video):
    found = Perturbation("speckle_smoothing", "medium").pixels(video, "a")
    image = video / 255
    for y, x in ((5, 5), (10, 20)):
        around = image[0, y - 2 : y + 3, x - 2 : x + 3]
        rows, columns = np.mgrid[-2:3, -2:3]
        weights = np.exp(-(rows**2 + columns**2) / (2 * 1.2**2))
        weights *= np.exp(-((around - image[0, y, x]) ** 2).mean(-1) / (2 * 0.3**2))
        expected = (weights[..., None] * around).sum((0, 1)) / weights.sum()
        assert apart(found[0, y, x], expected * 255) <= 1


@pytest.mark.parametrize("kind", NAMES)
def test_a_grey_video_is_the_same_with_one_channel_and_with_three(video, kind):
    grey = video[..., :1]
    one = Perturbation(kind, "high").pixels(grey, "a")
    three = Perturbation(kind, "high").pixels(np.repeat(grey, 3, axis=-1), "a")
    assert one.shape == grey.shape
    np.testing.assert_array_equal(three, np.repeat(one, 3, axis=-1))


def test_gain_and_dynamic_range(video):
    video[:, 0, 0] = 0
    gain = Perturbation("gain", "low").pixels(video, "a")
    assert apart(gain, np.where(video > 0, video + 255 * 4 / 60, 0)) <= 1
    shown = Perturbation("dynamic_range", "high").pixels(video, "a")
    assert apart(shown, (video - 127.5) / 0.5) <= 1


def test_haze_is_a_ring_of_noise_that_stands_still():
    black = np.zeros((2, 64, 64, 1), np.uint8)
    low, high = (Perturbation("haze", s).pixels(black, "a") for s in ("low", "high"))
    assert (low[0] == low[1]).all()
    np.testing.assert_allclose(low, high / 4, atol=1)
    assert 100 < high.max() <= 127


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_function_of_the_name_and_gets_worse(video, kind):
    first = [Perturbation(kind, severity).pixels(video, "a") for severity in SEVERITIES]
    again = [Perturbation(kind, severity).pixels(video[1:], "a") for severity in SEVERITIES[::-1]]
    for one, other in zip(first, again[::-1], strict=True):
        assert one.dtype == np.uint8
        assert one.shape == video.shape
        assert (one[1:] == other).all()
    other = Perturbation(kind, "high").pixels(video, "b")
    assert (other != first[2]).any() == (kind in ("shadow", "haze"))
    change = [np.abs(one.astype(int) - video).mean() for one in first]
    # With the appendix's formula a higher gamma attenuates less.
    assert change == sorted(change, reverse=kind == "depth_attenuation")
    assert min(change) > 0


def test_dropped_frames_show_the_last_one_that_was_kept():
    ids = np.arange(200)
    shown = [Perturbation("dropped_frames", s).frames(ids, 200, "a") for s in SEVERITIES]
    lost = [set(ids[one != ids]) for one in shown]
    assert lost[0] < lost[1] < lost[2]
    for one, missing, share in zip(shown, lost, (0.1, 0.25, 0.5), strict=True):
        assert abs(len(missing) / 200 - share) < 0.1
        assert (one <= ids).all()
        assert all(one[k] == (one[k - 1] if k in missing else k) for k in range(1, 200))
        # The same frames, asked for in another order and in part.
        some = ids[::-7]
        severity = SEVERITIES[lost.index(missing)]
        again = Perturbation("dropped_frames", severity).frames(some, 200, "a")
        assert (again == one[some]).all()
    assert set(NAMES) - set(KINDS) == {"dropped_frames", RECODED}


DIGESTS = {
    "radial_attenuation": "9c1f638ae8b8422c",
    "depth_attenuation": "38052bcb77a17d9d",
    "shadow": "fc0280f9fde6d8e2",
    "haze": "23f09458a69347b6",
    "speckle_smoothing": "e191c14e29b9880e",
    "gain": "111806480741af0c",
    "dynamic_range": "cb61793ae40f3d55",
}
"""Of `digests`. If one has to change, raise `perturbations.VERSION`."""


def digests() -> dict[str, str]:
    """SHA-256 of a colour video and of a grey one at all severities, for each kind; 16 digits."""
    video = (np.arange(2 * 112 * 112 * 3) ** 2 // 7 % 256).astype(np.uint8).reshape(2, 112, 112, 3)
    videos = video, video[..., :1]
    found = {}
    for kind in KINDS:
        sha = hashlib.sha256()
        for severity in SEVERITIES:
            for one in videos:
                sha.update(Perturbation(kind, severity).pixels(one, "a").tobytes())
        found[kind] = sha.hexdigest()[:16]
    return found


def test_degraded_videos_are_the_same_on_every_machine():
    assert digests() == DIGESTS


def test_degraded_videos_do_not_depend_on_the_instructions_of_a_processor():
    """Numpy computes exponentials by other instructions on other processors."""
    from numpy._core._multiarray_umath import __cpu_dispatch__

    here = "from tests.data.clips.test_perturbations import *; print(json.dumps(digests()))"
    without = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__)}
    run = subprocess.run(
        [sys.executable, "-c", here], env=without, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == DIGESTS
