"""The list of videos that a program uses: reads the sources, takes a split, measures and checks."""

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
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown

__all__ = ["Rejected", "Sample", "check_patients", "fingerprint", "load", "quarantine", "sort_out"]

_VIDEO = "video: the file holds several frames"
_NO_RATE = "no frame rate: the file does not state one; set data.sample_by to stride or share"

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
    stills: bool = False,
) -> list[Sample]:
    """Reads all sources and measures their files; rejects, counts and logs unusable ones.

    Args:
      split: keep only samples of this split (case does not matter); "" keeps all. A source without
        splits, such as a folder of videos, is used as a whole.
      quarantine: file that gets a line for each rejected file; None = no such file.
      max_bad_share: share of the listed files that may be rejected.
      expect_stills: files of one frame do not count as rejected.
      need_rate: reject files without a frame rate.
      workers: threads that measure files.
      stills: read the stills instead. Videos are skipped: they do not count as rejected, and get no
        line in `quarantine`.

    Raises:
      UserError: a source cannot be read, names a video twice or has none of the split; a patient is
        in two splits; too many files are rejected; no video (or still) is left.
    """
    _, good, rejected = sort_out(
        sources,
        split=split,
        quarantine=quarantine,
        need_rate=need_rate,
        workers=workers,
        stills=stills,
    )
    faults = {"bad"} if expect_stills or stills else {"bad", "still"}
    _check_faults(good, rejected, faults, max_bad_share, quarantine)
    if not good:
        names, reasons = ", ".join(sources), categories(rejected)
        problem = f"all videos of {names} were rejected ({reasons})"
        if stills:
            problem = f"no still of {names} can be used ({reasons})"
        raise UserError(f"{problem}: check the sources")
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
    """`load` without its limits.

    Returns:
      All samples that the sources list; the usable ones with the facts of their files; and the
      rejected ones with the reason.

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
    """Appends a JSON line to `file` for each rejected sample, unless the file has that line.

    Args:
      stage: the stage that rejected them: "scan", "decode" or "encode".
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
    """Checks that no patient, no content of a video and no file is in two splits.

    Patients with the same name are the same person in all sources. The content is known only for
    prepared sets.

    Args:
      splits: the samples of each split, by the name of the split in the error.

    Raises:
      UserError: one of them is in two splits.
    """
    seen: dict[tuple[str, str], tuple[str, Sample]] = {}
    for split, samples in splits.items():
        for sample in samples:
            for kind, name in _identities(sample):
                other, first = seen.setdefault((kind, name), (split, sample))
                if other != split:
                    raise UserError(
                        f"{kind} {name} is in split {other!r} ({first.source}, {first.name}) and "
                        f"in split {split!r} ({sample.source}, {sample.name}): keep it in one "
                        "split, or give different patients different names"
                    )


def _identities(sample: Sample) -> Iterator[tuple[str, str]]:
    """Kind and name of everything in a sample that must not be in two splits."""
    if sample.patient:
        yield "patient", sample.patient
    if sample.content:
        yield "content", sample.content
    yield "file", shown(sample.path)


def fingerprint(samples: Iterable[Sample], classes: str = "") -> str:
    """SHA-256 of the samples in order; it does not depend on the folder of the files.

    Args:
      classes: the name of the label that is learned, if its values are texts.
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
    """The samples of each source, only those of `split` unless it is ""; not measured yet."""
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
        log.warning(
            "listed more than once: %s, such as %s", counted(len(shared), "file"), shown(shared[0])
        )
    return listed


def check_names(source: str, samples: Sequence[Sample]) -> None:
    """Checks that a source lists videos, and no name twice, because results are joined on names.

    Raises:
      UserError: it lists no video, or a name twice.
    """
    if not samples:
        raise UserError(f"source {source!r} lists no video: check its path")
    name, times = Counter(sample.name for sample in samples).most_common(1)[0]
    if times > 1:
        paths = sorted({shown(sample.path) for sample in samples if sample.name == name})
        raise UserError(
            f"source {source!r} lists the video {name!r} {times} times ({', '.join(paths[:3])}): "
            "list it once"
        )


def _of_split(source: str, samples: Sequence[Sample], split: str) -> list[Sample]:
    if not any(sample.split for sample in samples):
        log.info("%s has no splits: all its videos are used", shown(source))
        return list(samples)
    kept = [sample for sample in samples if sample.split == split]
    if not kept:
        counts = Counter(sample.split or "no split" for sample in samples)
        has = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
        raise UserError(f"source {source!r} has no video of split {split!r}: use one of {has}")
    return kept


def _report(
    listed: Mapping[str, Sequence[Sample]],
    rejected: Sequence[Rejected],
    file: Path | None,
    stills: bool,
) -> None:
    """Writes the file of rejected samples, and logs a line for each source.

    stills: stills are wanted, so videos are skipped instead of stills.
    """
    wanted, skipped = ("file", "video") if stills else ("video", "still")
    if file is not None:
        quarantine(file, [r for r in rejected if r.kind != "video"], "scan")
    for source, samples in listed.items():
        mine = [r for r in rejected if r.sample.source == source]
        bad = [r for r in mine if r.kind != skipped]
        log.info(
            "%s: %s, %d rejected%s, %s",
            shown(source),
            counted(len(samples), wanted),
            len(bad),
            f" ({categories(bad)})" if bad else "",
            counted(len(mine) - len(bad), skipped),
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
    """Raises UserError if too many samples were rejected as one of the kinds `faults`."""
    faulty = [r for r in rejected if r.kind in faults]
    total = len(good) + len(rejected)
    if len(faulty) <= max_bad_share * total:
        return
    first = faulty[0]
    listed = f"{quarantine} lists all of them" if quarantine else "the log counts them by source"
    if any(r.kind == "still" for r in faulty):
        listed += "; set data.expect_stills=True if your data contain stills"
    raise UserError(
        f"{len(faulty)} of {total} files ({len(faulty) / total:.1%}) were rejected "
        f"({categories(faulty)}), more than data.max_bad_share = {max_bad_share:g} allows; the "
        f"first is {shown(first.sample.path)} ({first.reason}); {listed}"
    )
