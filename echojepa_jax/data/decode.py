"""The one door to pixels: measure a file, or decode chosen frames of it, whatever its format.

Content decides, not the name: DICOM by its mark ("DICM" at byte 128) or a .dcm name, video
otherwise.
"""

import numpy as np

from echojepa_jax.data import dicom, video
from echojepa_jax.data.video_info import UnreadableVideo, VideoInfo, first_bytes

__all__ = ["UnreadableVideo", "VideoInfo", "decode", "probe"]


def probe(path: str) -> VideoInfo:
    """The facts of a file: all its frames are counted, the first one is decoded.

    Raises:
      UnreadableVideo: there is no such video, or not all of it.
    """
    return dicom.probe(path) if _is_dicom(path) else video.probe(path)


def decode(path: str, frame_ids: np.ndarray) -> np.ndarray:
    """Decode the frames `frame_ids` [T] (ascending, may repeat) to RGB uint8 [T, H, W, 3].

    DICOM frames are cropped to their ultrasound region. No frame is ever replaced by another.

    Raises:
      UnreadableVideo: the file is missing or damaged, or holds fewer frames than asked for.
      ValueError: `frame_ids` is empty, negative or out of order.
    """
    return dicom.decode(path, frame_ids) if _is_dicom(path) else video.decode(path, frame_ids)


def _is_dicom(path: str) -> bool:
    return first_bytes(path)[128:132] == b"DICM" or path.lower().endswith((".dcm", ".dicom"))
