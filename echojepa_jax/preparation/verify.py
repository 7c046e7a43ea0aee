"""Verifies prepared shards: checks that they are complete and contain nothing that identifies.

It checks checksums, sizes and the form of every text. Pixels outside the sector must be black. On
the rim inside the sector a detector looks for burned-in text; it may miss text, and may report
text where there is none.
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
_SECONDS_PER_SHARD = 3600.0
_PSEUDONYM = re.compile(r"[0-9a-f]{16}")
# JPEG segments that only describe the picture: JFIF header, tables, frame, restart interval.
_PICTURE_SEGMENTS = {0xE0, 0xDB, 0xC0, 0xC4, 0xDD}
_RINGING = 40  # grey levels that JPEG may leave in black close to an edge
_EDGE = 4  # pixels around the sector that scaling may have changed
# Where to search for text: along the rim of the sector; everywhere, if frames were not cut to a
# sector; or nowhere, in published sets.
_AT_THE_RIM, _EVERYWHERE, _NOWHERE = "rim", "everywhere", "nowhere"
# Width of the rim inside the sector that is searched: a share of the side, and a minimum in pixels.
_RIM, _RIM_PIXELS = 1 / 10, 12


@dataclasses.dataclass(frozen=True)
class _Part:
    """A shard, and the rows of the index for its records."""

    file: str
    rows: Sequence[Mapping[str, Any]]


def verify(folder: Path, workers: int) -> list[str]:
    """Returns everything that is wrong with a prepared set, one sentence per problem.

    Raises:
      UserError: there is no such set, or its index names a shard that is missing.
    """
    about = shards.about(str(folder))
    rows = shards.rows(str(folder))
    problems = list(_files(folder, about["files"]))
    if extra := shards.unknown_columns(str(folder)):
        problems.append(f"{folder / shards.INDEX}: has unknown columns: {', '.join(extra)}")
    if shards.checksum_of_index(str(folder)) != about.get("index"):
        problems.append(f"{folder / shards.INDEX}: was changed after the set was made")
    by_shard: dict[str, list[Mapping[str, Any]]] = {name: [] for name in about["files"]}
    for row in rows:
        if row["shard"] not in by_shard:
            raise UserError(
                f"{folder / shards.INDEX} names the shard {row['shard']!r}, which "
                f"{shards.PREPARED} does not list: copy the set again, or prepare it again"
            )
        by_shard[row["shard"]].append(row)
    parts = [_Part(str(folder / name), part) for name, part in by_shard.items()]
    check = partial(_check_part, search=_where_to_search(about), hashed=about["hashed_ids"])
    with Guard(workers, _SECONDS_PER_SHARD) as guard:
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
            yield f"{path}: is missing, or is not {size} bytes long"


def _where_to_search(about: Mapping[str, Any]) -> str:
    """Where to search the frames of a set for text, one of the three constants above."""
    if about["clean"]:
        return _AT_THE_RIM
    return _NOWHERE if about["kind"] in PUBLIC else _EVERYWHERE


def _check_part(part: _Part, search: str, hashed: bool) -> list[str]:
    """The problems of the records of one shard."""
    problems = []
    held = video_record.count(part.file)
    if held != len(part.rows):
        problems.append(f"{part.file}: contains {held} records, the index lists {len(part.rows)}")
    for row in part.rows:
        where = f"{part.file}#{row['record']}"
        try:
            problems += [f"{where}: {text}" for text in _check_record(where, row, search, hashed)]
        except UnreadableVideo as error:
            problems.append(f"{where}: {error}")
        # The checks raise these on a record whose features are malformed.
        except (ValueError, KeyError, IndexError, cv2.error) as error:
            problems.append(f"{where}: is malformed ({type(error).__name__})")
    return problems


def _check_record(path: str, row: Mapping[str, Any], search: str, hashed: bool) -> Iterator[str]:
    features = video_record.read(path)
    if extra := sorted(set(features) - set(video_record.KINDS)):
        yield f"has unknown features: {', '.join(extra)}"
    for name in ("id", "patient", "study", "view", "content", "checksum", "height", "width"):
        if features[name] != [row[name]]:
            yield f"{name} differs from the index"
    # Records store numbers in single precision.
    labels = dict(zip(features["target_names"], features["target_values"], strict=True))
    for name, mine, other in (
        ("fps", features["fps"], [row["fps"]]),
        ("spacing", features["spacing"], row["spacing"]),
        (
            "targets",
            [labels[k] for k in sorted(labels)],
            [x for _, x in sorted(row["targets"].items())],
        ),
    ):
        if not _same(mine, other):
            yield f"{name} differs from the index"
    if sorted(labels) != sorted(row["targets"]):
        yield "target names differ from the index"
    if dict(zip(features["class_names"], features["class_values"], strict=True)) != row["classes"]:
        yield "classes differ from the index"
    if not row["shard"].startswith(f"{shards.DATASET}-{row['split']}."):
        yield "split differs from the shard's name"
    yield from _check_texts(features, hashed)
    jpegs = features["frames"]
    if len(jpegs) != row["frames"] or video_record.checksum(jpegs) != row["checksum"]:
        yield "frames do not match their checksum"
        return
    if marked := [k for k, jpeg in enumerate(jpegs) if not _is_plain(jpeg)]:
        yield f"frame {marked[0]} contains a comment or other metadata"
    lowest = highest = None
    corners = np.array(features["sector"], np.int32).reshape(-1, 2)
    screens = Screens(corners, (row["height"], row["width"])) if len(corners) else None
    frames = video_record.decode_frames(video_record.fetch(path), range(len(jpegs)))
    for k, frame in enumerate(frames):
        if frame.shape[:2] != (row["height"], row["width"]):
            yield (
                f"frame {k} has {frame.shape[0]} x {frame.shape[1]} pixels, the index states "
                f"{row['height']} x {row['width']}"
            )
            return
        bright = frame.max(axis=2)
        if screens and screens.changes(frame):
            yield f"frame {k} shows another screen than the one before it"
        lowest = bright if lowest is None else np.minimum(lowest, bright)
        highest = bright if highest is None else np.maximum(highest, bright)
    if lowest is None or highest is None or search == _NOWHERE:
        return
    if search == _EVERYWHERE:
        yield from _burned_texts(lowest, highest, np.ones(lowest.shape, np.uint8))
    else:
        yield from _check_pixels(lowest, highest, corners)


def _same(mine: Sequence[float], other: Sequence[float]) -> bool:
    return len(mine) == len(other) and np.allclose(mine, other, rtol=1e-6, atol=0, equal_nan=True)


def _check_texts(features: Mapping[str, Sequence[Any]], hashed: bool) -> Iterator[str]:
    for name in ("id", "patient", "study"):
        (text,) = features[name]
        if hashed and text and not _PSEUDONYM.fullmatch(text):
            yield f"{name} is not a pseudonym"
    for text in (*features["view"], *features["target_names"], *features["class_names"]):
        if not shards.WORD.fullmatch(text):
            yield "the name of a view or a label is too long or has unusual characters"
    if not all(map(shards.is_class, features["class_values"])):
        yield "the name of a class is too long or has invisible characters"


def _check_pixels(lowest: np.ndarray, highest: np.ndarray, corners: np.ndarray) -> Iterator[str]:
    if len(corners) < 3:
        yield "states no sector, so nothing was made black"
        return
    inside = np.zeros(lowest.shape, np.uint8)
    cv2.fillConvexPoly(inside, corners, 1)
    if (highest[cv2.dilate(inside, _disc(_EDGE)) == 0] > _RINGING).any():
        yield "is not black outside the ultrasound sector"
    # Skip the edge itself: it is as sharp and still as text.
    outer = 2 * _EDGE
    inner = max(outer + _RIM_PIXELS, round(lowest.shape[0] * _RIM))
    rim = _shrunk(inside, outer) - _shrunk(inside, inner)
    yield from _burned_texts(lowest, highest, rim)


def _burned_texts(lowest: np.ndarray, highest: np.ndarray, where: np.ndarray) -> Iterator[str]:
    if found := burned_text.find(lowest, highest, where):
        top, left, height, width = found[0]
        yield f"shows what looks like text, {width} x {height} pixels at x = {left}, y = {top}"


def _shrunk(mask: np.ndarray, pixels: int) -> np.ndarray:
    # Outside the frame is outside the sector.
    return cv2.erode(mask, _disc(pixels), borderType=cv2.BORDER_CONSTANT, borderValue=0)


def _disc(radius: int) -> np.ndarray:
    size = 2 * radius + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def _is_plain(jpeg: bytes) -> bool:
    """Whether a JPEG contains a picture and nothing else."""
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        marker = jpeg[position + 1]
        if marker == 0xDA:  # the coded picture follows, up to the end marker
            return jpeg.endswith(b"\xff\xd9") and jpeg.count(b"\xff\xd9") == 1
        if marker not in _PICTURE_SEGMENTS:
            return False
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4])
    return False
