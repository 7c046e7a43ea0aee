"""Coding as H.264 and decoding gives the same pixels always, which are nearly those of the file."""

import subprocess
import sys

import numpy as np
import pytest

from echojepa_jax.data.clips import recoded
from echojepa_jax.data.formats import decode

COUNT = 12


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Coloured, moving and smooth, of an odd size."""
    t, y, x = np.mgrid[:COUNT, :75, :91]
    waves = [np.sin((x + 2 * t) / 7) * np.cos((y - t) / (5 + k)) for k in range(3)]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def test_every_frame_comes_back_in_its_place_and_nearly_as_it_was(images):
    found = np.stack(list(recoded.through_h264(images, 50.0)))
    assert found.shape == images.shape
    # Of colours, H.264 keeps half the resolution, so brightness is compared.
    away = np.abs(found.mean(axis=-1)[:, None] - images.mean(axis=-1)[None]).mean(axis=(2, 3))
    assert (away.argmin(axis=1) == np.arange(COUNT)).all()
    assert 0 < np.diag(away).max() < 3


def test_a_grey_video_stays_grey(images):
    grey = images[..., :1]
    found = np.stack(list(recoded.through_h264(grey, 50.0)))
    np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, axis=-1))
    assert 0 < np.abs(found[..., :1].astype(int) - grey).max() < 20


def test_it_does_not_depend_on_what_memory_held_before(images, tmp_path):
    """x264 read memory that nobody had written, so that the same video came back in two ways."""
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, hashlib, numpy as np\n"
        "from echojepa_jax.data.clips.recoded import through_h264\n"
        "found = np.stack(list(through_h264(np.load(sys.argv[1]), 50.0)))\n"
        "print(hashlib.sha256(found.tobytes()).hexdigest())\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "images.npy")]
    # glibc fills new memory with this byte.
    runs = [
        subprocess.Popen(words, env={"MALLOC_PERTURB_": fill}, stdout=subprocess.PIPE, text=True)
        for fill in ("85", "170")
    ]
    one, two = (run.communicate(timeout=60)[0] for run in runs)
    assert one == two != ""


def test_a_clip_is_a_part_of_the_whole_video(numbered):
    path = numbered.mjpeg(frames=20)
    whole = recoded.clip(path, np.arange(20), 20, 25.0, grey=False)
    some = recoded.clip(path, np.array([3, 3, 11]), 20, 25.0, grey=True)
    np.testing.assert_array_equal(some, whole[[3, 3, 11]][..., :1])
    assert numbered.read(whole) == list(range(20))
    with pytest.raises(decode.UnreadableVideo, match="frame 24 was requested, file holds 20"):
        recoded.clip(path, np.array([3]), 25, 25.0, grey=False)
