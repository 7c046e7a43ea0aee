"""The list of videos a program works on: read from its sources, split, measured, and checked."""

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

from echojepa_jax.data.sample import Rejected, Sample, by_name
from echojepa_jax.data.scan import scan
from echojepa_jax.data.sources import kind_of, read_source
from echojepa_jax.utils.cache import cache_dir
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown

__all__ = ["Rejected", "Sample", "check_patients", "fingerprint", "load", "quarantine", "sort_out"]

_VIDEO = "video: the file holds several frames"
_NO_RATE = "no frame rate: the file tells none; only data.sample_by=stride or share can do without"

log = logging.getLogger(__name__)


def load(
    sources: Sequence[str],
    *,
    split: str = "",
    quarantine: Path | None,
    max_bad_share: float = 0.01,
    expect_stills: bool = False,
    need_rate: bool = False,
    workers: int,
) -> list[Sample]:
    """Read all sources and measure their files; unusable ones are left out, named and counted.

    Args:
      split: keep only samples of this split, in any case; "" keeps all. A source that has no
        splits, such as a folder of videos, is kept whole.
      quarantine: file that gets a line for each unusable file; None for none.
      max_bad_share: share of the listed files that may be unusable.
      expect_stills: single-frame files are left out without counting as unusable.
      need_rate: files that do not tell their frame rate are unusable.
      workers: threads that measure files.

    Raises:
      UserError: a source cannot be read, names a video twice or has none of the split; a patient is
        in two splits; too many files are unusable; no video is left.
    """
    _, good, rejected = sort_out(
        sources, split=split, quarantine=quarantine, need_rate=need_rate, workers=workers
    )
    faults = {"bad"} if expect_stills else {"bad", "still"}
    _check_faults(good, rejected, faults, max_bad_share, quarantine)
    if not good:
        raise UserError(f"No video is left of {', '.join(sources)}: {categories(rejected)}.")
    return good


def load_stills(
    sources: Sequence[str],
    *,
    split: str = "",
    quarantine: Path | None,
    max_bad_share: float = 0.01,
    workers: int,
) -> list[Sample]:
    """The still pictures of sources, as `load` gives the videos.

    Videos are left out and counted; they do not count as unusable and get no line in `quarantine`.

    Raises:
      UserError: as `load`, or no still is left.
    """
    _, good, rejected = sort_out(
        sources, split=split, quarantine=quarantine, need_rate=False, workers=workers, stills=True
    )
    _check_faults(good, rejected, {"bad"}, max_bad_share, quarantine)
    if not good:
        raise UserError(f"No still is left of {', '.join(sources)}: {categories(rejected)}.")
    return good


def sort_out(
    sources: Sequence[str],
    *,
    split: str,
    quarantine: Path | None,
    need_rate: bool,
    workers: int,
    stills: bool = False,
) -> tuple[list[Sample], list[Sample], list[Rejected]]:
    """`load` without its limits; or `load_stills`, if `stills` are wanted instead of videos.

    Returns:
      All samples that the sources list; those that can be used, with the facts of their files; and
      the others, with the reason.

    Raises:
      UserError: a source cannot be read, names a video twice or has none of the split; a patient is
        in two splits.
    """
    by_source = _list(sources, split.lower())
    if stills:
        by_source = {
            source: [dataclasses.replace(sample, still=True) for sample in samples]
            for source, samples in by_source.items()
        }
    listed = [sample for samples in by_source.values() for sample in samples]
    good, rejected = scan(listed, cache_dir=cache_dir(), workers=workers)
    if need_rate:
        rejected += [Rejected(s, _NO_RATE, "bad") for s in good if not s.fps]
        good = [s for s in good if s.fps]
    if stills:
        rejected += [Rejected(s, _VIDEO, "video") for s in good if s.frames > 1]
        good = [s for s in good if s.frames == 1]
    _report(by_source, rejected, quarantine, stills)
    return listed, good, rejected


def quarantine(file: Path, rejected: Iterable[Rejected], stage: str) -> None:
    """Append a JSON line to `file` per rejected sample, unless it has that very line already.

    Args:
      stage: what rejected them, "scan" or "decode".
    """
    lines = [
        json.dumps(
            {
                "stage": stage,
                "source": shown(r.sample.source),
                "path": shown(r.sample.path),
                "kind": r.kind,
                "reason": r.reason,
            }
        )
        for r in rejected
    ]
    written = set(file.read_text("utf-8", "replace").splitlines()) if file.exists() else set()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.writelines(f"{line}\n" for line in dict.fromkeys(lines) if line not in written)


def check_patients(splits: Mapping[str, Iterable[Sample]]) -> None:
    """Raise UserError where a patient, or a video's content, or a file is in two of `splits`.

    Patients are the same where their names are, in all sources. Content is known of prepared
    shards.

    Args:
      splits: the samples of each split, by the name that the error shall call it.
    """
    seen: dict[tuple[str, str], tuple[str, Sample]] = {}
    for split, samples in splits.items():
        for sample in samples:
            for kind, name in _identities(sample):
                other, first = seen.setdefault((kind, name), (split, sample))
                if other != split:
                    raise UserError(
                        f"{kind.capitalize()} {name} is both in split {other!r} ({first.source}, "
                        f"{first.name}) and in {split!r} ({sample.source}, {sample.name}): keep "
                        "each in one split, or give different people different names."
                    )


