"""Splits by patient: a hash of the patient decides the split, so it stays when data are added."""

import contextlib
import dataclasses
import hashlib
import hmac
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo
from echojepa_jax.data.manifest import check_patients
from echojepa_jax.data.same_pictures import groups_of_copies
from echojepa_jax.data.sample import Sample
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import original, shown

log = logging.getLogger(__name__)

DEFAULT = "train:0.8,val:0.1,test:0.1"
# The salt for splits without a secret: of sets with public ids, and of data that are not prepared.
# Every user gets the same splits.
PUBLIC_SALT = b"echojepa_jax: public ids"
UNKNOWN_PATIENTS = (
    "the patient of {count} of {total} videos is unknown, so they are split by study, or else by "
    "file, and videos of one patient may be in two splits"
)


def parse(text: str) -> dict[str, float]:
    """Parses shares such as "train:0.8,val:0.1,test:0.1"; returns them by split.

    Raises:
      UserError: the text has another form, or the shares do not add up to 1.
    """
    shares: dict[str, float] = {}
    try:
        for part in text.split(","):
            name, value = part.split(":")
            shares[name.strip().lower()] = float(value)
    except ValueError as error:
        raise UserError(f"--splits={text} must be like train:0.8,val:0.1,test:0.1") from error
    names_are_words = all(name.isalnum() for name in shares)
    add_up = min(shares.values()) >= 0 and abs(sum(shares.values()) - 1) < 1e-6  # False for NaN
    if not names_are_words or not add_up:
        raise UserError(f"--splits={text}: shares must not be negative and must add up to 1")
    return {name: share for name, share in shares.items() if share > 0}


def split_of(patient: str, shares: Mapping[str, float], salt: bytes) -> str:
    """The split of a patient; it depends on name and salt alone, so a patient never moves."""
    digest = hmac.new(salt, b"split\0" + os.fsencode(patient), hashlib.sha256).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return name


def split_key(sample: Sample) -> str:
    """The text that decides a video's split: its patient, else its study, else its file."""
    return sample.patient or sample.study or original(sample.name)


def divided(samples: Sequence[Sample], wanted: Collection[str]) -> list[Sample]:
    """Splits the samples of sources without splits by patient, and logs the result.

    The rule is the one of preparation for public ids, so a patient in several sources gets one
    split. If one of these sources gives the patient a split, the others follow it. If a source does
    not name the patient, the header of a DICOM file does; the result names such a patient after the
    first of their files, so the real name does not appear. If videos in two splits show the same
    pictures, only one of them is kept.

    Args:
      samples: samples with the facts of their files.
      wanted: the splits that the caller needs; no split is made unless `DEFAULT` has one of them.

    Raises:
      UserError: there are too few patients, so that one of `wanted` is empty; or the sources put a
        patient into two splits.
    """
    shares = parse(DEFAULT)
    people = _people(samples)
    known = _named_after_files(samples, people)
    by_source: dict[str, list[int]] = defaultdict(list)
    for row, sample in enumerate(samples):
        by_source[sample.source].append(row)
    given = {p.name: s.split for s, p in zip(samples, people, strict=True) if s.split}
    made: set[str] = set()
    for source, rows in by_source.items():
        if set(wanted) & set(shares) and not any(samples[row].split for row in rows):
            made.add(source)
            _warn_of_unknown([people[row] for row in rows])
            for row in rows:
                name = people[row].name
                split = given.get(name) or split_of(name, shares, PUBLIC_SALT)
                known[row] = dataclasses.replace(known[row], split=split)
    if made:
        known = _without_copies(known, made)
    by_split: dict[str, list[Sample]] = defaultdict(list)
    for sample in known:
        by_split[sample.split].append(sample)
    for source in (source for source in by_source if source in made):
        counts = Counter(sample.split for sample in known if sample.source == source)
        sizes = ", ".join(f"{name} {counted(counts[name], 'video')}" for name in shares)
        log.info("%s has no splits and is split by patient: %s", shown(source), sizes)
        if empty := sorted(set(wanted) & set(shares) - set(by_split)):
            raise UserError(
                f"{shown(source)} has no splits, and splitting it by patient ({sizes}) leaves "
                f"{empty[0]!r} empty: give the splits in a column 'split' of a CSV table"
            )
    check_patients({name: members for name, members in by_split.items() if name})
    return known


def outside(samples: Sequence[Sample], wanted: Collection[str]) -> dict[str, int]:
    """Number of samples that are in none of the splits `wanted`, by split; logs it.

    The caller leaves these samples out. "no split" stands for a blank one.
    """
    counts = Counter(s.split or "no split" for s in samples if s.split not in wanted)
    found = dict(sorted(counts.items()))
    if found:
        log.warning(
            "%s in none of the splits %s, left out: %s",
            counted(sum(found.values()), "file"),
            ", ".join(wanted),
            ", ".join(f"{name} {count:,}" for name, count in found.items()),
        )
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class _Person:
    """The person in a video.

    name: the patient; if unknown, the study, or else the file.
    is_patient: `name` is the patient.
    from_header: `name` comes from the header of the file, not from the source.
    """

    name: str
    is_patient: bool
    from_header: bool


