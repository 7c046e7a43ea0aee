"""Videos as phones, probes and editors write them: turned, with several tracks, cut, or damaged."""

import itertools
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo
from echojepa_jax.data.formats.video_info import (
    CUT_BETWEEN_KEYS,
    INTERLACED,
    NON_SQUARE,
    ODD_ANGLE,
    SEVERAL_TRACKS,
    each_note,
)
from tests.makers.recordings import FOLDER
from tests.makers.videos import HEIGHT, WIDTH, all_frames, picture, write_video

pytestmark = pytest.mark.slow

QUARTER = 0x10000


def by_opencv(path: str) -> np.ndarray:
    """All frames as OpenCV shows them: uint8 [T, H, W, 3]."""
    capture = cv2.VideoCapture(path)
    frames = [frame[..., ::-1] for _, frame in iter(capture.read, (False, None))]
    return np.stack(frames)


def differ(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference in grey levels; two libraries convert colours a little differently."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).mean())


# --- how a video wants to be shown ----------------------------------------------------------------


def test_a_video_that_lies_on_its_side_is_turned():
    path = str(FOLDER / "rotated_90_display_matrix.mp4")
    info = decode.probe(path)
    assert (info.frames, info.height, info.width) == (24, 128, 96)
    assert differ(all_frames(path), by_opencv(path)) < 2


def turned(path: str, *matrix: int) -> str:
    """The same MP4 with another display matrix (a, b, c, d)."""
    a, b, c, d = matrix
    data = bytearray(Path(path).read_bytes())
    place = data.index(b"tkhd") + 44
    struct.pack_into(">9i", data, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    Path(path).write_bytes(data)
    return path


@pytest.mark.parametrize("sideways", [False, True])
@pytest.mark.parametrize(("right", "down"), list(itertools.product((1, -1), repeat=2)))
def test_quarter_turns_and_mirrors(numbered, right, down, sideways):
    path = numbered.write("a.mp4", "libx264", 3, crf="1")
    stored = all_frames(path)
    a, b, c, d = (0, down, right, 0) if sideways else (right, 0, 0, down)
    # Map every pixel as the format specifies: (x, y) to (a x + c y, b x + d y).
    y, x = np.mgrid[: stored.shape[1], : stored.shape[2]]
    to_x, to_y = a * x + c * y, b * x + d * y
    shape = (3, np.ptp(to_y) + 1, np.ptp(to_x) + 1, 3)
    expected = np.empty(shape, np.uint8)
    expected[:, to_y - to_y.min(), to_x - to_x.min()] = stored
    turned(path, a * QUARTER, b * QUARTER, c * QUARTER, d * QUARTER)
    info = decode.probe(path)
    assert (info.height, info.width, info.note) == (*expected.shape[1:3], "")
    np.testing.assert_array_equal(all_frames(path), expected)
    if a * d > 0 or b * c < 0:  # OpenCV turns, but does not mirror
        assert differ(expected, by_opencv(path)) < 2


def test_other_angles_are_noted(numbered):
    path = numbered.write("a.mp4", "libx264", 3)
    stored = all_frames(path)
    turned(path, QUARTER, QUARTER // 2, -QUARTER // 2, QUARTER)
    assert decode.probe(path).note == ODD_ANGLE
    np.testing.assert_array_equal(all_frames(path), stored)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_pixels_that_are_not_square_are_noted(numbered, name):
    path = numbered.write(name, "libx264", 3, aspect=(4, 3))
    assert each_note(decode.probe(path).note) == [NON_SQUARE]
    assert decode.probe(numbered.write(name, "libx264", 3, aspect=(1, 1))).note == ""


def test_interlaced_frames_are_noted(numbered):
    path = numbered.write("a.mkv", "libx264", 3, **{"x264-params": "tff=1"})
    assert decode.probe(path).note == INTERLACED


# --- which track it is ----------------------------------------------------------------------------


def test_a_preview_picture_as_first_track():
    path = str(FOLDER / "preview_picture_as_first_track.mp4")
    info = decode.probe(path)
    assert (info.frames, info.height, info.width, info.note) == (24, 96, 128, SEVERAL_TRACKS)
    with av.open(path) as container:
        second = [f.to_ndarray(format="rgb24") for f in container.decode(container.streams[1])]
    np.testing.assert_array_equal(all_frames(path), np.stack(second))


def tracks(path: Path, lengths: list[int], sound: bool) -> str:
    """A video with a track of each length; the pictures of track n begin with number 10 n."""
    with av.open(str(path), "w") as container:
        audio: Any = container.add_stream("aac", rate=8000) if sound else None
        streams: list[Any] = [container.add_stream("mpeg4", rate=25) for _ in lengths]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, (stream, length) in enumerate(zip(streams, lengths, strict=True)):
            for k in range(length):
                frame = av.VideoFrame.from_ndarray(picture(10 * number + k), format="rgb24")
                frame.pts, frame.time_base = k, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if sound:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            samples.sample_rate, samples.pts = 8000, 0
            container.mux([*audio.encode(samples), *audio.encode(None)])
    return str(path)


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi"])
def test_the_longest_track_counts(tmp_path, numbered, name, sound):
    for lengths, first in (([3, 9, 1], 10), ([9, 3], 0), ([1, 2, 9], 20)):
        path = tracks(tmp_path / name, lengths, sound)
        assert decode.probe(path).frames == 9
        assert numbered.read(all_frames(path)) == list(range(first, first + 9))


def test_a_cover_picture_is_not_a_video(tmp_path, numbered):
    """Music players put a picture of the sleeve into a file as a video stream of its own."""
    cover = cv2.imencode(".jpg", picture(255))[1].tobytes()
    paths = {}
    for name, with_video in (("sound.mp4", False), ("both.mp4", True)):
        paths[name] = tracks(tmp_path / name, [5] if with_video else [], sound=True)
        covered(paths[name], cover)
    assert numbered.read(all_frames(paths["both.mp4"])) == list(range(5))
    with pytest.raises(UnreadableVideo, match=r"^no frames: .* only a cover picture$"):
        decode.probe(paths["sound.mp4"])


def covered(path: str, cover: bytes) -> None:
    """Adds a cover to an MP4 whose index comes last: moov/udta/meta/ilst/covr/data."""

    def atom(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + kind + content

    data = Path(path).read_bytes()
    start = data.rindex(b"moov") - 4
    image = atom(b"data", struct.pack(">II", 13, 0) + cover)
    handler = atom(b"hdlr", bytes(8) + b"mdirappl" + bytes(10))
    items = atom(b"ilst", atom(b"covr", image))
    added = atom(b"udta", atom(b"meta", bytes(4) + handler + items))
    size = struct.pack(">I", len(data) - start + len(added))
    Path(path).write_bytes(data[:start] + size + data[start + 4 :] + added)


# --- cut and damaged ------------------------------------------------------------------------------

CUTS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"codec": "libx264", "g": "12", "bf": "3"},
    "h264.avi": {"codec": "libx264", "g": "12"},
    "open.mkv": {"codec": "libx264", "g": "12", "x264-params": "open-gop=1:bframes=3"},
    "refresh.mkv": {"codec": "libx264", "x264-params": "intra-refresh=1:keyint=12:bframes=0"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "keyint=12:log-level=none:open-gop=1"},
    "hevc.mkv": {"codec": "libx265", "x265-params": "keyint=12:log-level=none:open-gop=1"},
    "mpeg4.avi": {"codec": "mpeg4", "g": "12", "bf": "2"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "12"},
    "vp8.webm": {"codec": "libvpx", "g": "12"},
}


def copied(path: str, change: Callable[[int, av.Packet], bytes | None]) -> str:
    """Copies a video with other data in its packets, or without those whose data are None."""
    changed = path.replace(".", "-changed.")
    with av.open(path) as source, av.open(changed, "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for k, packet in enumerate(p for p in source.demux(stream) if p.size):
            if (data := change(k, packet)) is not None:
                other = av.Packet(data)
                other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
                other.duration, other.is_keyframe = packet.duration, packet.is_keyframe
                other.stream = copy
                target.mux(other)
    return changed


def cut_out(path: str, numbers: range) -> str:
    """Leaves out packets as an editor does that copies and does not code again."""

    def change(k: int, packet: av.Packet) -> bytes | None:
        return None if packet.dts is None or k in numbers else bytes(packet)

    return copied(path, change)


@pytest.mark.parametrize("name", CUTS)
def test_a_video_cut_between_key_pictures_holds_what_decodes(name, numbered):
    path = numbered.write(name, **CUTS[name])
    with av.open(path) as container:
        keys = [k for k, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    for number in (3, keys[1]):
        info = decode.probe(cut := cut_out(path, range(number)))
        shown = numbered.read(all_frames(cut))
        # Whole pictures alone, up to the last one, and as many as were counted.
        assert shown == list(range(40 - info.frames, 40))
        assert 0 < info.frames <= 40 - number
        if not name.endswith(".avi"):  # whose copy shows its first picture until the next
            assert info.fps == pytest.approx(25, rel=1e-3)
        assert each_note(info.note) == [CUT_BETWEEN_KEYS] * (info.frames < 40 - number)
        with pytest.raises(UnreadableVideo, match=f"file holds {info.frames} frames$"):
            decode.decode(cut, np.array([info.frames]))


@pytest.mark.parametrize("name", ["h264.mp4", "open.mkv", "hevc.mp4", "hevc.mkv"])
def test_joined_pieces_hold_what_decodes(name, numbered):
    """Of two pieces of a video, the second one begins with pictures that need what was cut out."""
    path = numbered.write(name, **CUTS[name])
    fewer = 0
    for numbers in (range(4, 14), range(10, 16), range(5, 9)):
        info = decode.probe(cut := cut_out(path, numbers))
        assert len(all_frames(cut)) == info.frames <= 40 - len(numbers)
        with pytest.raises(UnreadableVideo, match=f"file holds {info.frames} frames$"):
            decode.decode(cut, np.array([info.frames]))
        assert (CUT_BETWEEN_KEYS in each_note(info.note)) == (info.frames < 40 - len(numbers))
        fewer += info.frames < 40 - len(numbers)
    assert fewer


def test_a_video_without_a_key_picture(numbered):
    cut = cut_out(numbered.write("a.mkv", "libx264", 20, g="40", sc_threshold="0"), range(3))
    with pytest.raises(UnreadableVideo, match=r"^no frames: no picture decodes"):
        decode.probe(cut)


def test_a_motion_jpeg_picture_that_ends_too_soon():
    """Frame 7 ends after half of its data: decoders fill the rest with grey without an error."""
    path = str(FOLDER / "mjpeg_frame_half.avi")
    assert decode.probe(path).frames == 24
    with pytest.raises(UnreadableVideo, match=r"^damaged: frame 7 does not decode$"):
        decode.decode(path, np.arange(24))
    others = np.delete(np.arange(24), 7)
    assert differ(decode.decode(path, others), by_opencv(path)[others]) < 2


HALVES: dict[str, dict[str, Any]] = {
    "h264.avi": {"codec": "libx264", "x264-params": "cabac=0:bframes=0:keyint=4"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "keyint=4:bframes=0:log-level=none"},
    "hevc.mkv": {"codec": "libx265", "x265-params": "keyint=4:bframes=0:log-level=none"},
    "vp8.webm": {"codec": "libvpx", "g": "4", "lag-in-frames": "0"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "4", "lag-in-frames": "0"},
    "hidden.webm": {"codec": "libvpx-vp9", "auto-alt-ref": "1", "lag-in-frames": "8"},
    "vp9.mp4": {"codec": "libvpx-vp9", "g": "4"},
    "mpeg2.mkv": {"codec": "mpeg2video", "g": "4"},
    "mpeg4.avi": {"codec": "mpeg4", "g": "4"},
    "wmv2.avi": {"codec": "wmv2"},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "jpegls.avi": {"codec": "jpegls", "pixels": "rgb24"},
    "jpeg2000.mov": {"codec": "jpeg2000", "pixels": "rgb24"},
    "huffyuv.avi": {"codec": "huffyuv", "pixels": "yuv422p"},
    "huffyuv_rgb.avi": {"codec": "huffyuv", "pixels": "rgb24"},
    "ffvhuff.avi": {"codec": "ffvhuff"},
    "ffv1.mkv": {"codec": "ffv1"},
    "ffv1_1.avi": {"codec": "ffv1", "level": "1"},
    "ffv1_1_rgb.avi": {"codec": "ffv1", "level": "1", "pixels": "bgr0"},
    "rle.mov": {"codec": "qtrle", "pixels": "rgb24"},
    "video_1.avi": {"codec": "msvideo1", "pixels": "rgb555le"},
    "cinepak.avi": {"codec": "cinepak", "pixels": "rgb24"},
    "gif.gif": {"codec": "gif", "pixels": "rgb8"},
}


@pytest.mark.parametrize("name", HALVES)
def test_a_picture_that_ends_too_soon_in_every_codec(name, tmp_path):
    """Most decoders of FFmpeg fill the rest with grey or an earlier picture, and say nothing."""
    whole = speckled(str(tmp_path / name), **HALVES[name])
    info = decode.probe(whole)
    assert (info.frames, info.note) == (9, "")
    for number, share in ((0, 0.5), (6, 0.5), (6, 0.9), (8, 0.5)):
        path = shortened(whole, number, share)
        with pytest.raises(UnreadableVideo, match=rf"^damaged: frame {number} does not decode$"):
            all_frames(path)


def test_an_incomplete_picture_in_h264(tmp_path):
    """FFmpeg does not take the first one for a key picture: all up to the next one is left out."""
    whole = speckled(str(tmp_path / "a.mp4"), "libx264", g="4", bf="0")
    for number in (6, 8):
        with pytest.raises(UnreadableVideo, match=rf"^damaged: frame {number} does not decode$"):
            decode.probe(shortened(whole, number, 0.5))
    path = shortened(whole, 0, 0.5)
    assert each_note(decode.probe(path).note) == [CUT_BETWEEN_KEYS]
    np.testing.assert_array_equal(all_frames(path), all_frames(whole)[4:])


def test_half_of_an_uncompressed_picture(tmp_path):
    """FFmpeg takes it for a picture with fewer bits a pixel."""
    path = speckled(str(tmp_path / "raw.avi"), "rawvideo", "bgr24")
    data, size = bytearray(Path(path).read_bytes()), HEIGHT * WIDTH * 3
    places = [k for k in range(len(data)) if data.startswith(b"00dc" + struct.pack("<I", size), k)]
    assert len(places) == 9
    struct.pack_into("<I", data, places[6] + 4, size // 2)
    struct.pack_into("<4sI", data, places[6] + 8 + size // 2, b"JUNK", size // 2 - 8)
    Path(path).write_bytes(data)
    with pytest.raises(UnreadableVideo, match=r"^damaged: frame 6 does not decode$"):
        decode.probe(path)


def speckled(path: str, codec: str, pixels: str = "yuv420p", **options: str) -> str:
    """Nine frames of noise that moves: in them, every byte of a packet counts."""
    noise = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (64, 120, 3), np.uint8), (0, 0), 1
    )
    write_video(path, [noise[:, k : k + WIDTH] for k in range(9)], codec, pixels, **options)
    return path


def shortened(path: str, number: int, share: float) -> str:
    """The same video, in which packet `number` ends too soon, as if it had been closed there."""

    def change(k: int, packet: av.Packet) -> bytes:
        data = bytes(packet)
        if k != number:
            return data
        short = data[: int(len(data) * share)]
        return closed_gif(short) if path.endswith(".gif") else short

    return copied(path, change)


def closed_gif(data: bytes) -> bytes:
    """A picture of a GIF up to its last whole block of 255 bytes, with an end mark."""
    start = data.index(b"\x08\xff") + 1  # after the size of a code
    return data[: start + (len(data) - start) // 256 * 256] + b"\0"


def test_motion_jpeg_with_harmless_oddities_is_read(numbered):
    """Pictures without an end mark, with padding, and without the tables that AVI implies."""
    odd = (lambda data: data[:-2], lambda data: data + bytes(9), without_tables, bytes)
    changed = copied(numbered.mjpeg(frames=4), lambda k, packet: odd[k](bytes(packet)))
    assert numbered.read(all_frames(changed)) == list(range(4))


def without_tables(jpeg: bytes) -> bytes:
    while (start := jpeg.find(b"\xff\xc4")) >= 0:
        jpeg = jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4]) :]
    return jpeg


def test_unsupported_pictures_are_not_called_damaged(numbered):
    """Colours in an odd proportion, and a code that belongs to no codec."""
    path = numbered.mjpeg(frames=4)
    data = Path(path).read_bytes()
    for change in ((b"\1\x22\0", b"\1\x44\0"), (b"MJPG", b"XQ7Z")):
        assert change[0] in data
        Path(path).write_bytes(data.replace(*change))
        with pytest.raises(UnreadableVideo, match=r"^unsupported: "):
            decode.probe(path)


def test_a_complete_file_with_fewer_frames_than_its_header_states(numbered):
    path = numbered.mjpeg()
    data = bytearray(Path(path).read_bytes())
    for place in (data.index(b"avih") + 24, data.index(b"strh") + 40):
        assert struct.unpack_from("<I", data, place) == (40,)
        struct.pack_into("<I", data, place, 41)
    Path(path).write_bytes(data)
    with pytest.raises(UnreadableVideo, match=r"^wrong frame count: .* 41 frames, file holds 40$"):
        decode.probe(path)
