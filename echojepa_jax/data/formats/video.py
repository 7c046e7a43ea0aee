"""Exact frames of AVI, MP4, MOV, MKV, WebM and GIF files, read with PyAV.

Frame k is the k-th frame that a player shows, with edit lists and quarter turns applied. For codecs
that code every frame separately (Motion JPEG), only the wanted packets are decoded. All other
videos are decoded in order from the start, because a seek is exact only if the references of the
stream are known, and saves little time on clips.
"""

import contextlib
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from echojepa_jax.data.formats import orientation
from echojepa_jax.data.formats.containers import check_complete, container_format, is_whole_riff
from echojepa_jax.data.formats.incomplete import SecondDecoder, decoder_options, is_silent
from echojepa_jax.data.formats.jpeg_scans import lacks_scans
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

# Codecs with one packet per frame: if fewer frames decode, some depend on missing frames. Other
# codecs hide frames or pack several into a packet (VP8, DivX).
_PACKETS_ARE_FRAMES = {"h264", "hevc", "vp9", "av1", "gif"}
# Decoders that output no frame before they have everything it depends on. Others start with the
# first packet, and predict from a picture that is missing.
_WAIT_FOR_KEYS = {"h264", "hevc", "mpeg2video"}
# FFmpeg's errors for a codec that it knows but cannot decode, or can decode only in part.
_UNSUPPORTED = (
    *(av.error.PatchWelcomeError, av.error.NotImplementedError),
    *(av.error.DecoderNotFoundError, av.error.ExperimentalError),
)
# A title that is not UTF-8 must not reject a video. PyAV 19 no longer has the option.
_TAG_OPTIONS: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
)

Source = str | bytes
"""The path of a file, or the bytes of a video inside another file."""


def probe(path: str) -> VideoInfo:
    """The facts of a file; counts the frames that decode.

    For codecs that code every frame separately (Motion JPEG), only the first frame is decoded, and
    the packets are counted.

    Raises:
      UnreadableVideo: the file is not a video, has no frames, has a frame that does not decode, or
        has fewer frames than its header states.
    """
    kind = container_format(path)
    with open(path, "rb") as file:
        check_complete(file, kind)
    with _opened(path, kind) as (container, stream), _second_decoder(path, kind, stream) as second:
        codec = stream.codec_context.codec
        whole = slots = 0
        first, cut, late = None, False, False
        stored: list[int | None] = []  # times of the packets that are not hidden
        shown: list[int | None] = []  # times of the frames that decode
        sizes: list[int] = []  # of the packets in bytes
        for packet in container.demux(stream):
            cut = cut or (packet.size > 0 and packet.is_corrupt)
            if cut:
                break
            if packet.size:
                late = late if whole else _begins_late(stream, packet)
                whole += 1
                sizes.append(packet.size)
                stored += [] if packet.is_discard else [packet.pts]
                slots = whole if packet.dts is None else packet.dts + 1
            if first is None or second or not codec.intra_only:
                # The last, empty packet flushes the decoder.
                decoded = _decoded(stream, packet, len(shown), late, second)
                first = first or next(iter(decoded), None)
                shown += [frame.pts for frame in decoded]

        # Repeated frames of an AVI occupy a slot without a packet, and the edit list of an MP4
        # hides packets. Neither is truncation.
        held = max(whole, slots) if kind == "avi" else whole
        if stream.frames > held and kind == "mov":
            held = _packets_without_edits(path)
        if stream.frames > held:
            reason = f"header states {stream.frames} frames, file holds {held}"
            all_there = kind == "avi" and not cut and is_whole_riff(path)
            raise UnreadableVideo(f"{'wrong frame count' if all_there else 'truncated'}: {reason}")
        if cut:
            raise UnreadableVideo(f"truncated: the file ends within frame {whole}")
        if first is None:
            why = "no picture decodes without earlier ones" if stored else "the stream is empty"
            if whole > len(stored):
                why = "the edit list hides all of them"
            raise UnreadableVideo(f"no frames: {why}")
        _check_levels(stream, first)
        if codec.canonical_name == "rawvideo" and min(sizes) < max(sizes):
            raise _damaged(sizes.index(min(sizes)))
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
            # An AVI has slots, but no times.
            "" if kind == "avi" or is_regular(times, 1) else VARIABLE_RATE,
            CUT_BETWEEN_KEYS if lost else "",
            SEVERAL_TRACKS if len(_tracks(container)) > 1 else "",
            NON_SQUARE if not is_square(1, float(stream.sample_aspect_ratio or 1)) else "",
            INTERLACED if first.interlaced_frame else "",
            ODD_ANGLE if orientation.has_odd_angle(first) else "",
        )
        height, width = orientation.upright_size(first)
        return VideoInfo(len(shown), possible_rate(fps), height, width, note)


