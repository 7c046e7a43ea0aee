"""Single pictures: whole ones are read, depth included, and others are refused."""

import cv2
import numpy as np
import pytest

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo
from echojepa_jax.data.formats.video_info import DEPTH_UNKNOWN

GREY = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
GREY[0, 0] = 255


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_half_of_a_jpeg_is_damaged(tmp_path, progressive, end):
    path = tmp_path / "a.jpg"
    options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    whole = cv2.imencode(".jpg", GREY, options)[1].tobytes()
    path.write_bytes(whole)
    shown = decode.decode(str(path), np.array([0]))[0]
    assert np.abs(shown[..., 0].astype(int) - GREY).mean() < 4
    last_scan = whole.rindex(b"\xff\xda")
    for size in (len(whole) // 2, *[last_scan] * progressive):
        path.write_bytes(whole[:size] + end)
        with pytest.raises(UnreadableVideo, match=r"^damaged: the picture ends too soon$"):
            decode.probe(str(path))


@pytest.mark.parametrize(
    ("bits", "note"), [(8, DEPTH_UNKNOWN), (10, DEPTH_UNKNOWN), (12, DEPTH_UNKNOWN), (16, "")]
)
def test_png_of_16_bits_uses_those_that_occur(tmp_path, bits, note):
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.rint(GREY * ((2**bits - 1) / 255)).astype(np.uint16))
    assert decode.probe(path).note == note
    for size in (12, 24, 25):
        (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:size])
        with pytest.raises(UnreadableVideo, match=r"^damaged: the picture does not decode$"):
            decode.probe(str(tmp_path / "b.png"))
    shown = decode.decode(path, np.array([0]))[0]
    np.testing.assert_array_equal(shown, np.repeat(GREY[..., None], 3, axis=-1))
