"""Reads prepared shards again: are they whole, and is there anything in them that should not be?

It proves checksums, sizes and the form of every text. Pixels outside of the sector must be black;
on the rim inside of it a detector looks for burned-in text. That one can be wrong both ways.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from echojepa_jax.data import shards
from echojepa_jax.data.formats import video_record
from echojepa_jax.data.formats.video_info import UnreadableVideo
from echojepa_jax.preparation import burned_text
from echojepa_jax.preparation.plan import PUBLIC
from echojepa_jax.preparation.sector import Screens
from echojepa_jax.runtime.sandbox import Failed, Guard
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.progress import with_progress

SUMMARY = "summary.html"
_OTHER_FILES = {shards.INDEX, shards.PREPARED, SUMMARY, "dataset_info.json", "features.json"}
_SECONDS_A_SHARD = 3600.0
_PSEUDONYM = re.compile(r"[0-9a-f]{16}")
# Of a JPEG, beside the picture itself: the plain header and the restart interval.
_PICTURE_SEGMENTS = {0xE0, 0xDB, 0xC0, 0xC4, 0xDD}
_RINGING = 40  # grey levels that JPEG may leave in black, close to an edge
_EDGE = 4  # pixels around the sector that scaling may have touched
# Where text is looked for: along the rim of the sector, or, of what was not cut to one, everywhere;
# published sets are not looked at.
_AT_THE_RIM, _EVERYWHERE, _AS_PUBLISHED = "rim", "everywhere", "nowhere"
# How far inside of the sector text is looked for: a share of the side, and at least so wide.
_RIM, _RIM_PIXELS = 1 / 10, 12


@dataclasses.dataclass(frozen=True)
class _Part:
    """A shard, and what the index says of its records."""

    file: str
    rows: Sequence[Mapping[str, Any]]


def verify(folder: Path, workers: int) -> list[str]:
    """Everything that is wrong with a prepared set, a sentence each.

    Raises:
      UserError: there is no such set.
    """
    about = shards.about(str(folder))
    rows = shards.rows(str(folder))
    problems = list(_files(folder, about["files"]))
    if extra := shards.strange_columns(str(folder)):
        problems.append(f"{folder / shards.INDEX}: has columns of its own: {', '.join(extra)}")
    if shards.checksum_of_index(str(folder)) != about.get("index"):
        problems.append(f"{folder / shards.INDEX}: is not the one that was made with the set")
    by_shard: dict[str, list[Mapping[str, Any]]] = {name: [] for name in about["files"]}
    for row in rows:
        if row["shard"] not in by_shard:
            raise UserError(f"{folder / shards.INDEX} names {row['shard']}, which is not there")
        by_shard[row["shard"]].append(row)
    parts = [_Part(str(folder / name), part) for name, part in by_shard.items()]
    check = partial(_check_part, look=_look_of(about), hashed=about["hashed_ids"])
    with Guard(workers, _SECONDS_A_SHARD) as guard:
        results = with_progress(guard.over(check, parts), len(parts), "verify")
        for part, found in zip(parts, results, strict=True):
            problems += [f"{part.file}: {found.reason}"] if isinstance(found, Failed) else found
    return problems


def _files(folder: Path, files: Mapping[str, int]) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.name not in files and path.name not in _OTHER_FILES:
            yield f"{path}: does not belong to the set"
    for name, size in files.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            yield f"{path}: missing, or not {size} bytes long"


def _look_of(about: Mapping[str, Any]) -> str:
    if about["clean"]:
        return _AT_THE_RIM
    return _AS_PUBLISHED if about["kind"] in PUBLIC else _EVERYWHERE


def _check_part(part: _Part, look: str, hashed: bool) -> list[str]:
    """What is wrong with the records of one shard."""
    problems = []
    held = video_record.count(part.file)
    if held != len(part.rows):
        problems.append(f"{part.file}: holds {held} records, the index names {len(part.rows)}")
    for row in part.rows:
        where = f"{part.file}#{row['record']}"
        try:
            problems += [f"{where}: {text}" for text in _check_record(where, row, look, hashed)]
        except UnreadableVideo as error:
            problems.append(f"{where}: {error}")
        # What a record of another form makes of the checks.
        except (ValueError, KeyError, IndexError, cv2.error) as error:
            problems.append(f"{where}: is of another form ({type(error).__name__})")
    return problems


def _check_record(path: str, row: Mapping[str, Any], look: str, hashed: bool) -> Iterator[str]:
    features = video_record.read(path)
    if extra := sorted(set(features) - set(video_record.KINDS)):
        yield f"holds what it should not: {', '.join(extra)}"
    for name in ("id", "patient", "study", "view", "content", "checksum", "height", "width"):
        if features[name] != [row[name]]:
            yield f"{name} is not what the index says"
    # Records hold single precision.
    labels = dict(zip(features["target_names"], features["target_values"], strict=True))
    for name, mine, other in (
        ("fps", features["fps"], [row["fps"]]),
        ("spacing", features["spacing"], row["spacing"]),
        ("targets", [labels[k] for k in sorted(labels)], _values(row["targets"])),
    ):
        if not _same(mine, other):
            yield f"{name} is not what the index says"
    if sorted(labels) != sorted(row["targets"]):
        yield "targets have other names in the index"
    if dict(zip(features["class_names"], features["class_values"], strict=True)) != row["classes"]:
        yield "classes are not what the index says"
    if not row["shard"].startswith(f"{shards.DATASET}-{row['split']}."):
        yield "split is not what the shard's name says"
    yield from _check_texts(features, hashed)
    jpegs = features["frames"]
    if len(jpegs) != row["frames"] or video_record.checksum(jpegs) != row["checksum"]:
        yield "frames are not what the checksum says"
        return
    if marked := [k for k, jpeg in enumerate(jpegs) if not _is_plain(jpeg)]:
        yield f"frame {marked[0]} carries a comment or other metadata"
    lowest = highest = None
    corners = np.array(features["sector"], np.int32).reshape(-1, 2)
    screens = Screens(corners, (row["height"], row["width"])) if len(corners) else None
    for k, frame in enumerate(
        video_record.decode_frames(video_record.fetch(path), range(len(jpegs)))
    ):
        if frame.shape[:2] != (row["height"], row["width"]):
            yield f"a frame has the size {frame.shape[:2]}"
            return
        bright = frame.max(axis=2)
        if screens and screens.changes(frame):
            yield f"frame {k} shows another screen than the one before it"
        lowest = bright if lowest is None else np.minimum(lowest, bright)
        highest = bright if highest is None else np.maximum(highest, bright)
    if lowest is None or highest is None or look == _AS_PUBLISHED:
        return
    if look == _EVERYWHERE:
        yield from _texts(lowest, highest, np.ones(lowest.shape, np.uint8))
    else:
        yield from _check_pixels(lowest, highest, corners)


def _values(targets: Mapping[str, float]) -> list[float]:
    return [targets[name] for name in sorted(targets)]


def _same(mine: Sequence[float], other: Sequence[float]) -> bool:
    return len(mine) == len(other) and np.allclose(mine, other, rtol=1e-6, atol=0, equal_nan=True)


def _check_texts(features: Mapping[str, Sequence[Any]], hashed: bool) -> Iterator[str]:
    for name in ("id", "patient", "study"):
        (text,) = features[name]
        if hashed and text and not _PSEUDONYM.fullmatch(text):
            yield f"{name} is no pseudonym"
    for text in (*features["view"], *features["target_names"], *features["class_names"]):
        if not shards.WORD.fullmatch(text):
            yield "a view or a label has a name with unusual characters"
    if not all(map(shards.is_class, features["class_values"])):
        yield "a class has a long name, or one with unusual characters"


def _check_pixels(lowest: np.ndarray, highest: np.ndarray, corners: np.ndarray) -> Iterator[str]:
    if len(corners) < 3:
        yield "says of no sector, so that nothing was made black"
        return
    inside = np.zeros(lowest.shape, np.uint8)
    cv2.fillConvexPoly(inside, corners, 1)
    if (highest[_grown(inside, _EDGE) == 0] > _RINGING).any():
        yield "is not black outside of the ultrasound sector"
    # The edge itself is sharp and still, and no text.
    outer = 2 * _EDGE
    inner = max(outer + _RIM_PIXELS, round(lowest.shape[0] * _RIM))
    rim = _shrunk(inside, outer) - _shrunk(inside, inner)
    yield from _texts(lowest, highest, rim)


def _texts(lowest: np.ndarray, highest: np.ndarray, where: np.ndarray) -> Iterator[str]:
    if found := burned_text.find(lowest, highest, where):
        top, left, height, width = found[0]
        yield f"has what looks like text, {width} x {height} pixels at x = {left}, y = {top}"


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    return cv2.dilate(mask, _disc(pixels))


def _shrunk(mask: np.ndarray, pixels: int) -> np.ndarray:
    # What is outside of the frame is outside of the sector as well.
    return cv2.erode(mask, _disc(pixels), borderType=cv2.BORDER_CONSTANT, borderValue=0)


def _disc(radius: int) -> np.ndarray:
    size = 2 * radius + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def _is_plain(jpeg: bytes) -> bool:
    """Whether a JPEG holds a picture and nothing else."""
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        marker = jpeg[position + 1]
        if marker == 0xDA:  # the picture follows, up to the end mark
            return jpeg.endswith(b"\xff\xd9") and jpeg.count(b"\xff\xd9") == 1
        if marker not in _PICTURE_SEGMENTS:
            return False
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4])
    return False
