"""Which frames of a video make a clip.

A clip is `length` frames taken at a regular distance from a window of the video. Training draws the
start of the window at random; evaluation takes the middle, or the middles of equal parts when it
wants several clips per video.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from echojepa_jax.utils.errors import UserError

WAYS = ("fps", "stride", "duration", "share")
NEED_RATE = ("fps", "duration")
"""Ways of sampling (`by` of `clip_frame_ids`), and those that need the video's frame rate."""

ROUNDING = 1e-6
"""frames; keeps 2.9999999996 from becoming frame 2"""
KEPT, MASKED = "kept", "masked"
"""What becomes of tokens that only repeat a short video's last frame, as `data.padded` names it."""


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """How a video becomes a clip.

    frames: frames of a clip. size: height and width of a clip in pixels.
    by, value: temporal sampling, see `clip_frame_ids`.
    area, aspect: random resized crop of training, see `transforms.random_box`.
    """

    frames: int = 16
    size: int = 224
    by: str = "fps"
    value: float = 8
    area: tuple[float, float] = (0.5, 1.0)
    aspect: tuple[float, float] = (0.9, 1.1)


def clip_frame_ids(
    frames: int,
    fps: float,
    rng: np.random.Generator | None,
    *,
    length: int,
    by: str,
    value: float,
    part: tuple[int, int] = (0, 1),
) -> tuple[np.ndarray, int]:
    """Return the frame numbers of one clip, int32 [length], ascending, and the number held.

    frames, fps: length and frame rate of the video; fps 0 means that the file does not tell.
    by, value: what sets the distance between two frames.
        "fps": the recipe's whole number of frames, `max(1, ceil(fps) // value)`, for about `value`
            frames a second (V-JEPA 2; 30 fps at value 8 gives a stride of 3, that is 10 fps).
        "stride": `value` frames.
        "duration": `length` frames evenly over `value` seconds at the true frame rate, rounded down
            to whole frames one by one; it repeats frames where the file has too few a second.
        "share": `length` frames evenly over a window of `value` times the video, from its first to
            its last frame, rounded down; 1 is the whole video, which is never too short.
    rng: draws the start of the window; None takes the centre of part k of n equal parts, `part` =
        (k, n).

    A video shorter than the window is used from its first frame, and its last frame is held where
    frames are
    missing: the second result counts those.
    Raises UserError when the frame rate is needed and unknown, or a value is impossible.
    """
    if frames < 1 or length < 1 or value <= 0:
        raise UserError(
            f"A clip of {length} frames by {by}={value:g} from a video of {frames} frames is "
            "impossible: all three must be positive."
        )
    if by in NEED_RATE and not fps > 0:
        raise UserError(
            f'Sampling by="{by}" needs a frame rate and the file tells none: use by="stride".'
        )
    match by:
        case "fps":
            distance: float = max(1, int(math.ceil(fps) // value))
        case "stride" if value == int(value):
            distance = int(value)
        case "duration":
            distance = value * fps / length
        case "share" if value <= 1:
            window = max(1, round(value * frames))
            distance = (window - 1) / max(1, length - 1)
        case _:
            raise UserError(
                f'Sampling by="{by}" with value={value:g} is unknown: use "fps", "duration", '
                '"stride" with a whole number, or "share" with one up to 1.'
            )

    if by != "share":
        window = math.ceil(length * distance - ROUNDING)
    last_start = max(0, frames - window)
    if rng is None:
        index, parts = part
        centre = (2 * index + 1) * frames // (2 * parts)
        start = min(max(0, centre - window // 2), last_start)
    else:
        start = int(rng.integers(last_start + 1))
    ids = start + np.floor(np.arange(length) * distance + ROUNDING).astype(np.int64)
    padded = int(np.count_nonzero(ids >= frames))
    return np.minimum(ids, frames - 1).astype(np.int32), padded


def repeated_clips(lengths: Sequence[tuple[int, float]], clip: ClipSpec, clips: int) -> np.ndarray:
    """Which clips of a video show the same frames as the clip before them: bool [videos, clips].

    All clips of a video are equal if it is not longer than one clip.

    Args:
      lengths: the number of frames and the frame rate of each video.
    """

    @functools.cache
    def of_video(frames: int, fps: float) -> np.ndarray:
        starts = [
            clip_frame_ids(
                *(frames, fps, None),
                length=clip.frames,
                by=clip.by,
                value=clip.value,
                part=(part, clips),
            )[0][0]
            for part in range(clips)
        ]
        return np.diff(starts, prepend=-1) == 0

    return np.array([of_video(*length) for length in lengths]).reshape(-1, clips)
