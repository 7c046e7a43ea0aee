"""CAMUS: one folder per patient, with NIfTI sequences (end diastole to end systole) in two views.

`Info_2CH.cfg` and `Info_4CH.cfg` contain what NIfTI lacks: frame rate, ejection fraction, age, sex.
"""

import functools
import logging
import os

import numpy as np

from echojepa_jax.data.formats import nifti
from echojepa_jax.data.formats.video_info import UnreadableVideo
from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources.tables import number
from echojepa_jax.data.tracings import ED, ES, STRUCTURES, BadTracing, Tracing
from echojepa_jax.utils.errors import UserError

VIEWS = {"2CH": "A2C", "4CH": "A4C"}
_SPLITS = {"training": "train", "validation": "val", "testing": "test"}
_TARGETS = {"EF": "ef", "Age": "age"}
_UNITS = {"ef": "%", "age": "years"}

log = logging.getLogger(__name__)


def read(path: str, source: str) -> list[Sample]:
    """One sample per patient and view, even if its sequence is missing.

    Raises:
      UserError: there are no patients, a list of splits is missing, or a value is not a number.
    """
    root, folder, patients = _patients(path, source)
    splits = _splits(root, os.path.dirname(folder))
    if without := sum(patient not in splits for patient in patients):
        log.warning(
            "%s: %d of %d patients have no split: copy database_split/ beside the patients' folder "
            "and check that its lists name them",
            *(source, without, len(patients)),
        )
    samples = []
    for patient in patients:
        for code, view in VIEWS.items():
            facts, texts = _facts(os.path.join(folder, patient, f"Info_{code}.cfg"))
            samples.append(
                Sample(
                    name=f"{patient}_{code}",
                    path=os.path.join(folder, patient, f"{patient}_{code}_half_sequence.nii.gz"),
                    source=source,
                    patient=patient,
                    study=patient,
                    view=view,
                    split=splits.get(patient, ""),
                    targets={t: facts[key] for key, t in _TARGETS.items() if key in facts},
                    units=_UNITS,
                    classes={"sex": texts["Sex"]} if "Sex" in texts else {},
                    fps=facts.get("FrameRate", 0.0),
                )
            )
    if without := sum("ef" not in sample.targets for sample in samples):
        log.warning(
            "%s: %d of %d sequences have no EF in their cfg file", source, without, len(samples)
        )
    return samples


def tracings(path: str, source: str) -> list[Tracing]:
    """The masks of end diastole and end systole of every patient and view that has them.

    The cfg file has the numbers of these frames in the sequence, counted from 1.

    Raises:
      UserError: as `read`.
    """
    _, folder, patients = _patients(path, source)
    found = []
    for patient in patients:
        for code in VIEWS:
            facts, _ = _facts(os.path.join(folder, patient, f"Info_{code}.cfg"))
            for phase in (ED, ES):
                mask = os.path.join(folder, patient, f"{patient}_{code}_{phase}_gt.nii.gz")
                if phase in facts and os.path.exists(mask):
                    frame = int(facts[phase]) - 1
                    read_mask = functools.partial(_labels, mask)
                    found.append(Tracing(f"{patient}_{code}", frame, phase, read_mask))
    expected = len(patients) * len(VIEWS) * 2
    if len(found) < expected:
        log.warning(
            "%s: %d of %d masks are missing, or the cfg file lacks the number of their frame",
            *(source, expected - len(found), expected),
        )
    return found


def _labels(path: str, height: int, width: int) -> np.ndarray:
    """The labels of a mask, which are numbered as in `tracings.STRUCTURES`."""
    try:
        labels = nifti.mask(path)
    except UnreadableVideo as error:
        raise BadTracing(str(error)) from error
    if labels.shape != (height, width):
        sizes = (*labels.shape[::-1], width, height)
        raise BadTracing("the mask has {} x {} pixels, but the video {} x {}".format(*sizes))
    if labels.max() >= len(STRUCTURES):
        raise BadTracing(f"the mask has the label {labels.max()}")
    return labels


def _patients(path: str, source: str) -> tuple[str, str, list[str]]:
    """The set's folder, that of its patients, and their names."""
    root = os.path.abspath(os.path.expanduser(path))
    inner = os.path.join(root, "database_nifti")
    folder = inner if os.path.isdir(inner) else root
    patients = sorted(
        name
        for name in (os.listdir(folder) if os.path.isdir(folder) else ())
        if name.startswith("patient") and os.path.isdir(os.path.join(folder, name))
    )
    if not patients:
        raise UserError(
            f"source {source!r} has no folder such as patient0001 in {folder}: check the path"
        )
    return root, folder, patients


def _splits(*roots: str) -> dict[str, str]:
    """The split of each patient; empty if none of these folders contains the lists."""
    folders = [os.path.join(root, "database_split") for root in roots]
    folder = next(filter(os.path.isdir, folders), None)
    if folder is None:
        return {}
    splits = {}
    for part, split in _SPLITS.items():
        path = os.path.join(folder, f"subgroup_{part}.txt")
        try:
            with open(path, encoding="utf-8-sig") as file:
                splits.update({line.strip(): split for line in file if line.strip()})
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): copy the list again"
            ) from error
    return splits


def _facts(path: str) -> tuple[dict[str, float], dict[str, str]]:
    """The numbers of a file with lines "name: value", and its other values, which are texts."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            lines = [line.partition(":") for line in file if line.strip()]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): copy the file again") from error
    facts, texts = {}, {}
    for key, _, text in lines:
        try:
            value = number(text.strip())
        except ValueError as error:
            if key.strip() in (*_TARGETS, "FrameRate", ED, ES):
                raise UserError(f"{path}: {key.strip()!r} is {error}; correct it") from error
            texts[key.strip()] = text.strip()
            continue
        if value is not None:
            facts[key.strip()] = value
    return facts, texts
