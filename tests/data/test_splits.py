"""Splits and pseudonyms: functions of name and salt, and of nothing else."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojepa_jax.data import splits
from echojepa_jax.data.formats import video_record
from echojepa_jax.data.formats.video_info import UnreadableVideo
from echojepa_jax.data.sample import Sample
from echojepa_jax.utils.errors import UserError
from tests.makers.dicom import make

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
SALTS = st.binary(min_size=16, max_size=40)


@given(st.sets(st.text(min_size=1), min_size=1), st.text(min_size=1), SALTS)
def test_a_patient_keeps_its_split_when_others_are_added(names, newcomer, salt):
    before = {name: splits.split_of(name, SHARES, salt) for name in names}
    splits.split_of(newcomer, SHARES, salt)
    assert {name: splits.split_of(name, SHARES, salt) for name in names} == before
    assert set(before.values()) <= set(SHARES)


def test_shares_are_kept_and_depend_on_the_salt():
    found = [splits.split_of(f"patient {k}", SHARES, b"a" * 16) for k in range(5000)]
    counts = Counter(found)
    for name, share in SHARES.items():
        assert counts[name] / 5000 == pytest.approx(share, abs=0.02)
    other = [splits.split_of(f"patient {k}", SHARES, b"b" * 16) for k in range(5000)]
    assert sum(a != b for a, b in zip(found, other, strict=True)) > 1000


@given(st.text(min_size=1), SALTS, SALTS)
def test_pseudonyms_need_the_salt(name, salt, other):
    mine = splits.pseudonym("patient", name, salt)
    assert mine == splits.pseudonym("patient", name, salt)
    assert len(mine) == 16
    assert int(mine, 16) >= 0
    assert mine != splits.pseudonym("study", name, salt)
    if salt != other:
        assert mine != splits.pseudonym("patient", name, other)
    assert splits.pseudonym("patient", "", salt) == ""


@pytest.mark.parametrize("text", ["", "train", "train:1,val:1", "train:-1,val:2", "a b:1", "x:y"])
def test_impossible_shares(text):
    with pytest.raises(UserError, match="--splits="):
        splits.parse(text)


def test_shares_are_read():
    assert splits.parse("train:0.9, Val:0.1,test:0") == {"train": 0.9, "val": 0.1}


_VALUES = {
    str: st.text(st.characters(codec="utf-8")),
    bytes: st.binary(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(width=32, allow_nan=False),
}


@given(
    st.fixed_dictionaries(
        {name: st.lists(_VALUES[kind], max_size=4) for name, kind in video_record.KINDS.items()}
    )
)
def test_any_record_comes_back(features):
    packed = video_record.pack(features)
    assert video_record.unpack(packed) == features
    assert video_record.pack(dict(reversed(features.items()))) == packed


@given(st.binary())
def test_bytes_that_are_not_a_record(data):
    with pytest.raises(UnreadableVideo, match="damaged"):
        video_record.unpack(data)


# --- patients that names tell, and splits of sources without any ----------------------------------


def listed(*names: str, **facts: str) -> list[Sample]:
    return [Sample(name, f"/v/{name}", "videos:/v", **facts) for name in names]


@pytest.mark.parametrize(
    ("pattern", "patients"),
    [
        ("^([^_]+)_", ["p1", "p1", "p2", ""]),
        ("^p[0-9]", ["p1", "p1", "p2", ""]),
        ("p(?P<patient>[0-9])", ["1", "1", "2", ""]),
        ("(x)?_a", ["", "", "", ""]),
        ("[", None),
        ("zzz", None),
    ],
)
def test_patients_from_names(pattern, patients):
    samples = listed("p1_a.avi", "p1_b.avi", "p2_a.avi", "other.avi")
    if not any(patients or []):
        with pytest.raises(UserError, match=r"^--patient_from="):
            splits.patients_from(pattern, samples)
    else:
        assert [s.patient for s in splits.patients_from(pattern, samples)] == patients


def test_names_do_not_overrule_a_source_that_names_patients():
    with pytest.raises(UserError, match="names the patients"):
        splits.patients_from("^(a)", listed("a.avi", "b.avi", patient="p"))


def test_a_source_without_splits_gets_those_of_preparation(caplog, tmp_path):
    caplog.set_level("INFO")
    samples = [Sample(f"{k}.avi", f"/v/{k}.avi", "csv:t", patient=f"p{k // 3}") for k in range(300)]
    others = [Sample("x.avi", "/w/x.avi", "echo", split="train")]
    assert splits.divided(samples, {"fold1", ""}) == samples
    found = splits.divided([*samples, *others], {"test"})
    shares = splits.parse(splits.DEFAULT)
    assert [s.split for s in found[:300]] == [
        splits.split_of(s.patient, shares, splits.PUBLIC_SALT) for s in samples
    ]
    assert found[300:] == others
    assert all(len({s.split for s in found if s.patient == f"p{k}"}) == 1 for k in range(100))
    assert {s.split for s in found} == {"train", "val", "test"}
    counts = Counter(s.split for s in found[:300])
    assert f"csv:t has no splits and is split by patient: train {counts['train']} videos" in (
        caplog.text
    )
    assert "unknown" not in caplog.text


def test_too_few_patients_for_a_split_are_an_error():
    samples = [Sample(f"{k}", f"/v/{k}", "csv:t", patient="q") for k in range(5)]
    (name,) = {sample.split for sample in splits.divided(samples, {"train"})}
    assert name == "train"
    with pytest.raises(UserError, match=r"train 5 videos, .* leaves 'test' empty: give the splits"):
        splits.divided(samples, {"train", "test"})


def test_a_study_is_in_the_split_of_its_patient(caplog):
    samples = [
        Sample("a", "/v/a", "csv:t", patient="p", study="s"),
        Sample("b", "/v/b", "csv:t", study="s"),
        *(Sample(f"c{k}", f"/v/c{k}", "csv:t", study="t") for k in range(20)),
        Sample("d", "/v/d", "csv:t"),
    ]
    first, second, *third, _ = splits.divided(samples, {"train"})
    assert first.split == second.split
    assert len({s.split for s in third}) == 1
    assert "the patient of 21 of 23 videos is unknown" in caplog.text


@pytest.fixture
def cine(tmp_path):
    """Writes a small DICOM of a patient; the same number gives the same pictures."""

    def write(name: str, number: int, patient: str = "", study: str = "") -> str:
        pixels = np.full((2, 8, 8), number, np.uint8)
        ids = {"PatientID": patient, "PatientName": "", "StudyInstanceUID": study}
        return make(tmp_path / name, pixels, **ids)

    return write


def test_headers_name_patients_that_a_table_does_not_name(cine, caplog):
    """Nobody learns the name: a patient is called by the first of the files."""
    samples = [
        Sample(f"{k}.dcm", cine(f"{k}.dcm", k, f"MRN{k % 2}"), "csv:t", frames=2) for k in range(12)
    ]
    found = splits.divided(samples, {"train"})
    shares = splits.parse(splits.DEFAULT)
    for k, sample in enumerate(found):
        assert sample.split == splits.split_of(f"MRN{k % 2}", shares, splits.PUBLIC_SALT)
        assert sample.patient == f"csv:t#{k % 2}.dcm"
    assert caplog.text == ""


def test_a_patient_of_two_sources_comes_to_one_split(cine):
    """By the ids in headers, by a study that one source names alone, and by a column."""
    samples = []
    for k in range(40):
        patient = f"MRN{k}"
        first = cine(f"a{k}.dcm", 3 * k, patient, f"1.2.{k}")
        second = cine(f"b{k}.dcm", 3 * k + 1, "", f"1.2.{k}")
        third = cine(f"c{k}.dcm", 3 * k + 2)
        samples += [
            Sample(f"{k}.dcm", first, "dicom:a", frames=2),
            Sample(f"{k}.dcm", second, "dicom:b", frames=2),
            Sample(f"{k}.dcm", third, "csv:t", frames=2, patient=patient),
        ]
    found = splits.divided(samples, {"train", "test"})
    assert {sample.split for sample in found} == {"train", "val", "test"}
    for k in range(40):
        members = found[3 * k : 3 * k + 3]
        assert len({sample.split for sample in members}) == 1
        assert {sample.patient for sample in members} == {f"MRN{k}"}, "as the table says"
    # A source that gives splits is followed, and may not tear a patient apart.
    given = [
        dataclasses.replace(s, split=("val", "train")[k > 60] if s.source == "dicom:a" else "")
        for k, s in enumerate(samples)
    ]
    found = splits.divided(given, {"val"})
    assert [s.split for s in found] == ["val"] * 63 + ["train"] * 57
    torn = [dataclasses.replace(s, split=f"fold{k}") for k, s in enumerate(samples[:2])]
    with pytest.raises(UserError, match=r"^patient dicom:a#0.dcm is in split 'fold0'"):
        splits.divided(torn, {"fold0"})


def test_copies_do_not_come_to_two_splits(cine, caplog):
    """Copies with two patient ids, or without ids; those of a source with splits stay."""
    samples = [
        Sample(f"{k}.dcm", cine(f"{side}{k}.dcm", k, f"{side}{k}"), f"dicom:{side}", frames=2)
        for k in range(30)
        for side in "ab"
    ]
    found = splits.divided(samples, {"train"})
    by_content: dict[str, set[str]] = {}
    for sample in found:
        by_content.setdefault(sample.name, set()).add(sample.split)
    assert len(by_content) == 30
    assert all(len(parts) == 1 for parts in by_content.values())
    lost = len(samples) - len(found)
    assert f"rejected {lost} videos with the same pictures" in caplog.text
    given = [dataclasses.replace(s, split="test") if s.source == "dicom:b" else s for s in samples]
    found = splits.divided(given, {"test"})
    assert sum(sample.source == "dicom:b" for sample in found) == 30
    assert {sample.split for sample in found} == {"test"}
