"""What the decoders share: a file's facts, the error for an unreadable one, its first bytes."""

import dataclasses
import os
import stat
from collections.abc import Sequence

import numpy as np


class UnreadableVideo(Exception):
    """A file that cannot give its frames; str(e) is the reason: one short sentence, no path.

    The words before the first colon are a category that summaries count by ("truncated: ...").
    """


@dataclasses.dataclass(frozen=True, slots=True)
class VideoInfo:
    """The measured facts of a file: frames it holds, frames a second (0 = the file does not tell).

    `height` and `width` are in pixels, after cropping to the ultrasound region. `spacing` is the
    distance of neighbouring pixels in mm, down and right. `note` says what a reader of the pixels
    should know: "" is nothing, several are joined as `notes` does. `modality` is DICOM's code of
    the kind of machine, such as "US"; "" = unknown.
    """

    frames: int
    fps: float
    height: int
    width: int
    note: str = ""
    spacing: tuple[float, float] = (0.0, 0.0)
    modality: str = ""


ULTRASOUND = "US"
# Notes on what was cropped away from a DICOM's frames, or why nothing was.
NO_REGION = "no ultrasound region: the whole frame is used"
STALE_REGION = "stale ultrasound region: the whole frame is used"
NOT_2D = "no two-dimensional ultrasound region: the whole frame is used"
REGION_NOTES = (NO_REGION, STALE_REGION, NOT_2D)
# A note on frames that are not equally far apart in time.
VARIABLE_RATE = "variable frame rate: the mean is used"
# Notes on a header that tells times more than once.
RATES_DIFFER = "FrameTime, FrameTimeVector and CineRate disagree: the one pointed to is used first"
NO_POINTED_RATE = "the element that FrameIncrementPointer names has no rate: another one is used"
# Notes on pictures that are not what their header says.
COLOURS_DIFFER = "PhotometricInterpretation contradicts the pictures: the pictures are believed"
PLANES_DIFFER = "PlanarConfiguration contradicts the pixels: the pixels are believed"
DEPTH_DIFFERS = "BitsStored or HighBit contradict the pixels: the pixels are believed"
DEPTH_UNTOLD = "more than 8 bits without a window: the values that occur set what is white"
WINDOW_UNUSED = "the window would leave only black and white: it is not used"
# Notes on how a file wants to be shown.
NON_SQUARE = "non-square pixels: they stay as stored"
INTERLACED = "interlaced: every frame shows two moments, line by line"
ODD_ANGLE = "turned by an angle that is not a multiple of 90 degrees: frames stay as stored"
# Notes on a video's container.
CUT_BETWEEN_KEYS = "cut between key frames: frames that need missing ones are left out"
SEVERAL_TRACKS = "several video tracks: the one with the most frames is used"

_RATES = (0.5, 10_000.0)  # frames a second that a recording may have; others are mistakes
_SQUARE = 0.01  # by which height and width of a square pixel may differ
_IRREGULAR = 0.02  # share of the distances between frames that may be odd ones
MAX_FRAME_PIXELS = 2**25  # 8 K television; more is damage, or would not fit a worker's memory


def notes(*parts: str) -> str:
    """Several notes as one; "" are left out."""
    return "; ".join(filter(None, parts))


def each_note(note: str) -> list[str]:
    """The single notes of `notes`."""
    return note.split("; ") if note else []


def has_region(info: VideoInfo) -> bool:
    """Whether nothing says that a DICOM's frames are whole for want of an ultrasound region."""
    return not set(each_note(info.note)) & set(REGION_NOTES)


def not_ultrasound(modality: str) -> str:
    """A note on a DICOM of another machine."""
    if not modality:
        return "the header names no modality: the file is taken as ultrasound"
    return f"modality {modality}: not ultrasound, by its header"


def is_square(height: float, width: float) -> bool:
    """Whether pixels of these sides are squares, but for rounding."""
    return abs(height - width) <= _SQUARE * max(height, width)


def possible_rate(fps: float) -> float:
    """A frame rate, or 0 (unknown) for what no machine makes, as of seconds written as ms."""
    return fps if _RATES[0] <= fps <= _RATES[1] else 0.0


def is_regular(times: Sequence[float], resolution: float) -> bool:
    """Whether frames follow each other at one distance, but for rounding and a few dropped ones.

    Args:
      times: of the frames, in any unit. resolution: of the clock, in that unit.
    """
    gaps = np.diff(np.sort(times))
    if gaps.size < 2:
        return True
    usual = float(np.median(gaps))
    # Clocks of milliseconds write 30 frames a second as 33, 33 and 34.
    off = np.abs(gaps - usual) > max(0.25 * usual, resolution)
    return bool(off.mean() <= _IRREGULAR)


def check_size(height: int, width: int) -> None:
    """Raise UnreadableVideo for a frame that is too large to decode."""
    if height * width > MAX_FRAME_PIXELS:
        raise UnreadableVideo(f"unsupported: frames of {height} x {width} pixels")


def first_bytes(path: str) -> bytes:
    """The first 132 bytes of a file, enough to tell its format.

    Raises:
      UnreadableVideo: the file is missing, empty, a folder, or may not be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
            raise UnreadableVideo("not a video file: a folder or a special file")
        with open(path, "rb") as file:
            head = file.read(132)
    except (FileNotFoundError, ValueError) as error:  # of a zero in the name
        raise UnreadableVideo("missing: no such file") from error
    except OSError as error:
        raise UnreadableVideo(f"unreadable: {error.strerror}") from error
    if not head:
        raise UnreadableVideo("empty: the file has 0 bytes")
    return head


def wanted_frames(frame_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split ascending `frame_ids` [T] into the distinct ones [U] and, per id, its row in them [T].

    Raises:
      ValueError: no id, a negative id, or ids out of order (a mistake of the caller, not the file).
    """
    ids = np.asarray(frame_ids)
    if ids.ndim != 1 or ids.size == 0 or ids[0] < 0 or np.any(np.diff(ids) < 0):
        raise ValueError(f"frame_ids must be one ascending row of indices from 0 on, not {ids}")
    return np.unique(ids, return_inverse=True)


def fewer_frames(held: int, asked: int) -> UnreadableVideo:
    """The error for frame `asked` of a file that holds `held` frames."""
    return UnreadableVideo(f"truncated: frame {asked} was asked for, file holds {held}")
