"""Public data sets in miniature, with the phantom's frames inside and each set's own traps."""

import gzip
import json
import shutil
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest

from echojepa_jax.data import manifest, shards
from echojepa_jax.data.formats import decode
from echojepa_jax.data.sources import mimic_targets, read_source
from echojepa_jax.preparation import plan
from echojepa_jax.preparation.plan import Options
from echojepa_jax.utils.errors import UserError
from tests.makers import tables
from tests.makers.dicom import make
from tests.makers.prepared import left_out, prepared

pytestmark = pytest.mark.slow


def table(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def replaced(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def frames_of(path: Path) -> np.ndarray:
    return decode.decode(str(path), np.arange(60))


def loaded(source: str, **kwargs):
    return manifest.load([source], quarantine=None, workers=1, **kwargs)


# --- EchoNet-Pediatric ----------------------------------------------------------------------------


@pytest.fixture
def pediatric(tmp_path, videos) -> Path:
    root = tmp_path / "pediatric"
    for view, files in (("A4C", videos[:3]), ("PSAX", videos[3:6])):
        inner = root / "pediatric_echo_avi" / view
        (inner / "Videos").mkdir(parents=True)
        rows = []
        for k, file in enumerate(files):
            name = f"CR{k}-77-0000{k}.avi"
            shutil.copy(file, inner / "Videos" / name)
            rows.append(f"{name},{55.5 + k},F,{k},{10 + k},{100 + k},{k}")
        header = "FileName,EF,Sex,Age,Weight,Height,Split"
        table(inner / "FileList.csv", "\n".join([header, *rows]) + "\n")
        # Names of this table end in .avi, and a frame may be a text.
        tracings = "FileName,X,Y,Frame\nCR0-77-00000.avi,1,2,No Systolic\n"
        table(inner / "VolumeTracings.csv", tracings)
    return root


def test_pediatric(pediatric):
    samples = loaded(f"echonet_pediatric:{pediatric}")
    assert [(s.name, s.view, s.split) for s in samples] == [
        ("A4C/CR0-77-00000", "A4C", "test"),
        ("A4C/CR1-77-00001", "A4C", "val"),
        ("A4C/CR2-77-00002", "A4C", "train"),
        ("PSAX/CR0-77-00000", "PSAX", "test"),
        ("PSAX/CR1-77-00001", "PSAX", "val"),
        ("PSAX/CR2-77-00002", "PSAX", "train"),
    ]
    assert samples[1].targets == {"ef": 56.5, "age": 1, "weight": 11, "height": 101}
    assert samples[1].units["weight"] == "kg"
    assert samples[1].classes == {"sex": "F"}
    assert samples[0].patient == samples[3].patient == "CR0-77"
    assert all(s.frames == 60 for s in samples)


def test_pediatric_folds_are_options(pediatric):
    source = f"echonet_pediatric:{pediatric},val=2,test=0+1"
    assert [s.split for s in read_source(source)][:3] == ["test", "test", "val"]
    for wrong in ("val=10", "val=0", "val=a", "fold=1"):
        with pytest.raises(UserError, match=wrong.partition("=")[0]):
            read_source(f"echonet_pediatric:{pediatric},{wrong}")


def test_pediatric_names_that_are_no_patients(pediatric, caplog):
    path = pediatric / "pediatric_echo_avi" / "A4C" / "FileList.csv"
    path.write_text(path.read_text() + "CR0-77-00009.avi,50,F,1,2,3,5\n")
    samples = read_source(f"echonet_pediatric:{pediatric}")
    assert len({s.patient for s in samples}) == 4, "a name stands for itself"
    assert "do not identify patients, because 1 of them, such as CR0-77," in caplog.text


def test_pediatric_patients_with_another_fold_in_each_view(pediatric, caplog):
    replaced(pediatric / "pediatric_echo_avi/PSAX/FileList.csv", "100,0\n", "100,5\n")
    samples = read_source(f"echonet_pediatric:{pediatric}")
    mine = [(s.view, s.patient, s.split) for s in samples if s.patient == "CR0-77"]
    assert mine == [("A4C", "CR0-77", "test"), ("PSAX", "CR0-77", "test")], "never in two splits"
    assert "1 of 3 patients, such as CR0-77, have different splits in the two views" in caplog.text
    (first, *_) = read_source(f"echonet_pediatric:{pediatric},views=PSAX")
    assert (first.view, first.split) == ("PSAX", "train")
    with pytest.raises(UserError, match=r"'views' must be A4C or PSAX"):
        read_source(f"echonet_pediatric:{pediatric},views=PLAX")


# --- EchoNet-LVH ----------------------------------------------------------------------------------


def test_lvh(tmp_path, videos, caplog):
    root = tmp_path / "lvh"
    for batch, name, file in ((1, "0Xa", videos[0]), (4, "0Xb", videos[1]), (2, "0Xc", videos[2])):
        (root / f"Batch{batch}").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / f"Batch{batch}" / f"{name}.avi")
    header = ",HashedFileName,Calc,CalcValue,Frame,X1,X2,Y1,Y2,Frames,FPS,Width,Height,split"
    rest = "3,1,2,3,4,60,50,64,64"
    rows = [
        f"0,0Xa,IVSd,1.0,{rest},train",
        f"1,0Xa,IVSd,1.2,{rest},train",
        f"2,0Xb,LVIDd,4.5,{rest},val",
        f"3,0Xa,LVPWd,0.9,{rest},train",
        f"4,0Xb,Other,7,{rest},val",
    ]
    table(root / "MeasurementsList.csv", "\n".join([header, *rows]) + "\n")
    first, second = loaded(f"echonet_lvh:{root}")
    assert first.targets == {"ivsd": pytest.approx(1.1), "lvpwd": 0.9}
    assert (second.targets, second.split, second.view) == ({"lvidd": 4.5}, "val", "PLAX")
    assert second.path.endswith("Batch4/0Xb.avi")
    assert first.units["ivsd"] == "cm"
    assert "1 unused video not in MeasurementsList.csv" in caplog.text
    table(root / "MeasurementsList.csv", "\n".join([header, *rows, f"5,0Xa,IVSd,1,{rest},test"]))
    with pytest.raises(UserError, match="0Xa is in split 'test', and in 'train'"):
        read_source(f"echonet_lvh:{root}")


# --- CAMUS ----------------------------------------------------------------------------------------


@pytest.fixture
def camus(tmp_path, videos) -> Path:
    root = tmp_path / "camus"
    for k, patient in enumerate(("patient0001", "patient0002")):
        for code in ("2CH", "4CH"):
            folder = root / "database_nifti" / patient
            folder.mkdir(parents=True, exist_ok=True)
            volume = frames_of(videos[k])[:20, :48, :, 0].transpose(2, 1, 0)  # x, y, time
            image = nibabel.Nifti1Image(volume, np.diag([0.3, 0.2, 1, 1]))
            image.header.set_zooms((0.3, 0.2, 1.0))
            nibabel.save(image, folder / f"{patient}_{code}_half_sequence.nii.gz")
            facts = "ED: 1\nES: 20\nNbFrame: 20\nSex: F\nAge: 56\nImageQuality: Good\nEF: 53.5\n"
            table(folder / f"Info_{code}.cfg", facts + "FrameRate: 48.5\n")
    for part, name in (("training", "patient0002"), ("validation", ""), ("testing", "patient0001")):
        table(root / "database_split" / f"subgroup_{part}.txt", f"{name}\n")
    return root


def test_camus(camus, videos):
    samples = loaded(f"camus:{camus}")
    assert [(s.name, s.view, s.split) for s in samples] == [
        ("patient0001_2CH", "A2C", "test"),
        ("patient0001_4CH", "A4C", "test"),
        ("patient0002_2CH", "A2C", "train"),
        ("patient0002_4CH", "A4C", "train"),
    ]
    first = samples[0]
    assert (first.frames, first.fps, first.height, first.width) == (20, 48.5, 48, 64)
    assert first.targets == {"ef": 53.5, "age": 56}
    assert first.classes["sex"] == "F"
    assert first.spacing == pytest.approx((0.2, 0.3)), "down, right"
    np.testing.assert_array_equal(
        decode.decode(first.path, np.array([0, 7, 7])), frames_of(videos[0])[[0, 7, 7], :48]
    )


def test_camus_by_its_inner_folder_has_the_same_splits(camus, caplog):
    inner = read_source(f"camus:{camus}/database_nifti")
    assert [s.split for s in inner] == [s.split for s in read_source(f"camus:{camus}")]
    assert not caplog.text
    shutil.rmtree(camus / "database_split")
    table(camus / "database_nifti" / "patient0001" / "Info_2CH.cfg", "Sex: F\n")
    assert not any(s.split for s in read_source(f"camus:{camus}"))
    assert "2 of 2 patients have no split" in caplog.text
    assert "1 of 4 sequences have no EF" in caplog.text


def test_camus_that_is_damaged(camus):
    path = camus / "database_nifti" / "patient0001" / "patient0001_2CH_half_sequence.nii.gz"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(UserError, match="1 damaged"):
        loaded(f"camus:{camus}")
    table(path.parent / "Info_2CH.cfg", "EF: fifty\n")
    with pytest.raises(UserError, match=r"Info_2CH.cfg: 'EF' is not a number: 'fifty'"):
        read_source(f"camus:{camus}")
    with pytest.raises(UserError, match="patient0001"):
        read_source(f"camus:{camus}/database_split")


# --- TMED-2 ---------------------------------------------------------------------------------------


@pytest.fixture
def tmed2(tmp_path, videos) -> Path:
    root = tmp_path / "tmed2"
    folder = root / "view_and_diagnosis_labeled_set" / "labeled"
    folder.mkdir(parents=True)
    rows = ["query_key,SourceFolder,view_label,diagnosis_label"]
    labels = [("PLAX", "no_AS"), ("A4C", "severe_AS"), ("PSAX", "Not_Provided")]
    for k, (view, grade) in enumerate(labels):
        cv2.imwrite(str(folder / f"{k}s1_{k}.png"), frames_of(videos[k])[0, ..., 0])
        rows.append(f"{k}s1_{k}.png,labeled,{view},{grade}")
    table(root / "labels_per_image.csv", "\n".join(rows))
    split = "query_key,diagnosis_classifier_split,view_classifier_split\n0s1_0.png,train,Test\n"
    table(root / "DEV479" / "TMED2_fold0_labeledpart.csv", split)
    return root


def test_tmed2(tmed2, videos):
    samples = loaded(f"tmed2:{tmed2}")
    assert [(s.patient, s.study, s.view, s.targets) for s in samples] == [
        ("0", "0s1", "PLAX", {"stenosis": 0}),
        ("1", "1s1", "A4C", {"stenosis": 2}),
        ("2", "2s1", "PSAX", {}),
    ]
    assert all((s.frames, s.fps) == (1, 1) for s in samples), "stills are no fault here"
    replaced(tmed2 / "labels_per_image.csv", ".png", "")
    assert [s.path for s in read_source(f"tmed2:{tmed2}")] == [s.path for s in samples]
    picture = decode.decode(samples[0].path, np.zeros(4, int))
    np.testing.assert_array_equal(picture, np.repeat(frames_of(videos[0])[:1], 4, axis=0))


def test_tmed2_splits(tmed2):
    source = f"tmed2:{tmed2},table=DEV479/TMED2_fold0_labeledpart.csv"
    assert [s.split for s in read_source(source)] == ["test", "", ""]
    assert read_source(f"{source},task=diagnosis")[0].split == "train"
    table = tmed2 / "DEV479" / "TMED2_fold0_labeledpart.csv"
    replaced(table, "0s1_0.png", "0s1_0")
    assert [s.split for s in read_source(source)] == ["test", "", ""], "with and without .png"
    replaced(table, "0s1_0", "7s7_7")
    with pytest.raises(UserError, match="has no split for any of the 3 pictures"):
        read_source(source)
    with pytest.raises(UserError, match="task=other"):
        read_source(f"{source},task=other")
    replaced(tmed2 / "labels_per_image.csv", "severe_AS", "dreadful")
    with pytest.raises(UserError, match="'dreadful'"):
        read_source(f"tmed2:{tmed2}")


def test_tmed2_pictures_of_one_name(tmed2):
    here = tmed2 / "view_and_diagnosis_labeled_set"
    shutil.copytree(here / "labeled", here / "unlabeled")
    assert {Path(s.path).parent.name for s in read_source(f"tmed2:{tmed2}")} == {"labeled"}
    replaced(tmed2 / "labels_per_image.csv", ",labeled,", ",,")
    with pytest.raises(UserError, match=r"line 2 of .* fits 2 files \(.*/labeled/0s1_0\.png, "):
        read_source(f"tmed2:{tmed2}")


# --- lists of studies -----------------------------------------------------------------------------


def test_lists_of_studies(tmp_path, videos):
    lines = [f"{videos[0]} MISS {videos[1]} -0.73", "", f"MISS {videos[2]} {videos[3]} 1.5"]
    path = table(tmp_path / "list.txt", "\n".join(lines))
    samples = loaded(f"list_multiview:{path},views=A4C+PLAX+A2C")
    assert [(s.study, s.view, s.targets["label"]) for s in samples] == [
        (f"{videos[0]} {videos[1]}", "A4C", -0.73),
        (f"{videos[0]} {videos[1]}", "A2C", -0.73),
        (f"{videos[2]} {videos[3]}", "PLAX", 1.5),
        (f"{videos[2]} {videos[3]}", "A2C", 1.5),
    ]
    assert read_source(f"list_multiview:{path}")[1].view == "view3"
    path.write_text(f"{lines[0]}\n{videos[0]} 1\n")
    with pytest.raises(UserError, match=r"line 2 names 1 video for 3 views"):
        read_source(f"list_multiview:{path}")
    path.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(UserError, match=r"lines 1 and 4 name the same videos"):
        read_source(f"list_multiview:{path}")


# --- MIMIC-IV-Echo --------------------------------------------------------------------------------

MEASUREMENTS = """\
subject_id,measurement_id,measurement_datetime,test_type,measurement,measurement_description,result,unit
10,900,2150-01-01 10:00:00,TTE,LVEF,Ejection,50,%
10,900,2150-01-01 10:00:00,TTE,lvef_upper,Ejection,60,%
10,900,2150-01-01 10:00:00,TTE,note,"free, with
a new line",nothing,
10,901,2150-03-01 09:00:00,TTE,biplane_lvef,Ejection,41 %,%
10,901,2150-03-01 09:00:00,TTE,lvef_3d,Ejection,44,%
10,904,2150-03-02 00:00:00,TTE,lvef,Ejection,60,%
10,904,2150-03-02 00:00:00,TTE,tr_mmhg,Gradient,30,mmHg
10,905,,TTE,tr_mmhg,Gradient,31,mmHg
11,902,2150-01-01 10:00:00,TTE,biplane_lvef,Ejection,400,%
11,902,2150-01-01 10:00:00,TTE,lvef_3d,Ejection,33,%
11,902,2150-01-01 10:00:00,TTE,tr_mmhg,Gradient,25,mmHg
11,902,2150-01-01 10:00:00,TTE,tr_mmhg,Gradient,27,mmHg
12,903,2150-01-01 10:00:00,TTE,lvef,Ejection,>55,%
"""


@pytest.fixture
def mimic(tmp_path, videos) -> Path:
    """Study 1 names its measurement, 2 and 3 are joined by time, 4 has no number, 5 is far away."""
    root = tmp_path / "mimic"
    studies = ["subject_id,study_id,study_datetime,note_id,measurement_id,measurement_datetime"]
    records = ["subject_id,study_id,acquisition_datetime,dicom_filepath"]
    for subject, study, time, measurement in (
        (10, 1, "2150-06-01 00:00:00", 900),
        (10, 2, "2150-03-01 08:00:00", ""),
        (11, 3, "2150-01-02 10:00:00", ""),
        (12, 4, "2150-01-01 10:00:00", 903),
        (11, 5, "2150-01-09 10:00:00", ""),
    ):
        studies.append(f"{subject},{study},{time},,{measurement},")
        file = f"files/p10/p{subject}/s{study}/{study}_0001.dcm"
        records.append(f"{subject},{study},{time},{file}")
        (root / file).parent.mkdir(parents=True)
        make(root / file, frames_of(videos[0])[:20, ..., 0], FrameTime=20.0)
    table(root / "echo-study-list.csv", "\n".join(studies))
    table(root / "echo-record-list.csv", "\n".join(records))
    with gzip.open(root / "structured_measurement.csv.gz", "wt") as file:
        file.write(MEASUREMENTS)
    table(tmp_path / "echoview.csv", "dicom_filepath,view\nfiles/p10/p10/s1/1_0001.dcm,A4C\n")
    return root


def test_mimic(mimic, caplog):
    caplog.set_level("INFO")
    samples = loaded(f"mimic_iv_echo:{mimic},views={mimic.parent}/echoview.csv")
    assert [(s.patient, s.study, s.targets) for s in samples] == [
        ("10", "1", {"lvef": 55}),
        ("10", "2", {"lvef": 41, "rvsp": 30}),
        ("11", "3", {"lvef": 33, "rvsp": 26}),
        ("12", "4", {}),
        ("11", "5", {}),
    ]
    assert (samples[0].name, samples[0].view, samples[1].view) == ("1_0001", "A4C", "")
    assert (samples[0].frames, samples[0].fps, samples[0].split) == (20, 50, "")
    assert samples[0].units == {"lvef": "%", "rvsp": "mmHg"}
    assert "lvef: 3 of 5 studies (biplane_lvef 1, lvef_3d 1, lvef+lvef_upper 1)" in caplog.text
    assert "lvef: 1 results are not numbers, such as '>55'" in caplog.text
    assert "1 of 5 files have a view" in caplog.text
    source = f"mimic_iv_echo:{mimic},views={mimic.parent}/echoview.csv,without_view=skip"
    assert [s.name for s in read_source(source)] == ["1_0001"]
    with pytest.raises(UserError, match="'without_view' must be keep, or skip together with"):
        read_source(f"mimic_iv_echo:{mimic},without_view=skip")
    table(mimic.parent / "echoview.csv", "dicom_filepath,view\nother/9_9.dcm,A4C\n")
    with pytest.raises(UserError, match=r"echoview\.csv contains none of the 5 files"):
        read_source(f"mimic_iv_echo:{mimic},views={mimic.parent}/echoview.csv")


def test_mimic_files_outside_the_folder_are_rejected(mimic, tmp_path):
    lines = (mimic / "echo-record-list.csv").read_text().splitlines()
    shutil.copy(mimic / "files/p10/p10/s1/1_0001.dcm", mimic.parent / "secret.dcm")
    lines.append("10,1,2150-06-01 00:00:00,../secret.dcm")
    (mimic / "echo-record-list.csv").write_text("\n".join(lines))
    out = tmp_path / "shards"
    prepared(f"mimic_iv_echo:{mimic}", out, Options(size=64, sector="never"))
    assert left_out(out)["secret.dcm"] == "unsafe name: it leads out of the data set's folder"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("55", 55), ("55.", 55), ("55.5 %", 55.5), (" 30 mmHg ", 30), ("50-55", 52.5)),
        *(("50\u201355 %", 52.5), ("50% to 60%", 55), (">55", None), ("normal", None), ("", None)),
    ],
)
def test_numbers_that_results_state(text, value):
    assert mimic_targets.number(text) == value


