"""A video as it comes back from H.264 (CRF 18, yuv420p), coded and decoded in memory.

The paper's degraded videos were coded in this way and its clean ones were not, so that part of its
differences is due to the codec. All frames are coded, at the video's rate, whichever are asked for.
"""

import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.video_info import wanted_frames

_ANY_RATE = 25.0  # of a video that states none
# Equal frames must give equal files. On some CPUs, x264's fast code for trees of macroblocks reads
# memory that nobody has written. This option replaces it by code that is the same on all of them.
_OPTIONS = {"crf": "18", "x264-params": "cpu-independent=1"}


def clip(path: str, frame_ids: np.ndarray, frames: int, fps: float, *, grey: bool) -> np.ndarray:
    """The frames `frame_ids` of a video with `frames` frames, as `decode.decode` gives them.

    Raises:
      UnreadableVideo: a frame cannot be decoded, also one that was not asked for.
    """
    ids, rows = wanted_frames(frame_ids)
    recoded = through_h264(decode.frames(path, range(frames)), fps or _ANY_RATE)
    wanted = set(ids.tolist())
    shown = enumerate(itertools.islice(recoded, int(ids[-1]) + 1))
    return decode.stacked([image for k, image in shown if k in wanted], rows, grey=grey)


def through_h264(images: Iterable[np.ndarray], fps: float) -> Iterator[np.ndarray]:
    """Yields every image after coding, as RGB: uint8 [H, W, 3 or 1] -> uint8 [H, W, 3]."""
    coder, reader = None, VideoCodecContext.create("h264", "r")
    reader.thread_type, reader.thread_count = "NONE", 1
    height = width = 0
    for number, image in enumerate(images):
        if coder is None:
            height, width = image.shape[:2]
            coder = _coder(height + height % 2, width + width % 2, fps)
        # Colour has half the resolution, so there are no odd sizes.
        even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        rgb = np.ascontiguousarray(np.broadcast_to(even, (*even.shape[:2], 3)))
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame = frame.reformat(format="yuv420p", threads=1)
        frame.pts = number
        yield from _shown(coder, reader, frame, height, width)
    if coder is not None:
        yield from _shown(coder, reader, None, height, width)


def _coder(height: int, width: int, fps: float) -> VideoCodecContext:
    coder = VideoCodecContext.create("libx264", "w")
    coder.height, coder.width, coder.pix_fmt = height, width, "yuv420p"
    coder.framerate = Fraction(fps).limit_denominator(1000)
    coder.time_base = 1 / coder.framerate
    coder.thread_count, coder.options = 1, _OPTIONS
    return coder


def _shown(
    coder: VideoCodecContext,
    reader: VideoCodecContext,
    frame: av.VideoFrame | None,
    height: int,
    width: int,
) -> Iterator[np.ndarray]:
    """What is decoded after one more frame was coded; None = there are no more."""
    packets = coder.encode(frame)
    for packet in packets if frame else [*packets, None]:
        for decoded in reader.decode(packet):
            yield decoded.to_ndarray(format="rgb24", threads=1)[:height, :width]
