"""Splits by patient that stay the same when data are added: a hash says where everyone belongs."""

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
from echojepa_jax.data.same_pictures import alike
from echojepa_jax.data.sample import Sample
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import original, shown

log = logging.getLogger(__name__)

DEFAULT = "train:0.8,val:0.1,test:0.1"
# Of splits of sets whose ids are public, or which stay where they are: the same ones for everybody.
PUBLIC_SALT = b"echojepa_jax: public ids"
UNKNOWN_PATIENTS = (
    "the patient of {count} of {total} videos is unknown: the study, or else the file, is used "
    "instead, so one person's videos may be in two splits"
)


def parse(text: str) -> dict[str, float]:
    """Shares from "train:0.8,val:0.1,test:0.1"; they must add up to 1.

    Raises:
      UserError: they do not, or this is no such text.
    """
    shares: dict[str, float] = {}
    try:
        for part in text.split(","):
            name, value = part.split(":")
            shares[name.strip().lower()] = float(value)
    except ValueError as error:
        raise UserError(f"--splits={text} must be like train:0.8,val:0.1,test:0.1") from error
    names_are_words = all(name.isalnum() for name in shares)
    fit = min(shares.values()) >= 0 and abs(sum(shares.values()) - 1) < 1e-6  # not so of NaN
    if not names_are_words or not fit:
        raise UserError(f"--splits={text}: shares must not be negative and must add up to 1")
    return {name: share for name, share in shares.items() if share > 0}


def split_of(patient: str, shares: Mapping[str, float], salt: bytes) -> str:
    """The split of a patient: a function of name and salt alone, so nobody ever changes sides."""
    digest = hmac.new(salt, b"split\0" + os.fsencode(patient), hashlib.sha256).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return name


def who(sample: Sample) -> str:
    """What a video's split goes by: its patient, or else its study, or else the file."""
    return sample.patient or sample.study or original(sample.name)


def divided(samples: Sequence[Sample], wanted: Collection[str]) -> list[Sample]:
    """The samples; those of sources without splits get some by patient, and the log says so.

    The rule is that of preparation for public ids, so a patient of several sources gets one split.
    If one of these sources gives a split to the patient, the others follow it. If a source does not
    name the patient, the header of a DICOM file does. The result calls such a patient by the first
    of their files, so the name stays unknown. If videos in two splits have the same pictures, only
    one of them stays.

    Args:
      samples: with the facts of their files.
      wanted: splits that are asked for: none is made unless one of them is.

    Raises:
      UserError: there are too few patients, so that nobody comes to one of `wanted`; or a patient
        is in two splits, because a source gives them.
    """
    shares = parse(DEFAULT)
    people = _people(samples)
    known = _called_by_files(samples, people)
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
        told = ", ".join(f"{name} {counts[name]} videos" for name in shares)
        log.info("%s has no splits; they are made by patient: %s", shown(source), told)
        if empty := sorted(set(wanted) & set(shares) - set(by_split)):
            raise UserError(
                f"{shown(source)} has no splits, and of those made by patient ({told}) "
                f"{empty[0]!r} is empty: write a column 'split' into the table"
            )
    check_patients({name: members for name, members in by_split.items() if name})
    return known


@dataclasses.dataclass(frozen=True, slots=True)
class _Person:
    """The person in a video.

    name: of the patient; if unknown, of the study, or else of the file. from_header: the source
    does not give the name.
    """

    name: str
    is_patient: bool
    from_header: bool


def _people(samples: Sequence[Sample]) -> list[_Person]:
    """The person in each video. All videos of a study show the patient that one of them names."""
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(_identified, samples))
    # Sources may number their studies alike; those of headers have names of their own.
    studies = [
        (sample.study and sample.source, study)
        for sample, (_, study) in zip(samples, told, strict=True)
    ]
    patients: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key, (patient, study) in zip(studies, told, strict=True):
        patients[key] |= {patient} - {""} if study else set()
    people = []
    for sample, key, (patient, study) in zip(samples, studies, told, strict=True):
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


def _called_by_files(samples: Sequence[Sample], people: Sequence[_Person]) -> list[Sample]:
    """The samples, with the first of their files as the name of people that only headers name."""
    names = {sample.patient: sample.patient for sample in samples if sample.patient}
    called = []
    for sample, person in zip(samples, people, strict=True):
        if person.from_header:
            name = names.setdefault(person.name, f"{shown(sample.source)}#{sample.name}")
            sample = dataclasses.replace(sample, patient=name)
        called.append(sample)
    return called


def _warn_of_unknown(people: Sequence[_Person]) -> None:
    if unknown := sum(not person.is_patient for person in people):
        said = UNKNOWN_PATIENTS.format(count=unknown, total=len(people))
        log.warning("%s; name patients in a column 'patient' of a CSV table", said)


def _without_copies(samples: Sequence[Sample], made: Collection[str]) -> list[Sample]:
    """The samples without those that show the same pictures as one of another split.

    Args:
      made: sources whose splits were made: of two copies, theirs is left out.
    """
    left_out: dict[tuple[str, str], Sample] = {}
    ordered = sorted((s for s in samples if s.split), key=lambda s: s.source in made)
    with ThreadPoolExecutor(16) as pool:
        for first, *others in alike(ordered, partial(_contents, pool)):
            for other in others:
                if other.split != first.split and other.source in made:
                    left_out[other.source, other.name] = first
    if left_out:
        (_, name), first = next(iter(left_out.items()))
        log.warning(
            "%d videos show the same pictures as a video of another split, and are left out: %s, "
            "as %s of %s",
            *(len(left_out), name, first.name, shown(first.source)),
        )
    return [sample for sample in samples if (sample.source, sample.name) not in left_out]


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
      pattern: a regular expression; its first group is the patient, or all that it finds.

    Raises:
      UserError: it is none, it finds nothing in any name, or the samples tell patients already.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UserError(
            f"--patient_from={pattern} is not a regular expression: {error}; try ^([^_]+)_"
        ) from error
    if known := next((sample for sample in samples if sample.patient), None):
        raise UserError(
            f"--patient_from={pattern} is not used: {known.source} names patients itself"
        )
    found = [search(sample.name) for sample in samples]
    patients = [
        (match[1] if match.re.groups else match[0]) or "" if match else "" for match in found
    ]
    if not any(patients):
        raise UserError(
            f"--patient_from={pattern} finds no patient in any of {len(samples)} names, the first "
            f"being {samples[0].name}"
        )
    return [
        dataclasses.replace(sample, patient=patient)
        for sample, patient in zip(samples, patients, strict=True)
    ]


def pseudonym(kind: str, text: str, salt: bytes) -> str:
    """Sixteen hex digits that stand for an id, or "" for "".

    Whoever holds the salt can compute them again, to join labels or to add data; nobody else can
    tell whether they stand for a given name.

    Args:
      kind: "patient", "study" or "video": the same text under two kinds gives unrelated digits.
    """
    if not text:
        return ""
    return hmac.new(salt, f"{kind}\0".encode() + os.fsencode(text), hashlib.sha256).hexdigest()[:16]