def _people(samples: Sequence[Sample]) -> list[_Person]:
    """The person in each video; if one video of a study names the patient, the others follow it."""
    with ThreadPoolExecutor(16) as pool:
        identities = list(pool.map(_identified, samples))
    # Two sources may use the same study names, so the source is part of the key. Study names in
    # headers are unique.
    studies = [
        (sample.study and sample.source, study)
        for sample, (_, study) in zip(samples, identities, strict=True)
    ]
    patients: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key, (patient, study) in zip(studies, identities, strict=True):
        patients[key] |= {patient} - {""} if study else set()
    people = []
    for sample, key, (patient, study) in zip(samples, studies, identities, strict=True):
        known = patient or min(patients[key], default="")
        name = known or study or original(sample.name)
        from_header = not sample.patient and bool(known or (study and not sample.study))
        people.append(_Person(name, is_patient=bool(known), from_header=from_header))
    return people


def _identified(sample: Sample) -> tuple[str, str]:
    """Patient and study of a sample; from the header of its file if the source has no patient."""
    patient = study = ""
    if not sample.patient:
        with contextlib.suppress(UnreadableVideo):
            patient, study = decode.identity(sample.path)
    return sample.patient or patient, sample.study or study


def _named_after_files(samples: Sequence[Sample], people: Sequence[_Person]) -> list[Sample]:
    """The samples; a patient whom only headers name is named after the first of their files."""
    names = {sample.patient: sample.patient for sample in samples if sample.patient}
    named = []
    for sample, person in zip(samples, people, strict=True):
        if person.from_header:
            name = names.setdefault(person.name, f"{shown(sample.source)}#{sample.name}")
            sample = dataclasses.replace(sample, patient=name)
        named.append(sample)
    return named


def _warn_of_unknown(people: Sequence[_Person]) -> None:
    if unknown := sum(not person.is_patient for person in people):
        cause = UNKNOWN_PATIENTS.format(count=unknown, total=len(people))
        log.warning("%s; name the patients in a column 'patient' of a CSV table", cause)


def _without_copies(samples: Sequence[Sample], made: Collection[str]) -> list[Sample]:
    """Removes samples that show the same pictures as a sample of another split.

    Args:
      made: the sources whose splits were made here; only their copies are removed.
    """
    copies: dict[tuple[str, str], Sample] = {}
    ordered = sorted((s for s in samples if s.split), key=lambda s: s.source in made)
    with ThreadPoolExecutor(16) as pool:
        for first, *others in groups_of_copies(ordered, partial(_contents, pool)):
            for other in others:
                if other.split != first.split and other.source in made:
                    copies[other.source, other.name] = first
    if copies:
        (_, name), first = next(iter(copies.items()))
        log.warning(
            "rejected %s with the same pictures as a video of another split; the first is %s, a "
            "copy of %s in %s",
            *(counted(len(copies), "video"), name, first.name, shown(first.source)),
        )
    return [sample for sample in samples if (sample.source, sample.name) not in copies]


def _contents(pool: ThreadPoolExecutor, paths: Sequence[str], limit: int | None) -> Iterator[str]:
    def content(path: str) -> str:
        try:
            return decode.content(path, limit)
        except UnreadableVideo as error:
            return str(error)

    return pool.map(content, paths)


def patients_from(pattern: str, samples: Sequence[Sample]) -> list[Sample]:
    """The samples with the patient that `pattern` finds in their names, "" where it finds none.

    Args:
      pattern: a regular expression; the patient is its first group, or else the whole match.

    Raises:
      UserError: `pattern` is not a regular expression, finds no patient in any name, or the source
        names the patients.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UserError(
            f"--patient_from={pattern} is not a regular expression: {error}; try ^([^_]+)_"
        ) from error
    if known := next((sample for sample in samples if sample.patient), None):
        raise UserError(
            f"--patient_from={pattern} has no effect, because {known.source} names the patients: "
            "remove the flag"
        )
    found = [search(sample.name) for sample in samples]
    patients = [
        (match[1] if match.re.groups else match[0]) or "" if match else "" for match in found
    ]
    if not any(patients):
        raise UserError(
            f"--patient_from={pattern} finds no patient in any of {len(samples)} names, such as "
            f"{samples[0].name}: correct the expression"
        )
    return [
        dataclasses.replace(sample, patient=patient)
        for sample, patient in zip(samples, patients, strict=True)
    ]


def pseudonym(kind: str, text: str, salt: bytes) -> str:
    """Replaces an id by sixteen hex digits, and "" by "".

    With the salt, anyone can compute the digits again, to join labels or to add data. Without it,
    nobody can find out whether they stand for a given name.

    Args:
      kind: "patient", "study" or "video": the same text under two kinds gives unrelated digits.
    """
    if not text:
        return ""
    return hmac.new(salt, f"{kind}\0".encode() + os.fsencode(text), hashlib.sha256).hexdigest()[:16]