def test_mimic_kinds_of_tests_units_and_odd_texts(mimic, caplog):
    rows = MEASUREMENTS.replace("09:00:00,TTE,biplane_lvef", "09:00:00,stress,biplane_lvef")
    rows = rows.replace("Gradient,27,mmHg", "Gradient,27,kPa")
    with gzip.open(mimic / "structured_measurement.csv.gz", "wb") as file:
        file.write(rows.encode().replace(b"free, with", b"caf\xe9, with"))
    rules = mimic.parent / "rules.json"
    rule = {"first_of": ["biplane_lvef", ["lvef", "lvef_upper"]], "range": [5, 95], "unit": "%"}
    rvsp = {"first_of": ["tr_mmhg"], "range": [5, 95], "unit": "mmHg"}
    text = {"window_days": 1, "test_types": ["tte"], "targets": {"lvef": rule, "rvsp": rvsp}}
    rules.write_text(json.dumps(text))
    source = f"mimic_iv_echo:{mimic},rules={rules}"
    found = [s.targets.get("lvef") for s in read_source(source)]
    assert found == [55, 60, None, None, None], "study 2 takes the next one in time"
    assert "tr_mmhg has several units, which the rules treat as one: {'mmHg'" in caplog.text
    rules.write_text(json.dumps(text | {"test_types": "tte"}))
    with pytest.raises(UserError, match="test_types must be a list"):
        read_source(source)
    # A missing id may be spelled.
    replaced(mimic / "echo-study-list.csv", "08:00:00,,,", "08:00:00,,nan,")
    assert read_source(f"mimic_iv_echo:{mimic}")[1].targets["rvsp"] == 30


