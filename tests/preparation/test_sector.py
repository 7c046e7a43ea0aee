"""The sector is found beside text and scales, and recordings without a sector are detected."""

import cv2
import numpy as np
import pytest

from echojepa_jax.data.formats import decode
from echojepa_jax.preparation import burned_text, sector
from echojepa_jax.preparation.sector import Motion, NoSector, Screens
from tests.makers.screen import patient_page, screen


@pytest.fixture(scope="module")
def heart(hearts) -> np.ndarray:
    """Grey frames [60, 64, 64] of a phantom."""
    path = sorted((hearts / "Videos").glob("*.avi"))[0]
    return decode.decode(str(path), np.arange(60))[..., 0]


def extremes(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return frames.min(axis=0), frames.max(axis=0)


def test_the_sector_alone_is_kept(heart):
    frames = screen(heart)
    found = sector.find(Motion(frames))
    top, left, height, width = found.box
    assert (top, left) == (pytest.approx(62, abs=14), pytest.approx(115, abs=14))
    assert (height, width) == (pytest.approx(268, abs=22), pytest.approx(270, abs=22))
    kept = frames[:, found.mask() > 0]
    shown = (frames[:, 60:330, 115:385] > 16).sum()
    assert (kept > 16).sum() > 0.99 * shown, "hardly any of the heart is lost"
    lost = frames * (1 - found.mask())
    assert (lost[:, :40] > 100).any(), "the banner is outside"
    assert not found.mask()[:40].any()
    assert not found.mask()[345:].any(), "so is the ECG"


def test_still_pictures_and_rectangles_are_not_sectors(heart):
    still = np.repeat(screen(heart)[:1], 20, axis=0)
    with pytest.raises(NoSector, match="nothing moves"):
        sector.find(Motion(still))
    rng = np.random.default_rng(0)
    mode = np.zeros((20, 300, 400), np.uint8)
    mode[:, 20:280, 10:390] = rng.integers(0, 200, (20, 260, 380))  # an M-mode scrolls everywhere
    with pytest.raises(NoSector, match="rectangle"):
        sector.find(Motion(mode))
    assert sector.find(Motion(mode), any_shape=True).box[2] > 250, "if the header states so"
    patch = mode[:, 30:150, 30:190].copy()
    patch[:, :, 24:] = 0
    patch[:, 24:] = 0
    with pytest.raises(NoSector, match="hardly anything"):
        sector.find(Motion(patch))


@pytest.mark.parametrize("times", [[(20, 40)], [(10, 20), (30, 40)], [(10, 20), (40, 60)]])
def test_overlays_that_come_and_go_are_not_motion(heart, times):
    frames = screen(heart)
    without = sector.find(Motion(frames))
    for start, end in times:
        frames[start:end, 5:50, 100:480] = 200  # a message, dense and beside the sector
    np.testing.assert_array_equal(sector.find(Motion(frames)).corners, without.corners)


@pytest.mark.parametrize("invert", [False, True])
def test_another_screen_is_noticed(heart, invert):
    frames = screen(heart)
    frames[30:33] = 255 - patient_page() if invert else patient_page()
    screens = Screens(sector.find(Motion(frames)).corners, frames.shape[1:])
    assert [k for k, frame in enumerate(frames) if screens.changes(frame)] == [30, 33]


def test_a_page_behind_a_blank_frame_is_noticed(heart):
    frames = screen(heart)
    screens = Screens(sector.find(Motion(frames)).corners, frames.shape[1:])
    page = patient_page()
    frames[29:34] = (0 * page, page, page, page, 0 * page + 255)
    assert [k for k, frame in enumerate(frames) if screens.changes(frame)] == [30, 34]


def test_a_colour_jet_is_not_another_screen(heart):
    frames = np.repeat(screen(heart)[..., None], 3, axis=3)
    screens = Screens(sector.find(Motion(frames[..., 0])).corners, frames.shape[1:3])
    for frame in frames[20:40]:
        cv2.circle(frame, (250, 230), 55, (255, 40, 0), -1)
    assert not any(screens.changes(frame) for frame in frames)


def test_hearts_and_gaps_are_one_screen(heart):
    frames = screen(heart)
    screens = Screens(sector.find(Motion(frames)).corners, frames.shape[1:])
    frames[10:12] = 0
    assert not any(screens.changes(frame) for frame in frames[::3])


def test_corners_follow_a_crop():
    corners = np.array([[10, 20], [50, 20], [50, 100]], np.int32)
    moved = sector.scaled(corners, (20, 10, 80, 40), (40, 20))
    np.testing.assert_array_equal(moved, [[0, 0], [20, 0], [20, 40]])


@pytest.mark.parametrize("scale", [0.4, 0.6, 1.0])
def test_text_is_found(heart, scale):
    frames = screen(heart, "")
    for frame in frames:
        cv2.putText(frame, "DOE", (30, 50), cv2.FONT_HERSHEY_SIMPLEX, scale, 220, 1, cv2.LINE_AA)
    everywhere = np.ones(frames.shape[1:], np.uint8)
    found = burned_text.find(*extremes(frames), everywhere)
    assert any(20 < top < 55 and 25 < left < 50 for top, left, _, _ in found)


def test_no_text_is_found_in_hearts(heart):
    assert burned_text.find(*extremes(heart), np.ones(heart.shape[1:], np.uint8)) == []
