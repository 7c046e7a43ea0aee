"""Public data sets in miniature, in their own layouts, with the phantom's frames inside.

Every set has three patients for training, one for validation and two for the test.
"""

import csv
import gzip
import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import nibabel
import numpy as np

from echojepa_jax.data.formats import decode
from echojepa_jax.data.splits import DEFAULT, PUBLIC_SALT, parse, split_of
from tests.makers.dicom import make

SPLITS = ("train", "train", "train", "val", "test", "test")
EF = (35.5, 48.25, 61.0, 55.5, 40.75, 63.0)
FOLDS = (0, 3, 7, 8, 9, 9)
AGES = (0, 4, 16, 8, 2, 13)
MIMIC_VIEWS = ("A4C", "PSAX")


def write(root: Path, videos: Sequence[Path]) -> None:
    """Writes all sets into folders below `root`, named as in configs/evaluation/public.py.

    Args:
      videos: at least six, of 60 frames, in a set of the phantom.
    """
    frames = [decode.decode(str(path), np.arange(60))[..., 0] for path in videos]
    dynamic(root / "EchoNet-Dynamic", videos)
    pediatric(root / "EchoNet-Pediatric", videos)
    camus(root / "CAMUS_public", frames)
    tmed2(root / "TMED2", frames)
    mimic(root / "mimic-iv-echo", root / "echoview.csv", frames)


def _table(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)


def _link(path: Path, video: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(video)


def dynamic(root: Path, videos: Sequence[Path]) -> None:
    """EchoNet-Dynamic: one video of each patient, with its tracings."""
    rows = []
    for k, (ef, split) in enumerate(zip(EF, SPLITS, strict=True)):
        _link(root / "Videos" / f"0X{k}.avi", videos[k])
        rows.append((f"0X{k}", ef, 40, 90, 64, 64, 50, 60, split.upper()))
    header = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split"
    _table(root / "FileList.csv", header, rows)
    names = {video.name: f"0X{k}.avi" for k, video in enumerate(videos)}
    with (videos[0].parent.parent / "VolumeTracings.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    kept = [(names[name], *rest) for name, *rest in lines if name in names]
    _table(root / "VolumeTracings.csv", ",".join(header), kept)


def pediatric(root: Path, videos: Sequence[Path]) -> None:
    """EchoNet-Pediatric: two views of each patient."""
    for view in ("A4C", "PSAX"):
        rows = []
        for k, (ef, age, fold) in enumerate(zip(EF, AGES, FOLDS, strict=True)):
            name = f"CR{k}-77-0000{k}.avi"
            _link(root / "pediatric_echo_avi" / view / "Videos" / name, videos[k])
            rows.append((name, ef + 5, "F", age, 10 + age, 100 + age, fold))
        header = "FileName,EF,Sex,Age,Weight,Height,Split"
        _table(root / "pediatric_echo_avi" / view / "FileList.csv", header, rows)


def camus(root: Path, frames: Sequence[np.ndarray]) -> None:
    """CAMUS: half a beat in two views of each patient, with the masks of its ends."""
    lists: dict[str, list[str]] = {"training": [], "validation": [], "testing": []}
    for k, (ef, split) in enumerate(zip(EF, SPLITS, strict=True)):
        patient = f"patient{k:04d}"
        lists[next(name for name in lists if name.startswith(split))].append(patient)
        folder = root / "database_nifti" / patient
        folder.mkdir(parents=True)
        for code, first in (("2CH", 0), ("4CH", 20)):
            volume = frames[k][first : first + 20].transpose(2, 1, 0)  # x, y, time
            image = nibabel.Nifti1Image(volume, np.diag([0.3, 0.3, 1, 1]))
            nibabel.save(image, folder / f"{patient}_{code}_half_sequence.nii.gz")
            size = len(volume)
            for part, radius in (("ED", size // 6), ("ES", size // 8)):
                # Left ventricle 1, myocardium 2, left atrium 3; x, y.
                mask = np.zeros(volume.shape[:2], np.uint8)
                cv2.circle(mask, (3 * size // 4, size // 2), radius, 3, -1)
                cv2.circle(mask, (size // 2, size // 2), radius + 3, 2, -1)
                cv2.circle(mask, (size // 2, size // 2), radius, 1, -1)
                picture = nibabel.Nifti1Image(mask, image.affine)
                nibabel.save(picture, folder / f"{patient}_{code}_{part}_gt.nii.gz")
            facts = f"ED: 1\nES: 20\nNbFrame: 20\nSex: F\nAge: 56\nEF: {ef}\nFrameRate: 48.5\n"
            (folder / f"Info_{code}.cfg").write_text(facts)
    for part, patients in lists.items():
        path = root / "database_split" / f"subgroup_{part}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(patients))


def tmed2(root: Path, frames: Sequence[np.ndarray]) -> None:
    """TMED-2: stills of two views of each patient, and the table of splits; every second patient
    has a stenosis."""
    labels, parts = [], []
    for k, split in enumerate(SPLITS):
        for place, view in enumerate(("PLAX", "PSAX")):
            key = f"{k}s1_{place}.png"
            path = root / "view_and_diagnosis_labeled_set" / "labeled" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), frames[k][30 * place])
            labels.append((key, "labeled", view, ("no_AS", "severe_AS")[k % 2]))
            parts.append((key, split, split))
    header = "query_key,SourceFolder,view_label,diagnosis_label"
    _table(root / "labels_per_image.csv", header, labels)
    header = "query_key,diagnosis_classifier_split,view_classifier_split"
    _table(root / "DEV479" / "TMED2_fold0_labeledpart.csv", header, parts)


def mimic(root: Path, echoview: Path, frames: Sequence[np.ndarray]) -> None:
    """MIMIC-IV-Echo: three files of each patient, two of them with a view in ECHOVIEW's table.

    The set has no splits, so patients are chosen whose ids lead to the wanted ones.
    """
    shares = parse(DEFAULT)
    numbers = itertools.count(10)
    patients = [
        next(n for n in numbers if split_of(str(n), shares, PUBLIC_SALT) == split)
        for split in SPLITS
    ]
    time = "2150-01-01 10:00:00"
    studies, records, measured, views = [], [], [], []
    for k, (patient, ef) in enumerate(zip(patients, EF, strict=True)):
        study = 100 + k
        studies.append((patient, study, time, "", 900 + k, time))
        for name, value, unit in (("lvef", ef, "%"), ("tr_mmhg", 20 + ef / 2, "mmHg")):
            measured.append((patient, 900 + k, time, "TTE", name, name, value, unit))
        for place, view in enumerate((*MIMIC_VIEWS, "")):
            file = f"files/p10/p{patient}/s{study}/{study}_{place:04d}.dcm"
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            make(root / file, frames[k][15 * place : 15 * place + 15], FrameTime=20.0)
            records.append((patient, study, time, file))
            if view:
                views.append((file, view))
    header = "subject_id,study_id,study_datetime,note_id,measurement_id,measurement_datetime"
    _table(root / "echo-study-list.csv", header, studies)
    header = "subject_id,study_id,acquisition_datetime,dicom_filepath"
    _table(root / "echo-record-list.csv", header, records)
    header = "subject_id,measurement_id,measurement_datetime,test_type,measurement,"
    path = root / "structured-measurement.csv"
    _table(path, f"{header}measurement_description,result,unit", measured)
    with gzip.open(path.with_suffix(".csv.gz"), "wb") as file:
        file.write(path.read_bytes())
    path.unlink()
    _table(echoview, "dicom_filepath,view", views)
