"""Turns one recording into one record of a prepared set: crops, blackens, resizes, writes JPEGs.

Frames are processed one by one, so that memory does not grow with the length of a recording. A
short recording is decoded once and held in memory; a long one is decoded a second time after its
sector is known.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from echojepa_jax.data.formats import decode, video_record
from echojepa_jax.data.formats.video_info import UnreadableVideo
from echojepa_jax.preparation import sector
from echojepa_jax.preparation.sector import Box, Motion, NoSector, Screens, Sector

JPEG_QUALITY = 95
_MAX_HELD_BYTES = 2**28  # decoded frames of one recording that may stay in memory
_SAMPLED_FRAMES = 64  # evenly spaced frames in which the sector and colours are searched
# A picture is coloured if more than this share of its pixels have channels that differ by more than
# so many grey levels. Coding a grey picture makes smaller and fewer differences.
_COLOUR_LEVELS, _COLOUR_SHARE = 32, 0.002


@dataclasses.dataclass(frozen=True)
class Recording:
    """A video to prepare; `id`, `patient` and `study` are the values that the record will contain.

    clean: make everything outside the ultrasound sector black.
    trusted: the header states that the frames of `path` show an ultrasound region and nothing else.
    """

    path: str
    id: str
    frames: int
    fps: float
    patient: str = ""
    study: str = ""
    view: str = ""
    split: str = ""
    spacing: tuple[float, float] = (0.0, 0.0)
    targets: Mapping[str, float] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    clean: bool = True
    trusted: bool = False


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A record as bytes, and its row of the index."""

    record: bytes
    facts: dict[str, Any]


