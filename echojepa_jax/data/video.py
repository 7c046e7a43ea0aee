"""Exact frames of AVI, MP4, MOV, MKV, WebM and GIF files, through PyAV.

Frame k is the k-th frame that a player shows, edit lists included. Codecs that code every frame by
itself (Motion JPEG) decode the wanted packets alone; all others decode in order from the start,
because a seek is exact only where the stream's references are known, and gains little on clips.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from echojepa_jax.data.containers import check_complete, container_format
from echojepa_jax.data.video_info import (
    VARIABLE_RATE,
    UnreadableVideo,
    VideoInfo,
    check_size,
    fewer_frames,
    is_regular,
    possible_rate,
)

# Codecs whose packets are frames, one to one. Others may hide or pack frames (VP8, DivX): counting
# those takes decoding them.
_PACKETS_ARE_FRAMES = {"h264", "hevc", "vp9", "av1", "gif"}


# A title in another encoding than UTF-8 must not reject a video. PyAV 19 no longer asks.
_OF_TAGS: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)


def probe(path: str) -> VideoInfo:
    """Count the frames of a file, without decoding them where packets tell, and decode the first.

    Raises:
      UnreadableVideo: no video, no frames, or fewer frames than the file's header promises.
    """
    kind = container_format(path)
    check_complete(path, kind)
    with _opened(path, kind) as (container, stream):
        codec = stream.codec_context.codec
        counts_packets = codec.intra_only or codec.canonical_name in _PACKETS_ARE_FRAMES
        whole = shown = decoded = slots = 0
        first, cut = None, False
        times: list[int] = []
        for packet in container.demux(stream):
            cut = cut or (packet.size > 0 and packet.is_corrupt)
            if cut:
                break
            if packet.size:
                whole += 1
                if packet.pts is not None and not packet.is_discard:
                    times.append(packet.pts)
                shown += not packet.is_discard
                slots = whole if packet.dts is None else packet.dts + 1
            if first is None or not counts_packets:
                frames = stream.codec_context.decode(packet)  # the last, empty one flushes
                decoded += len(frames)
                first = first or next(iter(frames), None)

        # An AVI's repeated frames take a slot and hold no packet; an MP4's edit list hides packets.
        # Neither is truncation.
        held = max(whole, slots) if kind == "avi" else whole
        if stream.frames > held and kind == "mov":
            held = _packets_without_edits(path)
        if stream.frames > held:
            reason = f"truncated: header says {stream.frames} frames, file holds {held}"
            raise UnreadableVideo(reason)
        if cut:
            raise UnreadableVideo(f"truncated: the file ends within frame {whole}")
        if first is None:
            raise UnreadableVideo("no frames: the video stream is empty")
        fps = float(stream.average_rate or stream.base_rate or stream.guessed_rate or 0)
        if kind == "avi":
            fps *= whole / held
        # An AVI has no times, only slots.
        note = "" if kind == "avi" or is_regular(times, 1) else VARIABLE_RATE
        count = shown if counts_packets else decoded
        return VideoInfo(count, possible_rate(fps), first.height, first.width, note)


def frames(path: str, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames `ids` (ascending, none twice) as RGB uint8 [H, W, 3].

    Raises:
      UnreadableVideo: the file is damaged, or holds fewer frames than asked for.
    """
    with _opened(path, container_format(path)) as (container, stream):
        pick = _frames_alone if stream.codec_context.codec.intra_only else _frames_in_order
        # threads=1: the pipeline runs one decoder a worker; more threads would only compete.
        for frame in pick(container, stream, ids):
            yield frame.to_ndarray(format="rgb24", threads=1)


def coded(path: str) -> Iterator[bytes]:
    """Yield the bytes of the coded pictures, and none of the container.

    Raises:
      UnreadableVideo: the file is damaged.
    """
    with _opened(path, container_format(path)) as (container, stream):
        for packet in container.demux(stream):
            yield bytes(packet)


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
            frames = stream.codec_context.decode(packet)
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
    wanted, k = set(ids), 0
    for frame in container.decode(stream):
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
    """Open a file's first video stream for one thread; FFmpeg's errors become UnreadableVideo."""
    try:
        with av.open(path, format=kind, options=options, **_OF_TAGS) as container:
            if not container.streams.video:
                raise UnreadableVideo("no frames: the file has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UnreadableVideo("unsupported: no decoder for the video's codec")
            check_size(stream.codec_context.height, stream.codec_context.width)
            stream.thread_type = "NONE"
            stream.thread_count = 1
            yield container, stream
    except av.error.FFmpegError as error:
        raise UnreadableVideo(f"damaged: {error.strerror}") from error
