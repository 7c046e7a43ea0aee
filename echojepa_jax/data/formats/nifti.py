"""Sequences in NIfTI files (CAMUS), read with nibabel: grey arrays [x, y, time].

The first axis of NIfTI points to the right and its second axis down, so frames are transposed. Few
sets have the time between frames in the header; CAMUS has it in a file beside the sequence.
"""

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from echojepa_jax.data.formats.video_info import (
    UnreadableVideo,
    VideoInfo,
    check_size,
    fewer_frames,
    first_bytes,
)


def probe(path: str) -> VideoInfo:
    """The facts of a sequence; reads the last frame, because a truncated file ends before it.

    Raises:
      UnreadableVideo: the file is not NIfTI, truncated, or not a grey sequence.
    """
    with _opened(path) as image:
        width, height, count = image.shape
        for _ in _frames(image, [count - 1]):
            pass
        right, down, seconds = (float(zoom) for zoom in image.header.get_zooms())
        # Without a unit of time, the third step is a default of the program that wrote the file.
        timed = image.header.get_xyzt_units()[1] == "sec" and 0 < seconds < 1
    return VideoInfo(count, 1 / seconds if timed else 0.0, height, width, spacing=(down, right))


def frames(path: str, ids: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames `ids` (ascending, none twice) as uint8 [H, W, 3].

    Raises:
      UnreadableVideo: as `probe`, or the file holds fewer frames than asked for.
    """
    with _opened(path) as image:
        if ids[-1] >= image.shape[2]:
            raise fewer_frames(image.shape[2], ids[-1])
        yield from _frames(image, ids)


def coded(path: str) -> Iterator[bytes]:
    """Yield the pixels.

    Raises:
      UnreadableVideo: as `probe`.
    """
    with _opened(path) as image:
        yield np.asarray(image.dataobj).tobytes()


def mask(path: str) -> np.ndarray:
    """A picture of labels, uint8 [H, W]; the file has the axes [x, y], or a third one of length 1.

    Raises:
      UnreadableVideo: as `probe`, or the labels are not whole numbers from 0 to 255.
    """
    with _opened(path, mask=True) as image:
        labels = np.asarray(image.dataobj).reshape(image.shape[:2]).T
    whole = np.rint(labels)
    if not (whole == labels).all() or whole.min() < 0 or whole.max() > 255:
        raise UnreadableVideo("unsupported: labels in NIfTI that are not whole numbers to 255")
    return np.ascontiguousarray(whole.astype(np.uint8))


@contextlib.contextmanager
def _opened(path: str, mask: bool = False) -> Iterator[Any]:
    # Few data sets need it, and every process that decodes would wait for it.
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    errors = (
        *(ImageFileError, HeaderDataError, WrapStructError, zlib.error),
        *(EOFError, OSError, OverflowError, TypeError, ValueError),
    )
    first_bytes(path)
    try:
        image: Any = nibabel.load(path)
        shape = image.shape
        if mask and (len(shape) < 2 or shape[2:] not in ((), (1,))):
            raise UnreadableVideo("unsupported: not one picture of labels in NIfTI")
        if (not mask and len(shape) != 3) or min(shape) < 1:
            raise UnreadableVideo("unsupported: not a sequence of grey frames in NIfTI")
        check_size(image.shape[1], image.shape[0])
        yield image
    except errors as error:
        raise UnreadableVideo("damaged: the NIfTI file cannot be read") from error


def _frames(image: Any, ids: Sequence[int]) -> Iterator[np.ndarray]:
    # Read at once, because a compressed file can only be read from its start.
    volume = np.asarray(image.dataobj[..., ids[0] : ids[-1] + 1])
    if not (volume.min() >= 0 and volume.max() <= 255):  # in this form, NaN is rejected too
        raise UnreadableVideo("unsupported: NIfTI pixels outside 0 to 255")
    for k in ids:
        plane = np.ascontiguousarray(volume[..., k - ids[0]].T)
        yield np.repeat(np.rint(plane).astype(np.uint8)[..., None], 3, axis=2)
