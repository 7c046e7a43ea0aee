"""Exact frames of AVI, MP4, MOV, MKV, WebM and GIF files, through PyAV.

Frame k is the k-th frame that a player shows, edit lists and quarter turns included. Codecs that
code every frame by itself (Motion JPEG) decode the wanted packets alone; all others decode in order
from the start, because a seek is exact only where the stream's references are known, and gains
little on clips.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from echojepa_jax.data.formats import orientation
from echojepa_jax.data.formats.containers import check_complete, container_format, is_whole_riff
from echojepa_jax.data.formats.video_info import (
    CUT_BETWEEN_KEYS,
    INTERLACED,
    NON_SQUARE,
    ODD_ANGLE,
    SEVERAL_TRACKS,
    VARIABLE_RATE,
    UnreadableVideo,
    VideoInfo,
    check_size,
    fewer_frames,
    is_regular,
    is_square,
    notes,
    possible_rate,
)

# Codecs with one packet for each frame: if fewer frames decode, some need frames that are missing.
# Other codecs hide or pack frames (VP8, DivX).
_PACKETS_ARE_FRAMES = {"h264", "hevc", "vp9", "av1", "gif"}
# Decoders that show nothing before they have all that it is made of. Others begin with whatever
# comes first, and predict from a picture that is not there.
_WAIT_FOR_KEYS = {"h264", "hevc", "mpeg2video"}
# FFmpeg's words for a codec that it knows by name, or that it has only a part of.
_UNSUPPORTED = (
    *(av.error.PatchWelcomeError, av.error.NotImplementedError),
    *(av.error.DecoderNotFoundError, av.error.ExperimentalError),
)
# What decoders call an error. A Motion JPEG picture that ends too soon would else be half grey.
_STRICT = {"mjpeg": {"err_detect": "explode"}}

# A title in another encoding than UTF-8 must not reject a video. PyAV 19 no longer asks.
_OF_TAGS: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)


def probe(path: str) -> VideoInfo:
    """Count the frames of a file.

    They are those that decode. Of codecs that code every frame by itself (Motion JPEG), only the
    first frame is decoded, and packets are counted.

    Raises:
      UnreadableVideo: no video, no frames, a frame that does not decode, or fewer frames than the
        file's header promises.
    """
    kind = container_format(path)
    check_complete(path, kind)
    with _opened(path, kind) as (container, stream):
        codec = stream.codec_context.codec
        whole = slots = 0
        first, cut, late = None, False, False
        stored: list[int | None] = []  # times of the packets that are not hidden
        shown: list[int | None] = []  # times of the frames that decode
        for packet in container.demux(stream):
            cut = cut or (packet.size > 0 and packet.is_corrupt)
            if cut:
                break
            if packet.size:
                late = late if whole else _begins_late(stream, packet)
                whole += 1
                stored += [] if packet.is_discard else [packet.pts]
                slots = whole if packet.dts is None else packet.dts + 1
            if first is None or not codec.intra_only:
                # The last, empty packet flushes the decoder.
                for frame in _decoded(stream, packet, len(shown), late):
                    if frame.is_corrupt:
                        raise UnreadableVideo(f"damaged: frame {len(shown)} does not decode")
                    first = first or frame
                    shown.append(frame.pts)

        # An AVI's repeated frames take a slot and hold no packet; an MP4's edit list hides packets.
        # Neither is truncation.
        held = max(whole, slots) if kind == "avi" else whole
        if stream.frames > held and kind == "mov":
            held = _packets_without_edits(path)
        if stream.frames > held:
            reason = f"header says {stream.frames} frames, file holds {held}"
            all_there = kind == "avi" and not cut and is_whole_riff(path)
            raise UnreadableVideo(f"{'wrong frame count' if all_there else 'truncated'}: {reason}")
        if cut:
            raise UnreadableVideo(f"truncated: the file ends within frame {whole}")
        if first is None:
            why = "no picture decodes without earlier ones" if stored else "the stream is empty"
            if whole > len(stored):
                why = "the edit list hides all of them"
            raise UnreadableVideo(f"no frames: {why}")
        if codec.intra_only:
            shown = stored
        lost = codec.canonical_name in _PACKETS_ARE_FRAMES and len(shown) < len(stored)
        if first.pts is not None:
            lost = lost or any(time is not None and time < first.pts for time in stored)
        times = [time for time in shown if time is not None]
        fps = float(stream.average_rate or stream.base_rate or stream.guessed_rate or 0)
        if kind == "avi":
            fps *= whole / held
        note = notes(
            # An AVI has no times, only slots.
            "" if kind == "avi" or is_regular(times, 1) else VARIABLE_RATE,
            CUT_BETWEEN_KEYS if lost else "",
            SEVERAL_TRACKS if len(_tracks(container)) > 1 else "",
            NON_SQUARE if not is_square(1, float(stream.sample_aspect_ratio or 1)) else "",
            INTERLACED if first.interlaced_frame else "",
            ODD_ANGLE if orientation.is_odd(first) else "",
        )
        height, width = orientation.upright_size(first)
        return VideoInfo(len(shown), possible_rate(fps), height, width, note)


def frames(path: str, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames `ids` (ascending, none twice) as RGB uint8 [H, W, 3], upright.

    Raises:
      UnreadableVideo: the file is damaged, or holds fewer frames than asked for.
    """
    with _opened(path, container_format(path)) as (container, stream):
        pick = _frames_alone if stream.codec_context.codec.intra_only else _frames_in_order
        # threads=1: the pipeline runs one decoder a worker; more threads would only compete.
        for frame in pick(container, stream, ids):
            yield orientation.upright(frame.to_ndarray(format="rgb24", threads=1), frame)


