"""Frame k is frame k in every container, and every kind of bad file gives its reason."""

import os
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo
from tests.programs import run_code

VARIABLE = np.cumsum(np.random.default_rng(0).integers(10, 90, 40)).tolist()
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
VIDEOS: dict[str, dict[str, Any]] = {
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "grey.avi": {"codec": "ffv1", "pixels": "gray"},
    "bframes.mp4": {"codec": "libx264", "bf": "3"},
    "gops.mp4": {"codec": "libx264", "bf": "3", "g": "6", "muxer": {"movflags": "faststart"}},
    "fragments.mp4": {"codec": "libx264", "g": "8", "muxer": FRAGMENTED},
    "opengop.mkv": {"codec": "libx264", "bf": "3", "g": "6", "x264-params": "open-gop=1"},
    "h264.avi": {"codec": "libx264", "bf": "2"},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "2"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"},
    "anim.gif": {"codec": "gif", "pixels": "rgb8"},
    "variable.mp4": {"codec": "libx264", "bf": "3", "times": VARIABLE, "clock": 1000},
    "variable.mkv": {"codec": "libx264", "bf": "3", "times": VARIABLE, "clock": 1000},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_frame_k_is_frame_k(name, numbered):
    path = numbered.write(name, **VIDEOS[name])
    info = decode.probe(path)
    assert (info.frames, info.height, info.width) == (40, 64, 96)
    assert numbered.read(decode.decode(path, np.arange(40))) == list(range(40))
    for ids in ([0], [39], [7], [3, 11, 12, 38], [5, 5, 9, 39, 39]):
        assert numbered.read(decode.decode(path, np.array(ids))) == ids


@pytest.mark.parametrize(
    "name", ["mjpeg.avi", "bframes.mp4", "opengop.mkv", "vp9.webm", "anim.gif"]
)
def test_frame_rate(name, numbered):
    assert decode.probe(numbered.write(name, **VIDEOS[name])).fps == pytest.approx(25, rel=1e-3)


def test_variable_frame_rate_is_the_mean(numbered):
    path = numbered.write("variable.mp4", **VIDEOS["variable.mp4"])
    mean = 1000 / np.diff(VARIABLE).mean()
    assert decode.probe(path).fps == pytest.approx(mean, rel=0.05)


def test_only_the_wanted_packets_of_motion_jpeg_are_decoded(numbered):
    """A damaged frame that is not requested does no harm, if the decoder can skip it."""
    path = numbered.mjpeg()
    data = bytearray(Path(path).read_bytes())
    with av.open(path) as container:
        frame = [bytes(packet) for packet in container.demux(video=0)][20]
    start = data.index(frame)
    data[start : start + len(frame)] = bytes(len(frame))
    Path(path).write_bytes(data)
    assert numbered.read(decode.decode(path, np.array([19, 21, 39]))) == [19, 21, 39]
    with pytest.raises(UnreadableVideo, match=r"^damaged: "):
        decode.decode(path, np.array([19, 20, 21]))


def test_edit_list_is_honoured(numbered):
    """An MP4 whose edit list shows frames 10 to 29 of 40 has 20 frames and is not truncated."""
    path = numbered.write("edit.mp4", **VIDEOS["gops.mp4"])
    data = bytearray(Path(path).read_bytes())
    entry = data.index(b"elst") + 12
    duration, first = struct.unpack_from(">Ii", data, entry)
    per_frame = 12800 // 25  # the muxer's clock for 25 frames a second
    struct.pack_into(">Ii", data, entry, duration // 2, first + 10 * per_frame)
    Path(path).write_bytes(data)
    assert decode.probe(path).frames == 20
    assert numbered.read(decode.decode(path, np.arange(20))) == list(range(10, 30))
    with pytest.raises(UnreadableVideo, match="frame 20 was requested, file holds 20"):
        decode.decode(path, np.array([0, 20]))


def test_an_edit_list_that_hides_everything_is_the_reason(numbered):
    path = numbered.write("edit.mp4", **VIDEOS["gops.mp4"])
    data = bytearray(Path(path).read_bytes())
    struct.pack_into(">I", data, data.index(b"elst") + 12, 0)  # its duration
    Path(path).write_bytes(data)
    with pytest.raises(UnreadableVideo, match=r"^no frames: the edit list hides all of them$"):
        decode.probe(path)


def test_what_follows_a_gif_does_no_harm(numbered):
    path = Path(numbered.write("anim.gif", **VIDEOS["anim.gif"]))
    whole = path.read_bytes()
    path.write_bytes(whole + b"anything")
    assert decode.probe(str(path)).frames == 40
    path.write_bytes(whole[:-1])
    with pytest.raises(UnreadableVideo, match=r"^truncated: "):
        decode.probe(str(path))


def test_repeated_frames_of_an_avi_are_not_truncation(numbered):
    """An AVI marks a frame that lasts longer by empty slots, which its header counts."""
    path = numbered.write("slots.avi", "mjpeg", 10, "yuvj420p", times=[3 * k for k in range(10)])
    with av.open(path) as container:
        assert container.streams.video[0].frames > 10
    info = decode.probe(path)
    assert info.frames == 10
    assert info.fps == pytest.approx(25 * 10 / 28)


def test_grey_video_becomes_three_equal_channels(numbered):
    video = decode.decode(numbered.write("g.avi", "ffv1", 3, "gray"), np.array([1]))
    assert np.ptp(video, axis=-1).max() == 0
    assert (video.min(), video.max()) == (30, 220)


def test_requests_for_missing_frames_are_errors(numbered):
    for path in (numbered.mjpeg(frames=12), numbered.write("a.mp4", "libx264", 12)):
        with pytest.raises(UnreadableVideo, match="frame 12 was requested, file holds 12"):
            decode.decode(path, np.array([3, 12]))


@pytest.mark.parametrize("ids", [[], [3, 2], [-1, 0], [[0, 1]]])
def test_frame_ids_must_ascend(ids, numbered):
    with pytest.raises(ValueError, match="ascending"):
        decode.decode(numbered.mjpeg(frames=4), np.array(ids, np.int64))


def test_truncated_motion_jpeg_avi_is_counted(numbered, cut):
    path = cut(numbered.mjpeg(), 0.6)
    with av.open(path) as container:
        promised = container.streams.video[0].frames
        whole = sum(p.size > 0 and not p.is_corrupt for p in container.demux(video=0))
    assert promised == 40, "the header promises what the file does not hold"
    with pytest.raises(UnreadableVideo) as error:
        decode.probe(path)
    assert str(error.value) == f"truncated: header states 40 frames, file holds {whole}"
    assert numbered.read(decode.decode(path, np.array([0, whole - 1]))) == [0, whole - 1]
    with pytest.raises(UnreadableVideo, match=f"file holds {whole} frames$"):
        decode.decode(path, np.array([whole]))


@pytest.mark.parametrize("name", sorted(set(VIDEOS) - {"mjpeg.avi"}))
def test_truncated_file(name, numbered, cut):
    path = cut(numbered.write(name, **VIDEOS[name]), 0.7)
    with pytest.raises(UnreadableVideo, match=r"^truncated: "):
        decode.probe(path)


def test_damaged_frames_are_not_decoded_over(numbered):
    """The decoder conceals damage and goes on; the frames it made up must not be taken for real."""
    path = numbered.write("d.avi", "mpeg4", g="40")
    with av.open(path) as container:
        frame = [bytes(packet) for packet in container.demux(video=0)][20]
    data = bytearray(Path(path).read_bytes())
    middle = data.index(frame) + len(frame) // 2
    data[middle : middle + 8] = bytes(byte ^ 0xFF for byte in data[middle : middle + 8])
    Path(path).write_bytes(data)
    assert numbered.read(decode.decode(path, np.array([19]))) == [19]
    for k in (20, 39):
        with pytest.raises(UnreadableVideo, match=r"^damaged: frame 20 does not decode$"):
            decode.decode(path, np.array([k]))


def _bad_files(folder: Path) -> dict[str, str]:
    """Files that are not videos, and the start of the expected reason."""
    (folder / "empty.avi").write_bytes(b"")
    (folder / "text.avi").write_text("these are measurements, not pictures\n" * 20)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "folder.avi").mkdir()
    (folder / "list.avi").write_text("#EXTM3U\n#EXTINF:10,\nreal.avi\n")
    (folder / "short.avi").write_bytes(b"RIFF")
    (folder / "header.avi").write_bytes(b"RIFF\0\0\0\0AVI LIST")
    (folder / "text.dcm").write_text("no DICOM")
    (folder / "video.wmv").write_bytes(bytes.fromhex("3026b2758e66cf11") + bytes(200))
    os.mkfifo(folder / "pipe.avi")
    with av.open(str(folder / "zero.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        container.start_encoding()
    with av.open(str(folder / "sound.mkv"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
    return {
        "missing.avi": "missing: ",
        "empty.avi": "empty: ",
        "text.avi": "not a video file: ",
        "noise.mp4": "not a video file: ",
        "folder.avi": "not a video file: ",
        "list.avi": "not a video file: ",
        "short.avi": "not a video file: ",
        "header.avi": "truncated: ",
        "text.dcm": "not a video file: ",
        "video.wmv": "unsupported: WMV videos; ",
        "pipe.avi": "not a video file: ",
        "zero.avi": "no frames: ",
        "sound.mkv": "no frames: ",
    }


def test_bad_files_give_the_reason(tmp_path):
    for name, reason in _bad_files(tmp_path).items():
        path = str(tmp_path / name)
        for read in (decode.probe, lambda path: decode.decode(path, np.array([0]))):
            with pytest.raises(UnreadableVideo) as error:
                read(path)
            if read is decode.probe:
                assert str(error.value).startswith(reason), name
            assert len(str(error.value)) < 100
            assert str(tmp_path) not in str(error.value)


def test_content_decides_not_the_name(numbered):
    path = numbered.mjpeg()
    renamed = path.replace(".avi", ".mp4")
    os.rename(path, renamed)
    assert decode.probe(renamed).frames == 40
    assert numbered.read(decode.decode(renamed, np.array([9]))) == [9]


def test_text_tags_in_another_encoding_do_no_harm(numbered):
    path = numbered.mjpeg()
    data = Path(path).read_bytes()
    assert b"Lavf" in data
    Path(path).write_bytes(data.replace(b"Lavf", "éèüö".encode("latin-1")))
    assert decode.probe(path).frames == 40


def test_no_decoder_noise_on_stderr(tmp_path, numbered, cut):
    """FFmpeg writes to the stderr of the process, so a separate process captures its messages."""
    names = [str(tmp_path / name) for name in _bad_files(tmp_path)]
    names += [cut(numbered.mjpeg(), 0.6), cut(numbered.write("v.mp4", "libx264"), 0.6)]
    program = (
        "import sys; import numpy as np; from echojepa_jax.data.formats import decode\n"
        "for path in sys.argv[1:]:\n"
        "  for read in (decode.probe, lambda path: decode.decode(path, np.arange(40))):\n"
        "    try: read(path)\n"
        "    except decode.UnreadableVideo: pass\n"
    )
    done = run_code(program, *names)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