def encode(recording: Recording, size: int) -> Encoded:
    """Returns the record of a recording.

    Args:
      size: side of the square frames in pixels: the longer side is scaled down to it, and the
        shorter side padded with black. Smaller pictures are padded, never enlarged.

    Raises:
      UnreadableVideo: a frame does not decode.
      NoSector: the recording shows no ultrasound sector, or also another screen.
    """
    ids = range(recording.frames)
    sampled = ids[:: max(1, -(-recording.frames // _SAMPLED_FRAMES))]
    first = next(decode.frames(recording.path, [0]))
    held = None
    if recording.frames * first.nbytes <= _MAX_HELD_BYTES:
        held = list(decode.frames(recording.path, ids))
        sample: Iterable[np.ndarray] = (held[k] for k in sampled)
    else:
        sample = decode.frames(recording.path, sampled)
    height, width = first.shape[:2]
    found, coloured = _sector_and_colours(sample, recording)
    box: Box = found.box if found else (0, 0, height, width)
    cut = _Cut(box, found.mask() if found else None, size, coloured)
    frames = held if held is not None else decode.frames(recording.path, ids)
    corners = cut.moved(found.corners) if found else np.zeros((0, 2), np.int32)
    jpegs = list(cut.jpegs(frames, Screens(corners, (cut.side, cut.side)) if found else None))
    if len(jpegs) != recording.frames:
        raise UnreadableVideo(
            f"truncated: the scan counted {recording.frames} frames, {len(jpegs)} decode"
        )
    facts: dict[str, Any] = {
        **{name: getattr(recording, name) for name in ("id", "patient", "study", "view", "split")},
        "frames": len(jpegs),
        "fps": recording.fps,
        "height": cut.side,
        "width": cut.side,
        "spacing": [distance / cut.scale for distance in recording.spacing],
        "grey": not coloured,
        "content": decode.content(recording.path),
        "checksum": video_record.checksum(jpegs),
        "targets": dict(sorted(recording.targets.items())),
        "classes": dict(sorted(recording.classes.items())),
        "bytes": sum(map(len, jpegs)),
    }
    features = {
        **{name: [facts[name]] for name in ("id", "patient", "study", "view")},
        **{name: [facts[name]] for name in ("content", "checksum", "fps", "height", "width")},
        "frames": jpegs,
        "spacing": facts["spacing"],
        "sector": corners.ravel().tolist(),
        "target_names": list(facts["targets"]),
        "target_values": list(facts["targets"].values()),
        "class_names": list(facts["classes"]),
        "class_values": list(facts["classes"].values()),
    }
    return Encoded(video_record.pack(features), facts)


def _sector_and_colours(
    frames: Iterable[np.ndarray], recording: Recording
) -> tuple[Sector | None, bool]:
    """The sector (None unless `recording.clean`), and whether the kept pixels have colours."""
    motion, spread = Motion(), None
    for frame in frames:
        if frame.shape[2] == 3:
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            # Three differences of two channels are faster than a maximum over an axis.
            red, green, blue = cv2.split(frame)
            colours = cv2.max(cv2.absdiff(red, green), cv2.absdiff(green, blue))
            colours = cv2.max(colours, cv2.absdiff(red, blue))
        else:
            grey, colours = frame[..., 0], np.zeros(frame.shape[:2], np.uint8)
        motion.add(grey)
        spread = colours if spread is None else cv2.max(spread, colours)
    assert spread is not None, "there is a frame"
    found = None
    vivid = spread > _COLOUR_LEVELS
    if recording.clean:
        found = sector.find(motion, any_shape=recording.trusted)
        vivid = vivid[found.mask() > 0]
    return found, bool(vivid.mean() > _COLOUR_SHARE)


class _Cut:
    """Crops, blackens, resizes and codes the frames of one recording."""

    def __init__(self, box: Box, mask: np.ndarray | None, size: int, coloured: bool) -> None:
        top, left, height, width = box
        self._window = slice(top, top + height), slice(left, left + width)
        self._mask = None if mask is None else np.ascontiguousarray(mask[self._window])
        self._coloured = coloured
        self._box = box
        self.scale = min(1.0, size / max(height, width))
        self._size = max(1, round(height * self.scale)), max(1, round(width * self.scale))
        self.side = max(self._size)
        self._offset = (self.side - self._size[0]) // 2, (self.side - self._size[1]) // 2

    def jpegs(self, frames: Iterable[np.ndarray], screens: Screens | None) -> Iterator[bytes]:
        """Yields the coded frames.

        Args:
          screens: looks for a change of the screen; None = do not check.

        Raises:
          NoSector: the screen changes.
        """
        for k, frame in enumerate(frames):
            picture = self._picture(frame)
            if screens and screens.changes(picture):
                raise NoSector(
                    f"another screen: frame {k} has nothing in common with the frame before it"
                )
            yield _jpeg(picture)

    def moved(self, corners: np.ndarray) -> np.ndarray:
        """The corners of the sector in the stored frames: int32 [C, 2], x and y in pixels."""
        top, left = self._offset
        return sector.scaled(corners, self._box, self._size) + np.array([left, top], np.int32)

    def _picture(self, frame: np.ndarray) -> np.ndarray:
        part = np.ascontiguousarray(frame[self._window])
        if not self._coloured and part.shape[2] == 3:
            part = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
        elif self._coloured:
            part = cv2.cvtColor(part, cv2.COLOR_RGB2BGR)  # OpenCV's order
        if self._mask is not None:
            part = cv2.bitwise_and(part, part, mask=self._mask)
        if self.scale < 1:
            part = cv2.resize(part, self._size[::-1], interpolation=cv2.INTER_AREA)
        (top, left), (height, width) = self._offset, self._size
        if height == width:
            return part
        below, right = self.side - height - top, self.side - width - left
        return cv2.copyMakeBorder(part, top, below, left, right, cv2.BORDER_CONSTANT, value=0)


def _jpeg(picture: np.ndarray) -> bytes:
    # The colours of Doppler change from pixel to pixel, so chroma is not subsampled.
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    _, coded = cv2.imencode(
        ".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling * (picture.ndim == 3)]
    )
    return coded.tobytes()
