"""Prepares a data set: turns any source into verified, de-identified shards.

The plan comes first (plan.py). Each shard then depends on its part of the plan alone, so any number
of processes on any machines can make the shards, and the work may be interrupted: finished shards
are kept, the others are made again.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from echojepa_jax.data import manifest, shards, splits
from echojepa_jax.data.formats.decode import UnreadableVideo
from echojepa_jax.data.sample import Rejected, Sample
from echojepa_jax.data.sources import origin_of
from echojepa_jax.preparation.plan import (
    GIGABYTES,
    STATE,
    Options,
    Shard,
    Work,
    has_own_splits,
    has_pseudonyms,
    is_cleaned,
    make_plan,
    units_of,
)
from echojepa_jax.preparation.recording import JPEG_QUALITY, Encoded, Recording, encode
from echojepa_jax.preparation.sector import NoSector
from echojepa_jax.runtime.sandbox import Failed, Guard
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import write_json
from echojepa_jax.utils.progress import with_progress

log = logging.getLogger(__name__)

_NAME_PATIENTS = (
    "prepare them again with --patient_from, a regular expression that finds the patient in a "
    "file's name, such as '^([^_]+)_', or list them in a CSV table with a column 'patient'"
)

MakeShards = Callable[[Work, Sequence[Shard], Options, Guard], None]


def prepare(source: str, work: Work, options: Options, workers: int, make: MakeShards) -> str:
    """Prepares a source, or continues an interrupted preparation; returns a sentence on the result.

    Args:
      workers: processes on this machine.
      make: makes the missing shards; see `make_here`.

    Raises:
      UserError: the source cannot be read, or the folder holds another set.
    """
    with Guard(workers, options.file_seconds, GIGABYTES) as guard:
        return _prepare(source, work, options, guard, make)


def _prepare(source: str, work: Work, options: Options, guard: Guard, make: MakeShards) -> str:
    plan, rejected = make_plan(source, work, options, guard)
    _remove_leftovers(work)
    missing = [shard for shard in plan if not work.is_done(shard)]
    if not missing and shards.is_prepared(str(work.out)):
        count = counted(shards.about(str(work.out))["videos"], "video")
        return f"nothing to do: {work.out} is complete, with {count}"
    total = sum(len(shard.recordings) for shard in plan)
    if len(missing) < len(plan):
        log.info("continuing: %d of %d shards are done", len(plan) - len(missing), len(plan))
    make(work, missing, options, guard)
    _remove_leftovers(work)  # an attempt that was not the first to finish leaves its files behind
    rows, failed = _results(work, plan)
    manifest.quarantine(work.rejected, failed, "encode")
    if not rows:
        raise UserError(
            f"all {total} videos of {source} were rejected: {work.rejected} lists the reasons"
        )
    reasons = Counter(r.reason.partition(":")[0] for r in (*rejected, *failed))
    made_splits = not has_own_splits(work) and len({row["split"] for row in rows}) > 1
    unknown = sum(not row["patient"] for row in rows) if made_splits else 0
    if unknown:
        cause = splits.UNKNOWN_PATIENTS.format(count=unknown, total=len(rows))
        log.warning("%s; %s", cause, _NAME_PATIENTS)
    about = {
        "kind": origin_of(source),
        "size": options.size,
        "jpeg_quality": JPEG_QUALITY,
        "clean": is_cleaned(source, options),
        "hashed_ids": has_pseudonyms(source, options),
        "units": units_of(work),
        "splits": dict(sorted(Counter(row["split"] for row in rows).items())),
        "left_out": dict(reasons.most_common()),
        "unknown_patients": unknown,
    }
    shards.write_index(work.out, rows, about)
    rejections = _describe_rejected(reasons, work)
    made, files = counted(len(rows), "video"), counted(len(plan), "shard")
    return f"{made} in {files} of {work.out}; {rejections}"


def _describe_rejected(reasons: Mapping[str, int], work: Work) -> str:
    if not reasons:
        return "none rejected"
    parts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{sum(reasons.values())} rejected ({parts}), see {work.rejected}"


def make_here(work: Work, missing: Sequence[Shard], options: Options, guard: Guard) -> None:
    """Makes shards on this machine."""
    recordings = [recording for shard in missing for recording in shard.recordings]
    results = with_progress(encoded(recordings, options, guard), len(recordings), "prepare")
    for shard in missing:
        write_shard(work, shard, islice(results, len(shard.recordings)))


def encoded(
    recordings: Sequence[Recording], options: Options, guard: Guard
) -> Iterator[Encoded | Failed]:
    """Yields the record of each recording, or why it failed."""
    return guard.over(
        partial(encode, size=options.size),
        recordings,
        refusals=(UnreadableVideo, NoSector),
        otherwise="damaged",
    )


def write_shard(work: Work, shard: Shard, results: Iterable[Encoded | Failed]) -> None:
    """Writes a shard, and in OUT.private the result of each of its recordings."""
    entries: list[dict[str, Any]] = []

    def packed() -> Iterator[bytes]:
        count = 0
        for recording, result in zip(shard.recordings, results, strict=True):
            if isinstance(result, Failed):
                entries.append({"path": recording.path, "reason": result.reason})
                continue
            entries.append({**result.facts, "shard": shard.name, "record": count})
            count += 1
            yield result.record

    size = shards.write(work.out / shard.name, packed())
    write_json(work.state(shard), {"bytes": size, "recordings": entries})


def _results(work: Work, plan: Sequence[Shard]) -> tuple[list[dict[str, Any]], list[Rejected]]:
    rows: list[dict[str, Any]] = []
    failed: list[Rejected] = []
    for shard in plan:
        for entry in json.loads(work.state(shard).read_text())["recordings"]:
            if "reason" in entry:
                sample = Sample(name="", path=entry["path"], source="")
                failed.append(Rejected(sample, entry["reason"], "bad"))
            else:
                rows.append(entry)
    return rows, failed


def _remove_leftovers(work: Work) -> None:
    """Deletes the half-written files of interrupted attempts."""
    for folder in (work.out, work.private, work.private / STATE):
        for path in (*folder.glob(".*.partial"), *folder.glob("*.tmp")):
            path.unlink(missing_ok=True)
