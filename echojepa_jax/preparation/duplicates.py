"""Who a file shows, and which files show the same: what headers and pictures tell of an archive.

One person under two names, or one video twice, would be in two splits, and a score on the second
one worth nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo, VideoInfo
from echojepa_jax.data.formats.video_info import has_region
from echojepa_jax.data.same_pictures import alike
from echojepa_jax.data.sample import Sample
from echojepa_jax.runtime.sandbox import Failed, Guard
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown


def guarded(function: Callable[[str], Any], guard: Guard, paths: Sequence[str]) -> Iterator[Any]:
    """The results of a function of paths, or reasons (str)."""
    for result in guard.over(function, paths, refusals=(UnreadableVideo,), otherwise="damaged"):
        yield result.reason if isinstance(result, Failed) else result


def copies(good: Sequence[tuple[Sample, VideoInfo]], guard: Guard) -> dict[str, str]:
    """The samples, by name, that show the same pictures as another one, and why they are left out.

    Of those, the first is kept whose header tells where the picture is.
    """

    def contents(paths: Sequence[str], limit: int | None) -> Iterator[str]:
        return guarded(partial(decode.content, limit=limit), guard, paths)

    ordered = [sample for sample, _ in sorted(good, key=lambda pair: not has_region(pair[1]))]
    left_out = {}
    for first, *others in alike(ordered, contents):
        for other in others:
            patients = {sample.patient for sample in (first, other)} - {""}
            whose = ", of another patient" if len(patients) > 1 else ""
            left_out[other.name] = f"duplicate: the same pictures as {shown(first.path)}{whose}"
    return left_out


def people(samples: Sequence[Sample], guard: Guard) -> Iterator[tuple[str, str] | str]:
    """The same as `_identities`, with one patient for all files of a study, as far as can be told.

    Raises:
      UserError: the source names a study whose files are of several patients.
    """
    found = list(_identities(samples, guard))
    by_source, by_header = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for sample, who in zip(samples, found, strict=True):
        if not isinstance(who, str) and all(who):
            patient, study = who
            (by_source if sample.patient else by_header)[study].add(patient)
    for sample, who in zip(samples, found, strict=True):
        if isinstance(who, str) or sample.patient or not who[1]:
            yield who
            continue
        patient, study = who
        patients = by_source.get(study) or by_header.get(study) or set()
        if len(patients) > 1 and sample.study:
            raise UserError(
                f"{sample.source}: study {study!r} has {len(patients)} patients, "
                f"{shown(sample.path)} among its files: give every study a name of its own, or "
                "name the patient of every file (the column 'patient' of a CSV manifest)"
            )
        if len(patients) == 1:
            yield min(patients), study
        elif patient or not patients:
            yield patient, study
        else:
            yield "no patient: its header names none, and its study is of several"


def _identities(samples: Sequence[Sample], guard: Guard) -> Iterator[tuple[str, str] | str]:
    """Patient and study of each sample, from the file's header where the source names no patient.

    Or a reason (str), of a header that cannot be read: as a patient of its own, such a file could
    come to another split than the patient's other ones.
    """
    unknown = [sample for sample in samples if not sample.patient]
    found = guarded(decode.identity, guard, [sample.path for sample in unknown])
    for sample in samples:
        if sample.patient:
            yield sample.patient, sample.study
            continue
        read = next(found)
        yield read if isinstance(read, str) else (read[0], sample.study or read[1])
