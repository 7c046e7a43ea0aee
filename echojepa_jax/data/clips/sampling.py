"""Chooses the frames of a video that make a clip.

A clip is `length` frames at a regular distance from a window of the video. Training draws the start
of the window at random, evaluation centres it: in the video or, for several clips per video, in
equal parts of the video. Contiguous clips, as the paper's for RVSP, begin with the video.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from echojepa_jax.utils.errors import UserError

WAYS = ("fps", "stride", "duration", "share")
NEED_RATE = ("fps", "duration")
"""Ways of sampling (`by` of `clip_frame_ids`), and those that need the video's frame rate."""

ROUNDING = 1e-6
"""Added before rounding down, in frames, so that 2.9999999996 becomes frame 3."""
KEPT, MASKED = "kept", "masked"
"""Values of `data.padded`: how to treat tokens that only repeat the last frame of a short video."""
PLACES = SPREAD, CONTIGUOUS = ("spread", "contiguous")
"""Where the clips of a video lie (`place` of `clip_frame_ids`)."""
AUGMENT = NONE, CROPS, ORIGINAL = ("none", "crops", "original")
"""Values of `data.augment` of a probe: how clips are varied in training, see `example_batches`."""


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """How a video becomes a clip.

    frames: number of frames in a clip. size: height and width of a clip in pixels.
    by, value: temporal sampling, see `clip_frame_ids`.
    area, aspect: ranges of the random resized crop in training, see `transforms.random_box`.
    centre: side of the centred square that evaluation shows, as a share of the short side.
    place: of several clips in a video, see `clip_frame_ids`.
    """

    frames: int = 16
    size: int = 224
    by: str = "fps"
    value: float = 8
    area: tuple[float, float] = (0.5, 1.0)
    aspect: tuple[float, float] = (0.9, 1.1)
    centre: float = 1.0
    place: str = SPREAD

    @property
    def rule(self) -> dict[str, Any]:
        """What `clip_frame_ids` needs to know of these clips."""
        return {"length": self.frames, "by": self.by, "value": self.value}

    def frame_ids(
        self, frames: int, fps: float, rng: np.random.Generator | None, part: tuple[int, int]
    ) -> tuple[np.ndarray, int]:
        """Chooses the frames of one of these clips, see `clip_frame_ids`."""
        return clip_frame_ids(frames, fps, rng, part=part, place=self.place, **self.rule)

    def facts(self) -> dict[str, Any]:
        """What files record of these clips.

        Fields that earlier versions lack are left out if they change nothing, so that these
        versions' files describe the same clips in the same words.
        """
        usual = {"centre": 1.0, "place": SPREAD}
        found = dataclasses.asdict(self).items()
        return {name: value for name, value in found if value != usual.get(name)}