def _identities(sample: Sample) -> Iterator[tuple[str, str]]:
    """What must not be in two splits."""
    if sample.patient:
        yield "patient", sample.patient
    if sample.content:
        yield "content", sample.content
    yield "file", shown(sample.path)


def fingerprint(samples: Iterable[Sample], classes: str = "") -> str:
    """SHA-256 of what `samples` are, in order, wherever the files lie.

    classes: the name of labels that are texts, if these are what is learned.
    """
    digest = hashlib.sha256()
    for s in samples:
        kind = kind_of(s.source)
        targets = sorted(s.targets.items())
        facts = [kind, s.name, s.frames, s.fps, s.height, s.width]
        facts += [s.split, s.patient, s.view, targets]
        if text := by_name(s.classes, classes):
            facts.append(text)
        digest.update(json.dumps(facts).encode() + b"\n")
    return digest.hexdigest()


def _list(sources: Sequence[str], split: str) -> dict[str, list[Sample]]:
    """The samples of each source, of `split` only unless it is "". Nothing is measured yet."""
    listed = {source: read_source(source) for source in dict.fromkeys(sources)}
    by_split: dict[str, list[Sample]] = {}
    for source, samples in listed.items():
        check_names(source, samples)
        for sample in samples:
            by_split.setdefault(sample.split, []).append(sample)
    check_patients({name: samples for name, samples in by_split.items() if name})
    if split:
        listed = {source: _of_split(source, all_, split) for source, all_ in listed.items()}

    files = Counter(sample.path for samples in listed.values() for sample in samples)
    if shared := [path for path, times in files.items() if times > 1]:
        log.warning("%d files are listed more than once, such as %s", len(shared), shown(shared[0]))
    return listed


def check_names(source: str, samples: Sequence[Sample]) -> None:
    """Results are joined on names, so a source must not use one twice."""
    if not samples:
        raise UserError(f"Source {source!r} lists no video.")
    name, times = Counter(sample.name for sample in samples).most_common(1)[0]
    if times > 1:
        paths = sorted({shown(sample.path) for sample in samples if sample.name == name})
        raise UserError(
            f"Source {source!r} lists the video {name!r} {times} times ({', '.join(paths[:3])}): "
            "list it once."
        )


def _of_split(source: str, samples: Sequence[Sample], split: str) -> list[Sample]:
    if not any(sample.split for sample in samples):
        log.info("%s is not divided into splits: all of it is used", shown(source))
        return list(samples)
    kept = [sample for sample in samples if sample.split == split]
    if not kept:
        counts = Counter(sample.split or "no split" for sample in samples)
        has = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
        raise UserError(f"Source {source!r} has no video of split {split!r}; it has {has}.")
    return kept


def _report(
    listed: Mapping[str, Sequence[Sample]],
    rejected: Sequence[Rejected],
    file: Path | None,
    stills: bool,
) -> None:
    """Write the quarantine file and log a line per source.

    stills: those are wanted, and videos left out.
    """
    wanted, left_out = ("stills and videos", "video") if stills else ("videos", "still")
    if file is not None:
        quarantine(file, [r for r in rejected if r.kind != "video"], "scan")
    for source, samples in listed.items():
        mine = [r for r in rejected if r.sample.source == source]
        bad = [r for r in mine if r.kind != left_out]
        log.info(
            "%s: %d %s, %d rejected%s, %d %ss",
            shown(source),
            len(samples),
            wanted,
            len(bad),
            f" ({categories(bad)})" if bad else "",
            len(mine) - len(bad),
            left_out,
        )


def categories(rejected: Iterable[Rejected]) -> str:
    """How often each kind of reason occurs: "2 missing, 1 truncated"."""
    counts = Counter(r.reason.partition(":")[0] for r in rejected)
    return ", ".join(f"{count} {category}" for category, count in counts.most_common())


def _check_faults(
    good: Sequence[Sample],
    rejected: Sequence[Rejected],
    faults: Set[str],
    max_bad_share: float,
    quarantine: Path | None,
) -> None:
    """Raises UserError if too many samples were rejected for being of these kinds."""
    unusable = [r for r in rejected if r.kind in faults]
    total = len(good) + len(rejected)
    if len(unusable) > max_bad_share * total:
        raise UserError(_too_many(unusable, total, max_bad_share, quarantine))


def _too_many(unusable: Sequence[Rejected], total: int, limit: float, file: Path | None) -> str:
    first = unusable[0]
    listed = f"all are listed in {file}" if file else "the log counts them by source"
    hint = "; set data.expect_stills if single frames are no fault" * any(
        r.kind == "still" for r in unusable
    )
    return (
        f"{len(unusable)} of {total} files ({len(unusable) / total:.1%}) are unusable "
        f"({categories(unusable)}), more than data.max_bad_share = {limit:g} allows, the first "
        f"being {shown(first.sample.path)} ({first.reason}); {listed}{hint}."
    )