def test_mimic_rules_are_a_file(mimic, caplog):
    rules = mimic.parent / "rules.json"
    text = '{{"window_days": {}, "targets": {{"{}": {}}}}}'
    rule = '{"first_of": ["lvef_upper"], "range": [5, 95], "unit": "%"}'
    rules.write_text(text.format(30, "upper", rule))
    samples = read_source(f"mimic_iv_echo:{mimic},rules={rules}")
    assert [s.targets for s in samples] == [{"upper": 60}, {}, {}, {}, {}]
    rules.write_text(text.format(1, "lvef", rule.replace("lvef_upper", "ef")))
    assert not any(s.targets for s in read_source(f"mimic_iv_echo:{mimic},rules={rules}"))
    assert "measurements with similar names: biplane_lvef, lvef, lvef_3d" in caplog.text
    no_results = text.format(1, "a", '{"first_of": [], "range": [1, 2]}')
    for wrong in ('{"targets": {}}', "[]", no_results):
        rules.write_text(wrong)
        with pytest.raises(UserError, match=r"rules.json"):
            read_source(f"mimic_iv_echo:{mimic},rules={rules}")


def test_mimic_names_the_missing_column(mimic):
    table(mimic / "echo-record-list.csv", "subject_id,study_id,file\n")
    with pytest.raises(UserError, match=r"echo-record-list.csv has no column 'dicom_filepath'"):
        read_source(f"mimic_iv_echo:{mimic}")
    (mimic / "structured_measurement.csv.gz").unlink()
    table(mimic / "structured-measurement.csv", "subject_id,result\n1,2\n")
    table(mimic / "echo-record-list.csv", "subject_id,study_id,dicom_filepath\n1,1,a.dcm\n")
    lacks = r"structured-.* lacks the columns measurement_id.*; it has subject_id, result"
    with pytest.raises(UserError, match=lacks):
        read_source(f"mimic_iv_echo:{mimic}")
    (mimic / "structured-measurement.csv").unlink()
    assert read_source(f"mimic_iv_echo:{mimic}")[0].targets == {}