def _check_levels(stream: VideoStream, frame: VideoFrame) -> None:
    """Checks that the values of pixels can be turned into brightness.

    Raises:
      UnreadableVideo: the palette is missing, or a few bits of 16 are used, which would be black.
    """
    context, kind = stream.codec_context, frame.format.name
    is_indexed = context.codec.canonical_name == "rawvideo" and kind == "pal8"
    # FFmpeg would use colours of its own. At most a mark for rows from below is there instead.
    if is_indexed and len(context.extradata or b"") <= len(b"BottomUp\0"):
        raise UnreadableVideo("incomplete: the file lacks the palette of its pixels")
    if kind.startswith("gray16"):
        bits = int(frame.to_ndarray(format="gray16le").max()).bit_length()
        if 0 < bits <= 14:
            raise UnreadableVideo(f"unsupported: grey video of 16 bits that uses {bits} of them")


def frames(path: str, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames `ids` (ascending, none twice) as RGB uint8 [H, W, 3], upright.

    Raises:
      UnreadableVideo: the file is damaged, or has fewer frames.
    """
    with _opened(path, container_format(path)) as (container, stream):
        pick = _frames_alone if stream.codec_context.codec.intra_only else _frames_in_order
        # threads=1, because the pipeline runs one decoder per worker; more threads would compete.
        for frame in pick(container, stream, ids):
            yield orientation.upright(frame.to_ndarray(format="rgb24", threads=1), frame)


def every_frame(source: Source, kind: str, *, checked: bool) -> Iterator[VideoFrame]:
    """Yield all frames of a video, as they are stored.

    Args:
      kind: FFmpeg's name of the container, or of a bare stream.
      checked: find incomplete pictures where the decoder fills in the rest; takes twice the time.

    Raises:
      UnreadableVideo: a frame does not decode, or there is no video.
    """
    with contextlib.ExitStack() as stack:
        container, stream = stack.enter_context(_opened(source, kind))
        second = stack.enter_context(_second_decoder(source, kind, stream)) if checked else None
        yield from _in_order(container, stream, second)


def coded(path: str) -> Iterator[bytes]:
    """Yield the bytes of the coded pictures, without the container.

    Raises:
      UnreadableVideo: the file is damaged.
    """
    with _opened(path, container_format(path)) as (container, stream):
        for packet in container.demux(stream):
            yield bytes(packet)


@contextlib.contextmanager
def _second_decoder(
    source: Source, kind: str, stream: VideoStream
) -> Iterator[SecondDecoder | None]:
    """A second decoder for codecs whose first one accepts incomplete pictures."""
    if is_silent(stream):
        with _opened(source, kind) as (_, again):
            yield SecondDecoder(again)
    else:
        yield None


def _begins_late(stream: VideoStream, first: Packet) -> bool:
    """Whether a stream begins between key frames, as after a cut without re-encoding."""
    return not (first.is_keyframe or stream.codec_context.codec.intra_only)


def _decoded(
    stream: VideoStream, packet: Packet, k: int, late: bool, second: SecondDecoder | None = None
) -> list[VideoFrame]:
    """The frames that decode from a packet, after `k` earlier frames.

    Args:
      late: the stream begins between key frames: skip everything before its first key frame.
      second: must show the same frames.

    Raises:
      UnreadableVideo: a frame does not decode.
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
    # An error even if the frame is not wanted, because later ones depend on it.
    if any(frame.is_corrupt for frame in frames) or (second and not second.agrees(packet, frames)):
        raise _damaged(k)
    return frames


def _frames_alone(
    container: InputContainer, stream: VideoStream, ids: Sequence[int]
) -> Iterator[VideoFrame]:
    """Yield the frames `ids`; decodes no other packet."""
    wanted, k = set(ids), 0
    for packet in container.demux(stream):
        if not packet.size or packet.is_corrupt:
            break
        if packet.is_discard:
            continue
        if k in wanted:
            frames = _decoded(stream, packet, k, late=False)
            is_jpeg = stream.codec_context.codec.canonical_name == "mjpeg"
            if len(frames) != 1 or (is_jpeg and lacks_scans(bytes(packet))):
                raise _damaged(k)
            yield frames[0]
        k += 1
        if k > ids[-1]:
            return
    raise fewer_frames(k, ids[-1])


def _frames_in_order(
    container: InputContainer, stream: VideoStream, ids: Sequence[int]
) -> Iterator[VideoFrame]:
    """Yield the frames `ids`; decodes every frame up to the last of them."""
    wanted, k = set(ids), -1
    for k, frame in enumerate(_in_order(container, stream)):
        if k in wanted:
            yield frame
        if k == ids[-1]:
            return
    raise fewer_frames(k + 1, ids[-1])


def _in_order(
    container: InputContainer, stream: VideoStream, second: SecondDecoder | None = None
) -> Iterator[VideoFrame]:
    """Yield all frames."""
    k, late = 0, None
    for packet in container.demux(stream):
        if late is None:
            late = _begins_late(stream, packet)
        for frame in _decoded(stream, packet, k, late, second):
            yield frame
            k += 1


def _packets_without_edits(path: str) -> int:
    """The number of complete packets in an MP4 or MOV file, also those its edit list hides."""
    with _opened(path, "mov", ignore_editlist="1") as (container, stream):
        return sum(packet.size > 0 and not packet.is_corrupt for packet in container.demux(stream))


@contextlib.contextmanager
def _opened(
    source: Source, kind: str, **options: str
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a video track for one thread; turns FFmpeg's errors into UnreadableVideo."""
    try:
        with av.open(_file(source), format=kind, options=options, **_TAG_OPTIONS) as container:
            stream = _longest_track(source, kind, container)
            if stream.codec_context is None:
                raise UnreadableVideo("unsupported: no decoder for the video's codec")
            check_size(stream.codec_context.height, stream.codec_context.width)
            stream.thread_type = "NONE"
            stream.thread_count = 1
            stream.codec_context.options = decoder_options(stream)
            yield container, stream
    except av.error.FFmpegError as error:
        raise _refused(error, str(error.strerror)) from error


def _file(source: Source) -> str | BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _damaged(k: int) -> UnreadableVideo:
    return UnreadableVideo(f"damaged: frame {k} does not decode")


def _refused(error: av.error.FFmpegError, problem: str) -> UnreadableVideo:
    """The reason for an error of FFmpeg."""
    if isinstance(error, _UNSUPPORTED):
        return UnreadableVideo("unsupported: FFmpeg knows this kind of video, but cannot decode it")
    if isinstance(error, av.error.MemoryError):
        return UnreadableVideo("too large: its frames do not fit into memory")
    return UnreadableVideo(f"damaged: {problem}")


def _tracks(container: InputContainer) -> list[VideoStream]:
    """The video tracks, without cover pictures."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def _longest_track(source: Source, kind: str, container: InputContainer) -> VideoStream:
    """The track with the most frames, then with the largest picture; the others are previews."""
    tracks = _tracks(container)
    if not tracks:
        cover = ", only a cover picture" if container.streams.video else ""
        raise UnreadableVideo(f"no frames: the file has no video stream{cover}")
    if len(tracks) == 1:
        return tracks[0]
    counts: Mapping[int, int] = {track.index: track.frames for track in tracks}
    if not all(counts.values()):  # some containers do not contain the number of frames
        with av.open(_file(source), format=kind, **_TAG_OPTIONS) as other:
            packets = other.demux([s for s in other.streams.video if s.index in counts])
            counts = Counter(packet.stream.index for packet in packets if packet.size)
    readable = [track for track in tracks if track.codec_context is not None] or tracks
    return max(readable, key=lambda track: (counts[track.index], track.height * track.width))
