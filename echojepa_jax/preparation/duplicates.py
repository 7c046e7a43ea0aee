"""Which patient a file shows, and which files show the same pictures.

A person with two names, or a video that occurs twice, could be in two splits; a score on the second
split would then be worthless.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo, VideoInfo
from echojepa_jax.data.formats.video_info import has_region
from echojepa_jax.data.same_pictures import groups_of_copies
from echojepa_jax.data.sample import Sample
from echojepa_jax.runtime.sandbox import Failed, Guard
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown


def guarded(function: Callable[[str], Any], guard: Guard, paths: Sequence[str]) -> Iterator[Any]:
    """Calls a function on each path, and yields its result, or the reason (str) why it failed."""
    for result in guard.over(function, paths, refusals=(UnreadableVideo,), otherwise="damaged"):
        yield result.reason if isinstance(result, Failed) else result


def copies(good: Sequence[tuple[Sample, VideoInfo]], guard: Guard) -> dict[str, str]:
    """The samples, by name, that repeat the pictures of another one, and why they are rejected.

    One sample of each group is kept: the first whose header contains the ultrasound region.
    """

    def contents(paths: Sequence[str], limit: int | None) -> Iterator[str]:
        return guarded(partial(decode.content, limit=limit), guard, paths)

    ordered = [sample for sample, _ in sorted(good, key=lambda pair: not has_region(pair[1]))]
    rejected = {}
    for first, *others in groups_of_copies(ordered, contents):
        for other in others:
            patients = {sample.patient for sample in (first, other)} - {""}
            note = ", of another patient" if len(patients) > 1 else ""
            rejected[other.name] = f"duplicate: the same pictures as {shown(first.path)}{note}"
    return rejected


def patients_and_studies(
    samples: Sequence[Sample], guard: Guard
) -> Iterator[tuple[str, str] | str]:
    """As `_identities`, but a file without a patient takes the patient of the study's other files.

    Raises:
      UserError: the source names a study whose files belong to several patients.
    """
    found = list(_identities(samples, guard))
    by_source, by_header = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for sample, identity in zip(samples, found, strict=True):
        if not isinstance(identity, str) and all(identity):
            patient, study = identity
            (by_source if sample.patient else by_header)[study].add(patient)
    for sample, identity in zip(samples, found, strict=True):
        if isinstance(identity, str) or sample.patient or not identity[1]:
            yield identity
            continue
        patient, study = identity
        patients = by_source.get(study) or by_header.get(study) or set()
        if len(patients) > 1 and sample.study:
            raise UserError(
                f"{sample.source}: study {study!r} has {len(patients)} patients (one of its files "
                f"is {shown(sample.path)}): give every study a unique name, or name the patient of "
                "every file in the column 'patient' of a CSV manifest"
            )
        if len(patients) == 1:
            yield min(patients), study
        elif patient or not patients:
            yield patient, study
        else:
            yield "no patient: its header names none, and its study has several"


def _identities(samples: Sequence[Sample], guard: Guard) -> Iterator[tuple[str, str] | str]:
    """The patient and study of each sample, from the header where the source names no patient.

    Yields a reason (str) instead for a header that cannot be read: without its patient, such a file
    could come into another split than the patient's other files.
    """
    unknown = [sample for sample in samples if not sample.patient]
    found = guarded(decode.identity, guard, [sample.path for sample in unknown])
    for sample in samples:
        if sample.patient:
            yield sample.patient, sample.study
            continue
        read = next(found)
        yield read if isinstance(read, str) else (read[0], sample.study or read[1])
