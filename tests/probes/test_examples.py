"""Examples of a probe: labels, studies, splits, and which views are there."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echojepa_jax.data.sample import Sample
from echojepa_jax.probes.examples import (
    drop_views,
    make_examples,
    of_split,
    patient_of,
    share_of,
    slots,
)
from echojepa_jax.utils.errors import UserError


def sample(name, study="s1", view="A4C", split="train", patient="p1", **targets):
    return Sample(name, f"/x/{name}.avi", "csv:/x", patient, study, view, split, targets)


STUDIES = [
    sample("a", "s1", "A4C", ef=50.5),
    sample("b", "s1", "PLAX", ef=50.5),
    sample("c", "s1", "A4C", ef=50.5),
    sample("d", "s2", "PLAX", patient="p2", split="val", ef=61.0),
    sample("e", "s2", "SSN", patient="p2", split="val", ef=61.0),
]


def test_f15_a_video_is_an_example_with_the_label_as_it_is():
    examples = make_examples(STUDIES, "ef", (), False)
    first = [(e.name, e.label, e.rows) for e in examples[:2]]
    assert first == [("a", 50.5, ((0,),)), ("b", 50.5, ((1,),))]
    assert [e.label for e in make_examples(STUDIES, "view", (), False)][3:] == ["PLAX", "SSN"]


def test_age_and_sex_come_from_labels_of_these_names():
    aged = sample("a", ef=50.5, Age=61.0)
    known = dataclasses.replace(aged, units={"Age": "years"}, classes={"Sex": "F"})
    (example,) = make_examples([known], "ef", (), False)
    assert (example.age, example.sex) == (61.0, "F")
    (study,) = make_examples([known], "ef", ("A4C",), False)
    assert (study.age, study.sex) == (61.0, "F")
    months = dataclasses.replace(
        aged, units={"Age": "months"}, targets={**aged.targets, "gender": 1}
    )
    (example,) = make_examples([months], "ef", (), False)
    assert (example.age, example.sex) == (None, "1")
    (example,) = make_examples([sample("a", ef=50.5)], "ef", (), False)
    assert (example.age, example.sex) == (None, "")


def test_a_study_is_an_example_with_a_slot_for_every_view():
    examples = make_examples(STUDIES, "ef", ("A4C", "PLAX"), False)
    wanted = [("s1", ((0, 2), (1,)), "train", 50.5), ("s2", ((), (3,)), "val", 61.0)]
    assert [(e.name, e.rows, e.split, e.label) for e in examples] == wanted


@pytest.mark.parametrize(
    ("change", "views", "sentence"),
    [
        ({"study": ""}, ("A4C",), "has no study, which task.views needs"),
        ({"targets": {"ef": 3.0}}, ("A4C", "PLAX"), r"s1 .* more than one ef: \['3.0', '50.5'\]"),
        ({"split": "test"}, ("A4C",), r"s1 .* more than one split"),
        ({"patient": "p9"}, ("A4C",), r"s1 .* more than one patient"),
        ({}, ("A4C", "A9C"), "no video shows the view 'A9C'"),
        ({"targets": {"esv": 3.0}}, (), r"1 of 5 videos have no label 'ef'; .* a of csv:/x"),
    ],
)
def test_studies_and_labels_that_cannot_be_are_one_sentence(change, views, sentence):
    samples = [dataclasses.replace(STUDIES[0], **change), *STUDIES[1:]]
    with pytest.raises(UserError, match=sentence):
        make_examples(samples, "ef", views, False)


def test_unlabelled_videos_are_left_out_if_that_is_wanted(caplog):
    samples = [dataclasses.replace(STUDIES[0], targets={}), *STUDIES[1:]]
    assert len(make_examples(samples, "ef", (), True)) == 4
    assert "1 of 5 videos have no label 'ef'" in caplog.text
    with pytest.raises(UserError, match="5 of 5 videos have no label 'rvsp'"):
        make_examples(STUDIES, "rvsp", (), True)


def test_a_split_that_is_not_there_is_named():
    examples = make_examples(STUDIES, "ef", (), False)
    with pytest.raises(UserError, match=r"'data\.test_split' is 'test', .* \['train', 'val'\]"):
        of_split(examples, "test", "config field 'data.test_split'")


def test_a_share_is_of_patients_and_grows():
    samples = [sample(f"v{i}", patient=f"p{i // 2}", ef=1.0) for i in range(40)]
    examples = make_examples(samples, "ef", (), False)
    shares = [share_of(examples, share, seed=0) for share in (0.1, 0.5, 1.0)]
    assert [len(share) for share in shares] == [4, 20, 40]
    names = [{e.name for e in share} for share in shares]
    assert names[0] < names[1] < names[2]
    assert {e.name for e in share_of(examples, 0.5, seed=1)} != names[1]


def test_unknown_patients_are_told_by_their_study_or_are_their_own():
    one, two = sample("a", patient=""), sample("b", patient="")
    assert patient_of(one) == patient_of(two)
    one, two = (dataclasses.replace(s, study="") for s in (one, two))
    assert patient_of(one) != patient_of(two)


def test_f16_a_view_whose_file_failed_is_missing():
    examples = make_examples(STUDIES, "ef", ("A4C", "PLAX"), False)
    there = np.array([False, True, True, False, True])
    np.testing.assert_array_equal(slots(examples, there, None), [[2, 1], [-1, -1]])


@given(st.integers(0, 2**31), st.floats(0, 1), st.integers(1, 30), st.integers(1, 6))
def test_dropping_views_leaves_one_and_invents_none(seed, rate, count, views):
    rng = np.random.default_rng(seed)
    present = rng.random((count, views)) < 0.6
    kept = drop_views(present, rate, rng)
    assert not (kept & ~present).any()
    np.testing.assert_array_equal(kept.any(axis=1), present.any(axis=1))


def test_views_are_dropped_at_the_rate_that_is_asked_for():
    present = np.ones((20_000, 8), bool)
    kept = drop_views(present, 0.1, np.random.default_rng(0))
    assert abs(kept.mean() - 0.9) < 0.005
    np.testing.assert_array_equal(drop_views(present, 0.0, np.random.default_rng(0)), present)