@pytest.mark.parametrize(
    ("fixture", "kind", "changes"),
    [
        ("pediatric", "echonet_pediatric", {}),
        ("camus", "camus", {}),
        ("tmed2", "tmed2", {}),
        ("mimic", "mimic_iv_echo", {"sector": "never"}),
    ],
)
def test_each_layout_is_prepared(request, tmp_path, fixture, kind, changes):
    source = f"{kind}:{request.getfixturevalue(fixture)}"
    out = tmp_path / "shards"
    prepared(source, out, Options(size=64, **changes))
    reasons = left_out(out) if plan.Work(out).rejected.exists() else {}
    # Some of these miniatures hold the same pictures under several names.
    assert all(reason.startswith(("duplicate", "no split")) for reason in reasons.values()), reasons
    made = {sample.name: sample for sample in shards.samples(str(out), source)}
    listed = {s.name: s for s in loaded(source) if Path(s.path).name not in reasons}
    assert len(made) >= 1
    assert made.keys() == listed.keys()
    for name, sample in made.items():
        before = listed[name]
        assert sample.targets == pytest.approx(before.targets)
        assert (sample.patient, sample.view) == (before.patient, before.view)
        assert sample.split == before.split or not before.split
        assert (sample.frames, sample.fps) == (before.frames, before.fps)


def test_the_phantom_is_in_echonets_layout(hearts):
    names = [row["FileName"] for row in tables.rows(hearts / "FileList.csv")]
    samples = loaded(f"echonet_dynamic:{hearts}")
    assert [s.name for s in samples] == names
    assert samples[0].units == {"ef": "%", "esv": "ml", "edv": "ml"}
