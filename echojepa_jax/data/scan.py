"""Measures every file before it is used: frames, rate and size, or the reason to reject it.

Threads probe the files: they wait for the disk, or decode videos without holding Python's global
lock; only the first picture of a DICOM file (about 10 ms) is decoded while holding it. The facts of
usable files are cached, so that a second scan only checks whether a file has changed. Failures are
not cached, because a disk or a permission may be repaired without changing the file.
"""

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo, VideoInfo
from echojepa_jax.data.formats.video_info import REGION_NOTES, each_note
from echojepa_jax.data.sample import Rejected, Sample
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown
from echojepa_jax.utils.progress import with_progress

CACHE_FILE = "scan-v7.jsonl"  # raise the number whenever the measured facts change
IN_FLIGHT = 1024
"""Number of files whose size and time are requested from the file system at once."""

Key = tuple[str, int, int]  # path, size in bytes, time of the last change in ns
Probe = Callable[[Sequence[str]], Iterable[VideoInfo | str]]  # a str is the reason to reject

log = logging.getLogger(__name__)


def scan(
    samples: Sequence[Sample], *, cache_dir: Path, workers: int
) -> tuple[list[Sample], list[Rejected]]:
    """Probes the files of `samples` with `workers` threads.

    Returns:
      The usable samples with their measured facts, and the rejected samples with the reason. Files
      of one frame are rejected as kind "still" (unless `Sample.still`), files of another modality
      as kind "other". Both lists keep the order of `samples`.

    Raises:
      UserError: `cache_dir` cannot be written.
    """
    good: list[Sample] = []
    rejected: list[Rejected] = []
    notes: list[tuple[str, str]] = []
    with ThreadPoolExecutor(workers) as pool:
        results = measured(samples, cache_dir, pool, lambda paths: pool.map(_probe, paths))
        for sample, result in zip(samples, results, strict=True):
            if isinstance(result, str):
                rejected.append(Rejected(sample, result, "bad"))
            elif found := unwanted(sample, result):
                rejected.append(found)
            else:
                notes.append((sample.path, result.note))
                good.append(with_facts(sample, result))
    log_notes(notes)
    return good, rejected


def unwanted(sample: Sample, info: VideoInfo) -> Rejected | None:
    """The sample with its reason if its modality is not accepted, or if it is a still."""
    if sample.modalities and info.modality and info.modality not in sample.modalities:
        wanted = " or ".join(sample.modalities)
        reason = f"another modality: {info.modality}, not {wanted}; ',modality=any' accepts it"
        return Rejected(sample, reason, "other")
    if info.frames == 1 and not sample.still:
        return Rejected(sample, "still: the file holds one frame", "still")
    return None


def log_notes(notes: Iterable[tuple[str, str]], more: str = "") -> None:
    """Logs how many usable files have each kind of note.

    Args:
      notes: pairs of a path and its joined notes (see `video_info.notes`).
      more: text to append to notes on regions.
    """
    by_note: dict[str, list[str]] = {}
    for path, note in notes:
        for single in each_note(note):
            by_note.setdefault(single, []).append(path)
    for note, paths in sorted(by_note.items()):
        text = f"{note}{more if note in REGION_NOTES else ''}"
        log.warning("scan: %s, such as %s: %s", counted(len(paths), "file"), shown(paths[0]), text)


def with_facts(sample: Sample, info: VideoInfo) -> Sample:
    """The sample with the facts of its file; a rate or spacing that the file lacks is kept."""
    return dataclasses.replace(
        sample,
        frames=info.frames,
        fps=info.fps or sample.fps or float(sample.still),  # for a still any positive rate will do
        height=info.height,
        width=info.width,
        spacing=info.spacing if any(info.spacing) else sample.spacing,
    )


def measured(
    samples: Sequence[Sample], cache_dir: Path, pool: ThreadPoolExecutor, probe: Probe
) -> Iterator[VideoInfo | str]:
    """Yields the facts of every sample's file, or the reason to reject it, in order.

    Args:
      pool: threads that read sizes and times from the file system.
      probe: measures the files that are not in the cache.

    Raises:
      UserError: `cache_dir` cannot be written.
    """
    cache_file = cache_dir / CACHE_FILE
    known = _read_cache(cache_file)
    with _appending(cache_file) as cache:
        # In parts, so that half a million files do not become half a million futures.
        parts = (samples[i : i + IN_FLIGHT] for i in range(0, len(samples), IN_FLIGHT))
        results = (
            (key, result)
            for part in parts
            for key, result in _part_measured(part, known, pool, probe)
        )
        for key, result in with_progress(results, len(samples), "scan"):
            if isinstance(result, VideoInfo) and key is not None and key not in known:
                cache.write(_cache_line(key, result))
            yield result


def _part_measured(
    samples: Sequence[Sample],
    known: Mapping[Key | None, VideoInfo],
    pool: ThreadPoolExecutor,
    probe: Probe,
) -> Iterator[tuple[Key | None, VideoInfo | str]]:
    keys = list(pool.map(key_of, samples))
    # The index of a prepared set contains all facts.
    unknown = [
        s.path for s, key in zip(samples, keys, strict=True) if not s.frames and key not in known
    ]
    answers = iter(probe(unknown))
    for sample, key in zip(samples, keys, strict=True):
        if sample.frames:
            info = VideoInfo(sample.frames, sample.fps, sample.height, sample.width)
            yield None, dataclasses.replace(info, spacing=sample.spacing)
        else:
            yield key, known[key] if key in known else next(answers)


def key_of(sample: Sample) -> Key | None:
    """Path, size and time of a file, which change when it does; None if there is no such file."""
    with contextlib.suppress(OSError, ValueError):
        stat = os.stat(sample.path)
        return sample.path, stat.st_size, stat.st_mtime_ns
    return None


def _probe(path: str) -> VideoInfo | str:
    try:
        return decode.probe(path)
    except UnreadableVideo as error:
        return str(error)


def _read_cache(path: Path) -> dict[Key | None, VideoInfo]:
    """The facts of earlier scans. A damaged line (a full disk, two writers) is ignored."""
    known: dict[Key | None, VideoInfo] = {}
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
                    entry = json.loads(line)
                    key = (str(entry["path"]), int(entry["size"]), int(entry["mtime_ns"]))
                    known[key] = VideoInfo(
                        frames=int(entry["frames"]),
                        fps=float(entry["fps"]),
                        height=int(entry["height"]),
                        width=int(entry["width"]),
                        note=str(entry["note"]),
                        spacing=(float(entry["spacing"][0]), float(entry["spacing"][1])),
                        modality=str(entry["modality"]),
                    )
    return known


def _cache_line(key: Key, info: VideoInfo) -> str:
    names = dict(zip(("path", "size", "mtime_ns"), key, strict=True))
    return json.dumps(names | dataclasses.asdict(info)) + "\n"


@contextlib.contextmanager
def _appending(path: Path) -> Iterator[TextIO]:
    """Opens the cache, and writes line by line, so that a stopped scan loses nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", buffering=1, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the scan cache {path} cannot be written ({error.strerror}): set the environment "
            "variable ECHOJEPA_CACHE to another folder"
        ) from error
    with file:
        if file.tell():
            file.write("\n")  # a stopped scan may have left its last line incomplete
        yield file
