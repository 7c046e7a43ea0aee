"""Splits by patient that stay the same when data are added: a hash says where everyone belongs."""

import dataclasses
import hashlib
import hmac
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo
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

    They are the splits that preparation gives to public ids. Where a source names no patient, the
    header of a DICOM does, and nobody is told.

    Args:
      wanted: splits that are asked for: none is made unless one of them is.

    Raises:
      UserError: there are too few patients, so that nobody comes to one of `wanted`.
    """
    shares = parse(DEFAULT)
    if not set(wanted) & set(shares):
        return list(samples)
    by_source: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_source[sample.source].append(sample)
    result = []
    for source, members in by_source.items():
        if not any(sample.split for sample in members):
            members = _by_patient(members, shares)
            counts = Counter(sample.split for sample in members)
            told = ", ".join(f"{name} {counts[name]} videos" for name in shares)
            log.info("%s has no splits; they are made by patient: %s", shown(source), told)
            if empty := sorted(name for name in set(wanted) & set(shares) if not counts[name]):
                raise UserError(
                    f"{shown(source)} has no splits, and of those made by patient ({told}) "
                    f"{empty[0]!r} is empty: write a column 'split' into the table"
                )
        result += members
    return result


def _by_patient(samples: Sequence[Sample], shares: Mapping[str, float]) -> list[Sample]:
    """The samples of a source with splits; a study of which one video tells the patient is his."""
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(_identified, samples))
    of_study: dict[str, set[str]] = defaultdict(set)
    for sample in told:
        of_study[sample.study].add(sample.patient)
    names, unknown = [], 0
    for sample in told:
        known = of_study[sample.study] - {""} if sample.study and not sample.patient else set()
        names.append(min(known) if known else who(sample))
        unknown += not (sample.patient or known)
    if unknown:
        said = UNKNOWN_PATIENTS.format(count=unknown, total=len(samples))
        log.warning("%s; name patients in a column 'patient' of a CSV table", said)
    return [
        dataclasses.replace(sample, split=split_of(name, shares, PUBLIC_SALT))
        for sample, name in zip(samples, names, strict=True)
    ]


def _identified(sample: Sample) -> Sample:
    """The sample with patient and study of its header, where the source tells none."""
    if sample.patient:
        return sample
    try:
        patient, study = decode.identity(sample.path)
    except UnreadableVideo:
        return sample
    return dataclasses.replace(sample, patient=patient, study=sample.study or study)


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
