"""Features on disk: of one model, one data set and one perturbation, made once for all tasks.

A folder holds parts of `PART` videos: `part-00000.npy`, the tokens [clips, N, D],
`means-00000.npy`, the mean token of every clip [clips, D], and after them `part-00000.json`, which
states what they are of, their SHA-256, and which clips could be decoded. A part whose JSON is there
and agrees is verified and kept; any other is made again.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echojepa_jax.data import manifest
from echojepa_jax.data.clips.perturbations import VERSION, Perturbation
from echojepa_jax.data.sample import Sample
from echojepa_jax.evaluation.models import Facts, Model
from echojepa_jax.features.encode import EncodedClips, repeats_of
from echojepa_jax.probes.predict import Features
from echojepa_jax.utils.files import digest_of, whole, write_json

log = logging.getLogger(__name__)

PART = 256  # videos: all tokens of a large encoder are 2 GB
DTYPES = ("float16", "float32")


class Rows:
    """Tokens [m, N, D] of several files as if they were one array that is indexed by integers."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self._ends[-1]), *self._parts[0].shape[1:])

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """float32 [..., N, D] of places int [...]."""
        flat = places.ravel() % self.shape[0]  # -1 is the last one, as of any array
        found = np.empty((len(flat), *self.shape[1:]), np.float32)
        which = np.searchsorted(self._ends, flat, side="right")
        for i, part in enumerate(self._parts):
            rows = np.flatnonzero(which == i)
            if len(rows):
                found[rows] = part[flat[rows] - (self._ends[i] - len(part))]
        return found.reshape(*places.shape, *self.shape[1:])


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which features: of the samples `rows` of a data set `name`.

    clips: of every video. dtype: of the numbers on disk. encoder_dtype: of the computation. frames:
    a frame for each of `rows`, among which a sample may be several times: instead of clips spread
    over the videos, only the tubelet is kept that starts with the frame, with all its tokens.
    """

    name: str
    samples: Sequence[Sample]
    rows: Sequence[int]
    clips: int
    keep: str
    dtype: str
    encoder_dtype: str
    perturbation: Perturbation | None = None
    frames: tuple[int, ...] | None = None

    @property
    def chosen(self) -> list[Sample]:
        return [self.samples[row] for row in self.rows]

    def settings(self, model: Facts) -> dict[str, Any]:
        """All that the features depend on."""
        found: dict[str, Any] = {
            "model": model.fingerprint,
            "data": manifest.fingerprint(self.chosen),
            "clip": model.clip.facts(),
            "clips": self.clips,
            "tokens": self.keep,
            "dtype": self.dtype,
            "encoder_dtype": self.encoder_dtype,
            "perturbation": [*self.perturbation, VERSION] if self.perturbation else [],
        }
        if self.frames is not None:
            found |= {"clips": 1, "tokens": "tubelet", "frames": digest_of(self.frames)}
        return found

    def folder(self, root: Path, model: Facts) -> Path:
        """A folder of these features alone, with a name that a person understands."""
        words = [model.name, self.name, *(word for word in self.perturbation or () if word)]
        words += [] if self.frames is None else ["frames"]
        return root / f"{'-'.join(words)}-{digest_of(self.settings(model))[:10]}"


def make(root: Path, model: Model, wanted: Wanted) -> int:
    """Encodes what is missing on disk; returns the number of clips that were encoded now."""
    folder = wanted.folder(root, model.facts)
    settings = json.loads(json.dumps(wanted.settings(model.facts)))
    samples = wanted.chosen
    todo = []
    for number, start in enumerate(range(0, len(samples), PART)):
        path = folder / f"part-{number:05d}.npy"
        why = problem(path.with_suffix(".json"), settings)
        if why and path.with_suffix(".json").exists():
            log.warning("%s is made again: %s", path, why)
        if why:
            todo.append((path, slice(start, start + PART)))
    if not todo:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    return sum(_write(path, model, part, wanted, settings) for path, part in todo)


def problem(about: Path, settings: dict[str, Any]) -> str:
    """Why files that `write_about` describes have to be made; "" if they are there and whole."""
    try:
        found = json.loads(about.read_text())
        digests = {name: _sha256(about.with_name(name)) for name in found["sha256"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read ({error})"
    if found.get("settings") != settings:
        return "it was made with other settings"
    return "" if found["sha256"] == digests else "its SHA-256 does not match"


def write_about(about: Path, settings: dict[str, Any], files: Sequence[Path], **facts: Any) -> None:
    """Writes the JSON file that states what files beside it were made from, and their SHA-256."""
    digests = {file.name: _sha256(file) for file in files}
    write_json(about, {"settings": settings, "sha256": digests, **facts})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, model: Model, part: slice, wanted: Wanted, settings: dict[str, Any]) -> int:
    samples = wanted.chosen[part]
    if wanted.frames is None:
        own = ~repeats_of(samples, model.facts.clip, wanted.clips)
        pieces = model.encode(samples, own, wanted.perturbation)
    else:
        own = np.ones((len(samples), 1), bool)
        pieces = model.encode_frames(samples, np.array(wanted.frames[part]))
    there, padded, errors, tokens, means = [], 0, {}, [], []
    for piece in _checked(pieces, own):
        tokens.append(piece.tokens.astype(wanted.dtype))
        means.append(tokens[-1].mean(axis=1, dtype=np.float32))
        there += (piece.errors == "").tolist()
        padded += int(np.count_nonzero(piece.padded))
        for row, error in zip(piece.rows, piece.errors, strict=True):
            if error:
                errors[str(int(row))] = str(error)
    of_means = path.with_name(path.name.replace("part", "means"))
    for name, parts in ((path, tokens), (of_means, means)):
        with whole(name) as partial, partial.open("wb") as file:
            np.save(file, np.concatenate(parts))
    facts = {"encoded": len(there), "padded": padded, "there": there, "errors": errors}
    write_about(path.with_suffix(".json"), settings, [path, of_means], **facts)
    return len(there)


def _checked(pieces: Iterator[EncodedClips], own: np.ndarray) -> Iterator[EncodedClips]:
    """The pieces; RuntimeError unless they are of every clip once, in order (F01, F05)."""
    expected = np.argwhere(own)[:, 0]
    done = 0
    for piece in pieces:
        if not np.array_equal(piece.rows, expected[done : done + len(piece.rows)]):
            raise RuntimeError("clips were encoded in another order than that of their videos")
        done += len(piece.rows)
        yield piece
    if done != len(expected):
        raise RuntimeError(f"{done} of {len(expected)} clips were encoded")


def passes(root: Path, model: Facts, wanted: Wanted) -> int:
    """Clips that the model encoded for these features."""
    return sum(about["encoded"] for about in _abouts(wanted.folder(root, model)))


def _abouts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("part-*.json"))]


def load(root: Path, model: Facts, wanted: Wanted) -> Features:
    """Features that `make` has verified; tokens stay on disk until they are asked for.

    Those of frames are in the order of `wanted.rows`, so the place of a sample has no meaning.
    """
    folder = wanted.folder(root, model)
    if wanted.frames is None:
        repeats = repeats_of(wanted.chosen, model.clip, wanted.clips)
    else:
        repeats = np.zeros((len(wanted.rows), 1), bool)
    place = np.full(len(wanted.samples), -1)
    place[list(wanted.rows)] = np.arange(len(wanted.rows))
    there: list[bool] = []
    errors = {}
    for number, about in enumerate(_abouts(folder)):
        there += about["there"]
        for row, error in about["errors"].items():
            errors[wanted.rows[number * PART + int(row)]] = error
    at = np.cumsum(~repeats).reshape(repeats.shape) - 1
    parts = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("part-*.npy"))]
    means = np.concatenate([np.load(path) for path in sorted(folder.glob("means-*.npy"))])
    return Features(place, Rows(parts), at, np.array(there), repeats, errors, means)
