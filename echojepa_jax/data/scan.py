"""Measure every file before it is used: frames, rate and size, or the reason why it is unusable.

Files are probed in threads, which mostly wait for the disk; only the first picture of a DICOM file
(about 10 ms) is decoded under Python's lock. The facts of good files are kept, so that a second
scan only asks the file system whether a file changed. Failures are not kept: a disk or a permission
may be mended without changing the file.
"""

import contextlib
import dataclasses
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from echojepa_jax.data import decode
from echojepa_jax.data.decode import UnreadableVideo, VideoInfo
from echojepa_jax.data.sample import Rejected, Sample
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.progress import with_progress

CACHE_FILE = "scan-v1.jsonl"  # raise the number whenever probing measures something else
_IN_FLIGHT = 1024  # so that half a million files do not become half a million futures

_Key = tuple[str, int, int]  # path, size in bytes, time of the last change in ns
_Result = tuple[_Key | None, VideoInfo | str]  # a str is the reason for having no facts

log = logging.getLogger(__name__)


def scan(
    samples: Sequence[Sample], *, cache_dir: Path, workers: int
) -> tuple[list[Sample], list[Rejected]]:
    """Probe the files of `samples` with `workers` threads.

    Returns:
      The usable samples with their measured facts, and the others with the reason; single-frame
      files are among the others, as kind "still". Both lists keep the order of `samples`.

    Raises:
      UserError: `cache_dir` cannot be written.
    """
    good: list[Sample] = []
    rejected: list[Rejected] = []
    notes: Counter[str] = Counter()
    cache_file = cache_dir / CACHE_FILE
    known = _read_cache(cache_file)
    with _appending(cache_file) as cache:
        results = with_progress(_measured(samples, known, workers), len(samples), "scan")
        for sample, (key, result) in zip(samples, results, strict=True):
            if isinstance(result, str):
                rejected.append(Rejected(sample, result, "bad"))
                continue
            if key is not None and key not in known:
                cache.write(_cache_line(key, result))
            notes[result.note] += 1
            facts = dataclasses.asdict(result)
            del facts["note"]
            if result.frames == 1:
                rejected.append(Rejected(sample, "still: the file holds one frame", "still"))
            else:
                good.append(dataclasses.replace(sample, **facts))
    del notes[""]
    for note, files in sorted(notes.items()):
        log.warning("scan: %d files: %s", files, note)
    return good, rejected


def _measured(
    samples: Sequence[Sample], known: dict[_Key, VideoInfo], workers: int
) -> Iterator[_Result]:
    """The result for each sample, in order, computed by `workers` threads."""
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(samples), _IN_FLIGHT):
            part = samples[start : start + _IN_FLIGHT]
            yield from pool.map(lambda sample: _measure(sample.path, known), part)


def _measure(path: str, known: dict[_Key, VideoInfo]) -> _Result:
    key = None
    with contextlib.suppress(OSError):  # probing says why there is no such file
        stat = os.stat(path)
        key = (path, stat.st_size, stat.st_mtime_ns)
    try:
        return key, known[key] if key in known else decode.probe(path)
    except UnreadableVideo as error:
        return key, str(error)


def _read_cache(path: Path) -> dict[_Key, VideoInfo]:
    """The facts of earlier scans; a damaged line (a full disk, two writers) costs a new probe."""
    known = {}
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    key = (str(entry["path"]), int(entry["size"]), int(entry["mtime_ns"]))
                    known[key] = VideoInfo(
                        frames=int(entry["frames"]),
                        fps=float(entry["fps"]),
                        height=int(entry["height"]),
                        width=int(entry["width"]),
                        note=str(entry["note"]),
                    )
    return known


def _cache_line(key: _Key, info: VideoInfo) -> str:
    names = dict(zip(("path", "size", "mtime_ns"), key, strict=True))
    return json.dumps(names | dataclasses.asdict(info)) + "\n"


@contextlib.contextmanager
def _appending(path: Path) -> Iterator[TextIO]:
    """Open the cache to write a line at a time, so that a stopped scan loses nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", buffering=1, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The scan cache {path} cannot be written ({error.strerror}): name another folder in "
            "the environment variable ECHOJEPA_CACHE."
        ) from error
    with file:
        if file.tell():
            file.write("\n")  # ends a line that a stopped scan may have left open
        yield file