def clip_frame_ids(
    frames: int,
    fps: float,
    rng: np.random.Generator | None,
    *,
    length: int,
    by: str,
    value: float,
    part: tuple[int, int] = (0, 1),
    place: str = SPREAD,
) -> tuple[np.ndarray, int]:
    """Chooses the frames of one clip.

    A video shorter than the window is used from its first frame, and its last frame is repeated in
    place of the missing frames.

    Args:
      frames, fps: number of frames and frame rate of the video; fps 0 = unknown.
      length: number of frames in the clip.
      by, value: the rule for the distance between two frames.
        "fps": `max(1, ceil(fps) // value)` frames, which gives about `value` frames a second (the
          rule of V-JEPA 2: 30 fps at value 8 gives a distance of 3 frames, which is 10 fps).
        "stride": `value` frames.
        "duration": `length` frames are spread evenly over `value` seconds at the true frame rate,
          each rounded down to a whole frame; frames repeat if the file has too few a second.
        "share": `length` frames are spread evenly over a window of `value` times the video, from
          its first to its last frame, each rounded down; 1 = the whole video.
      rng: draws the place of the window in part k of n equal parts of the video; None centres it.
      part: (k, n).
      place: "spread": as said of `rng`. "contiguous": window k begins where the one before ends,
        the first one with the video, and nothing is drawn. Beyond the end, the last frame repeats.

    Returns:
      Frame numbers int32 [length], ascending, and how many of them repeat the last frame.

    Raises:
      UserError: the frame rate is needed and unknown, or a value is impossible.
    """
    offsets, window = _offsets(frames, fps, length, by, value)
    last_start = max(0, frames - window)
    index, parts = part
    if place == CONTIGUOUS:
        start = index * window
    elif rng is None:
        centre = (2 * index + 1) * frames // (2 * parts)
        start = min(max(0, centre - window // 2), last_start)
    else:
        first, end = (k * frames // parts for k in (index, index + 1))
        start = min(int(rng.integers(first, max(first, end - window) + 1)), last_start)
    return _clamped(start + offsets, frames)


def clip_with_frame(
    frames: int, fps: float, frame: int, *, length: int, by: str, value: float, tubelet: int
) -> tuple[np.ndarray, int, int]:
    """Chooses the frames of a clip that has a given frame of the video as the first of a tubelet.

    Of all such clips it is the one with the fewest frames that repeat the last one and, of these,
    the one with that tubelet nearest to its middle.

    Args:
      frames, fps, length, by, value: see `clip_frame_ids`. frame: counted from 0.
      tubelet: frames of a tubelet.

    Returns:
      Frame numbers int32 [length], how many of them repeat the last frame, and the number of the
      tubelet.

    Raises:
      UserError: as `clip_frame_ids`.
      ValueError: the video has no such frame.
    """
    if not 0 <= frame < frames:
        raise ValueError(f"a video of {frames} frames has no frame {frame}")
    offsets, _ = _offsets(frames, fps, length, by, value)

    def quality(place: int) -> tuple[int, int]:
        beyond = np.count_nonzero(frame - offsets[place] + offsets >= frames)
        return int(beyond), abs(2 * place + tubelet - length)

    places = [place for place in range(0, length, tubelet) if offsets[place] <= frame]
    best = min(places, key=quality)
    return *_clamped(frame - offsets[best] + offsets, frames), best // tubelet


def _clamped(ids: np.ndarray, frames: int) -> tuple[np.ndarray, int]:
    """Frame numbers of a video, int32, and how many of them repeat its last frame."""
    padded = int(np.count_nonzero(ids >= frames))
    return np.minimum(ids, frames - 1).astype(np.int32), padded


def _offsets(frames: int, fps: float, length: int, by: str, value: float) -> tuple[np.ndarray, int]:
    """Frames from the first frame of a clip to each of them, int [length], and of its window.

    Raises:
      UserError: see `clip_frame_ids`.
    """
    if frames < 1 or length < 1 or value <= 0:
        raise UserError(
            f"a clip of {length} frames by {by}={value:g} from a video of {frames} frames is "
            "impossible: all three numbers must be positive"
        )
    if by in NEED_RATE and not fps > 0:
        raise UserError(
            f'sampling by="{by}" needs a frame rate, which the file does not state: use by="stride"'
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
                f'sampling by="{by}" with value={value:g} is not possible: use "fps", "duration", '
                '"stride" with a whole number, or "share" with a number up to 1'
            )
    if by != "share":
        window = math.ceil(length * distance - ROUNDING)
    return np.floor(np.arange(length) * distance + ROUNDING).astype(np.int64), window


def repeated_clips(lengths: Sequence[tuple[int, float]], clip: ClipSpec, clips: int) -> np.ndarray:
    """Marks the clips of a video that show the same frames as the clip before them.

    This happens in short videos: all clips of a video not longer than one clip are equal, if they
    are spread.

    Args:
      lengths: number of frames and frame rate of each video.

    Returns:
      bool [videos, clips].
    """

    @functools.cache
    def of_video(frames: int, fps: float) -> np.ndarray:
        starts = [clip.frame_ids(frames, fps, None, (part, clips))[0][0] for part in range(clips)]
        return np.diff(starts, prepend=-1) == 0

    return np.array([of_video(*length) for length in lengths]).reshape(-1, clips)
