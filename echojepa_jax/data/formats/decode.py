"""Measures a file of any format, or decodes some of its frames; all pixels are read here.

The format is recognised by content: DICOM by its first bytes or a .dcm name, NIfTI by its name, a
PNG or JPEG picture by its first bytes, and a record of a prepared set by the form of its path. Any
other file is treated as a video.
"""

import hashlib
from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np

from echojepa_jax.data.formats import dicom_mark, nifti, video, video_record
from echojepa_jax.data.formats import image as still
from echojepa_jax.data.formats.video_info import (
    UnreadableVideo,
    VideoInfo,
    first_bytes,
    wanted_frames,
)

__all__ = [
    *("UnreadableVideo", "VideoInfo"),
    *("content", "decode", "frames", "identity", "is_dicom", "probe", "stacked"),
]


def probe(path: str) -> VideoInfo:
    """Measures a file: counts all its frames, and decodes the first one.

    Raises:
      UnreadableVideo: the file is missing, incomplete, damaged or not supported.
    """
    return _format_of(path).probe(path)


def frames(path: str, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames `ids` (ascending, none twice) as uint8 [H, W, 3], one by one.

    Frames of a prepared set are [H, W, 1] if they are grey. DICOM frames are cropped to their
    ultrasound region. A missing frame is an error, and never replaced by another one.

    Raises:
      UnreadableVideo: the file is missing or damaged, or has fewer frames.
    """
    shape = None
    for image in _format_of(path).frames(path, ids):
        shape = shape or image.shape
        if image.shape != shape:
            raise UnreadableVideo("damaged: the picture size changes within the video")
        yield image


def decode(path: str, frame_ids: np.ndarray, *, grey: bool = False) -> np.ndarray:
    """Decode the frames `frame_ids` [T] (ascending, may repeat) to RGB uint8 [T, H, W, 3].

    Args:
      grey: the pictures are known to be grey (`Sample.grey`): return one channel, [T, H, W, 1].

    Raises:
      UnreadableVideo: see `frames`.
      ValueError: `frame_ids` is empty, negative or out of order.
    """
    ids, rows = wanted_frames(frame_ids)
    return stacked(list(frames(path, ids.tolist())), rows, grey=grey)


def stacked(images: list[np.ndarray], rows: np.ndarray, *, grey: bool) -> np.ndarray:
    """The frames `rows` [T] of `images` as one array: [T, H, W, 3], or [T, H, W, 1] if grey."""
    if grey:
        images = [image[..., :1] for image in images]
    elif images[0].shape[2] == 1:
        images = [np.repeat(image, 3, axis=2) for image in images]
    # Most clips contain no frame twice, and need no copy of the list.
    return np.stack(images if len(images) == len(rows) else [images[row] for row in rows])


def content(path: str, limit: int | None = None) -> str:
    """SHA-256 of the coded pictures; it is the same for copies with other names and headers.

    Args:
      limit: stop reading after at least so many bytes; None = read all.

    Raises:
      UnreadableVideo: the file cannot be read.
    """
    if video_record.is_record(path):
        return video_record.content(path)
    digest, size = hashlib.sha256(), 0
    for block in _format_of(path).coded(path):
        digest.update(block)
        size += len(block)
        if limit is not None and size >= limit:
            break
    return digest.hexdigest()


def identity(path: str) -> tuple[str, str]:
    """The patient and the study in a file's header; "" in formats without them.

    Raises:
      UnreadableVideo: the file cannot be read.
    """
    return _dicom().identity(path) if is_dicom(path) else ("", "")


def is_dicom(path: str) -> bool:
    """Whether a file is DICOM, by its first bytes or its name.

    Raises:
      UnreadableVideo: the file cannot be read.
    """
    return _other_format_of(path) is None


def _dicom() -> ModuleType:
    """Imported when it is needed: most data workers never read a DICOM file."""
    from echojepa_jax.data.formats import dicom

    return dicom


def _format_of(path: str) -> ModuleType:
    return _other_format_of(path) or _dicom()


def _other_format_of(path: str) -> ModuleType | None:
    """The format of a file; None for DICOM, so that its module is not imported to ask."""
    if video_record.is_record(path):
        return video_record
    if path.lower().endswith((".nii", ".nii.gz")):
        return nifti
    head = first_bytes(path)
    if dicom_mark.is_marked(head) or path.lower().endswith((".dcm", ".dicom")):
        return None
    return still if still.is_picture(head) else video