def coded(path: str) -> Iterator[bytes]:
    """Yield the bytes of the coded pictures, and none of the container.

    Raises:
      UnreadableVideo: the file is damaged.
    """
    with _opened(path, container_format(path)) as (container, stream):
        for packet in container.demux(stream):
            yield bytes(packet)


def _begins_late(stream: VideoStream, first: Packet) -> bool:
    """Whether a stream begins between key pictures, as one does that was cut without coding it."""
    return not (first.is_keyframe or stream.codec_context.codec.intra_only)


def _decoded(stream: VideoStream, packet: Packet, k: int, late: bool) -> list[VideoFrame]:
    """The frames that a packet brings, after `k` others.

    Args:
      late: the stream begins late: what comes before its first key picture is left out.

    Raises:
      UnreadableVideo: frame `k` does not decode.
    """
    before_key = late and k == 0
    try:
        frames = stream.codec_context.decode(packet)
    except av.error.FFmpegError as error:
        if before_key:
            return []
        raise _refused(error, f"frame {k} does not decode") from error
    if before_key and stream.codec_context.codec.canonical_name not in _WAIT_FOR_KEYS:
        frames = list(itertools.dropwhile(lambda frame: not frame.key_frame, frames))
    return frames


def _frames_alone(
    container: InputContainer, stream: VideoStream, ids: Sequence[int]
) -> Iterator[VideoFrame]:
    """Yield the frames `ids`, decoding no other packet."""
    wanted, k = set(ids), 0
    for packet in container.demux(stream):
        if not packet.size or packet.is_corrupt:
            break
        if packet.is_discard:
            continue
        if k in wanted:
            frames = _decoded(stream, packet, k, late=False)
            if len(frames) != 1 or frames[0].is_corrupt:
                raise UnreadableVideo(f"damaged: frame {k} does not decode")
            yield frames[0]
        k += 1
        if k > ids[-1]:
            return
    raise fewer_frames(k, ids[-1])


def _frames_in_order(
    container: InputContainer, stream: VideoStream, ids: Sequence[int]
) -> Iterator[VideoFrame]:
    """Yield the frames `ids`, decoding every frame up to the last of them."""
    wanted, k, late = set(ids), 0, None
    for packet in container.demux(stream):
        if late is None:
            late = _begins_late(stream, packet)
        for frame in _decoded(stream, packet, k, late):
            if frame.is_corrupt:  # even if not wanted: later frames are built from it
                raise UnreadableVideo(f"damaged: frame {k} does not decode")
            if k in wanted:
                yield frame
            k += 1
            if k > ids[-1]:
                return
    raise fewer_frames(k, ids[-1])


def _packets_without_edits(path: str) -> int:
    """The whole video packets in an MP4 or MOV file, those hidden by its edit list included."""
    with _opened(path, "mov", ignore_editlist="1") as (container, stream):
        return sum(packet.size > 0 and not packet.is_corrupt for packet in container.demux(stream))


@contextlib.contextmanager
def _opened(path: str, kind: str, **options: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file's video track for one thread; FFmpeg's errors become UnreadableVideo."""
    try:
        with av.open(path, format=kind, options=options, **_OF_TAGS) as container:
            stream = _longest_track(path, kind, container)
            if stream.codec_context is None:
                raise UnreadableVideo("unsupported: no decoder for the video's codec")
            check_size(stream.codec_context.height, stream.codec_context.width)
            stream.thread_type = "NONE"
            stream.thread_count = 1
            codec = stream.codec_context.codec.canonical_name
            stream.codec_context.options = _STRICT.get(codec, {})
            yield container, stream
    except av.error.FFmpegError as error:
        raise _refused(error, str(error.strerror)) from error


def _refused(error: av.error.FFmpegError, problem: str) -> UnreadableVideo:
    """What is wrong with a file of which FFmpeg says so."""
    if isinstance(error, _UNSUPPORTED):
        return UnreadableVideo("unsupported: FFmpeg knows this kind of video, but cannot decode it")
    if isinstance(error, av.error.MemoryError):
        return UnreadableVideo("too large: there is no memory for its frames")
    return UnreadableVideo(f"damaged: {problem}")


def _tracks(container: InputContainer) -> list[VideoStream]:
    """The video tracks but for cover pictures."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def _longest_track(path: str, kind: str, container: InputContainer) -> VideoStream:
    """The track with the most frames, of equal ones the largest picture: others are previews."""
    tracks = _tracks(container)
    if not tracks:
        cover = ", only a cover picture" if container.streams.video else ""
        raise UnreadableVideo(f"no frames: the file has no video stream{cover}")
    if len(tracks) == 1:
        return tracks[0]
    counts: Mapping[int, int] = {track.index: track.frames for track in tracks}
    if not all(counts.values()):  # not every container counts
        with av.open(path, format=kind, **_OF_TAGS) as other:
            packets = other.demux([s for s in other.streams.video if s.index in counts])
            counts = Counter(packet.stream.index for packet in packets if packet.size)
    readable = [track for track in tracks if track.codec_context is not None] or tracks
    return max(readable, key=lambda track: (counts[track.index], track.height * track.width))
