"""What all decoders share: facts of a file, the error for unreadable files, notes and checks."""

import dataclasses
import os
import stat
from collections.abc import Sequence

import numpy as np


class UnreadableVideo(Exception):
    """A file whose frames cannot be read; str(e) is the reason, one short sentence without a path.

    The words before the first colon are the category under which summaries count the file
    ("truncated: ...").
    """


@dataclasses.dataclass(frozen=True, slots=True)
class VideoInfo:
    """The measured facts of a file.

    frames: number of frames in the file. fps: frames a second; 0 = unknown.
    height, width: in pixels, after cropping to the ultrasound region.
    note: notes on the pixels or times, joined by `notes`; "" = none.
    spacing: distance of neighbouring pixels in mm, down and right; 0 = unknown.
    modality: DICOM's code of the modality, such as "US"; "" = unknown.
    """

    frames: int
    fps: float
    height: int
    width: int
    note: str = ""
    spacing: tuple[float, float] = (0.0, 0.0)
    modality: str = ""


ULTRASOUND = "US"
# Notes on DICOM frames that were not cropped.
NO_REGION = "no ultrasound region: the whole frame is used"
STALE_REGION = "stale ultrasound region: the whole frame is used"
NOT_2D = "no two-dimensional ultrasound region: the whole frame is used"
REGION_NOTES = (NO_REGION, STALE_REGION, NOT_2D)
# A note on frames with varying time between them.
VARIABLE_RATE = "variable frame rate: the mean is used"
# Notes on a header with several times.
RATES_DIFFER = (
    "FrameTime, FrameTimeVector and CineRate disagree: the one that FrameIncrementPointer names is "
    "preferred"
)
NEGATIVE_TIMES = "FrameTimeVector contains negative times: the others are used"
NO_POINTED_RATE = "the element that FrameIncrementPointer names has no rate: another one is used"
# Notes on pictures that contradict their header.
COLOURS_DIFFER = "PhotometricInterpretation contradicts the pictures: the header is ignored"
PLANES_DIFFER = "PlanarConfiguration contradicts the pixels: the header is ignored"
DEPTH_DIFFERS = "BitsStored or HighBit contradict the pixels: the header is ignored"
DEPTH_UNKNOWN = "more than 8 bits without a window: the largest values in the file set white"
WINDOW_UNUSED = "the window would leave only black and white: it is ignored"
# Notes on how a file should be displayed.
NON_SQUARE = "non-square pixels: they stay as stored"
INTERLACED = "interlaced: every frame shows two moments in alternating lines"
ODD_ANGLE = "turned by an angle that is not a multiple of 90 degrees: frames stay as stored"
# Notes on the container of a video.
CUT_BETWEEN_KEYS = "cut between key frames: frames that depend on missing ones are skipped"
SEVERAL_TRACKS = "several video tracks: the one with the most frames is used"

_RATES = (0.5, 10_000.0)  # plausible frames a second; other values are mistakes
_SQUARE = 0.01  # relative difference between the sides of a pixel that counts as square
_IRREGULAR = 0.02  # share of the times between frames that may deviate
MAX_FRAME_PIXELS = 2**25  # 8K television; a larger frame is damage, or does not fit into memory


def notes(*parts: str) -> str:
    """Joins several notes into one text, without empty ones."""
    return "; ".join(filter(None, parts))


def each_note(note: str) -> list[str]:
    """The single notes of `notes`."""
    return note.split("; ") if note else []


def has_region(info: VideoInfo) -> bool:
    """Whether a DICOM file was cropped to its ultrasound region, by its notes."""
    return not set(each_note(info.note)) & set(REGION_NOTES)


def not_ultrasound(modality: str) -> str:
    """A note on a DICOM file that is not known to be ultrasound."""
    if not modality:
        return "the header names no modality: the file is treated as ultrasound"
    return f"the header states modality {modality}, which is not ultrasound"


def is_square(height: float, width: float) -> bool:
    """Whether pixels with these sides are square, up to rounding."""
    return abs(height - width) <= _SQUARE * max(height, width)


def possible_rate(fps: float) -> float:
    """The frame rate, or 0 (unknown) for one that no machine has, as when ms are written as s."""
    return fps if _RATES[0] <= fps <= _RATES[1] else 0.0


def is_regular(times: Sequence[float], resolution: float) -> bool:
    """Whether the time between frames is constant, up to rounding and a few dropped frames.

    Args:
      times: times of the frames in any unit.
      resolution: resolution of the clock in that unit.
    """
    gaps = np.diff(np.sort(times))
    if gaps.size < 2:
        return True
    usual = float(np.median(gaps))
    # A clock that counts milliseconds writes 30 frames a second as 33, 33 and 34.
    off = np.abs(gaps - usual) > max(0.25 * usual, resolution)
    return bool(off.mean() <= _IRREGULAR)


def check_size(height: int, width: int) -> None:
    """Checks that a frame is not too large to decode.

    Raises:
      UnreadableVideo: it is.
    """
    if height * width > MAX_FRAME_PIXELS:
        raise UnreadableVideo(f"unsupported: frames of {height} x {width} pixels")


def first_bytes(path: str) -> bytes:
    """The first 132 bytes of a file, which identify its format.

    Raises:
      UnreadableVideo: the file is missing, empty, a folder, or cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise UnreadableVideo("not a video file: a folder or a special file")
        with open(path, "rb") as file:
            head = file.read(132)
    except (FileNotFoundError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UnreadableVideo("missing: no such file") from error
    except OSError as error:
        raise UnreadableVideo(f"unreadable: {error.strerror}") from error
    if not head:
        raise UnreadableVideo("empty: the file has 0 bytes")
    return head


def wanted_frames(frame_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split ascending `frame_ids` [T] into distinct ids [U], and the row of each id in them [T].

    Raises:
      ValueError: there are no ids, or they are negative or out of order (a mistake of the caller).
    """
    ids = np.asarray(frame_ids)
    if ids.ndim != 1 or ids.size == 0 or ids[0] < 0 or np.any(np.diff(ids) < 0):
        raise ValueError(f"frame_ids must be an ascending row of indices from 0 on, not {ids}")
    return np.unique(ids, return_inverse=True)


def fewer_frames(held: int, asked: int) -> UnreadableVideo:
    """The error for a request of frame `asked` in a file with `held` frames."""
    return UnreadableVideo(f"truncated: frame {asked} was requested, file holds {held} frames")
