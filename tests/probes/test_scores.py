"""Tasks and scored tables: scaling from training alone, classes, lines of examples and studies."""

import math

import numpy as np
import pytest

from echojepa_jax.probes.examples import Example
from echojepa_jax.probes.predict import Outputs, spread
from echojepa_jax.probes.results import predictions, scores, study_rows
from echojepa_jax.probes.run import summary
from echojepa_jax.probes.task import Task, beats_the_guess, fit_task
from echojepa_jax.probes.worst import badness
from echojepa_jax.utils.bootstrap import with_intervals
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.scores import class_scores, regression_scores


def examples(labels, patients=None, study=""):
    return [
        Example(f"v{i}", "csv:/x", (patients or labels)[i], study, "train", "A4C", ((i,),), label)
        for i, label in enumerate(labels)
    ]


def test_scaling_is_undone_exactly_where_it_was_done():
    task = fit_task("regression", "ef", examples([40.5, 60.5, 71.0]))
    assert task.mean == pytest.approx(np.mean([40.5, 60.5, 71.0]))
    assert task.std == pytest.approx(np.std([40.5, 60.5, 71.0]))
    back = task.decode(task.encode([12.5, 99.0])[:, None])
    np.testing.assert_allclose(back, [12.5, 99.0], rtol=1e-6)


def test_classes_are_sorted_and_the_commonest_is_the_guess():
    task = fit_task("classification", "view", examples(["PLAX", "A4C", "PLAX"]))
    assert task.classes == ("A4C", "PLAX")
    assert task.commonest == "PLAX"
    np.testing.assert_array_equal(task.encode(["PLAX", "A4C"]), [1, 0])
    numbers = fit_task("classification", "grade", examples([10.0, 2.0, 10.0]))
    assert numbers.classes == ("2", "10")
    texts = fit_task("classification", "grade", examples(["--3", "none", "-1", "10", "2"]))
    assert texts.classes == ("-1", "2", "10", "--3", "none")
    with pytest.raises(UserError, match=r"classes \['SSN'\] of 'view' do not occur in"):
        task.encode(["SSN"])


@pytest.mark.parametrize(
    ("kind", "labels", "sentence"),
    [
        ("regression", [3.0, 3.0], "is 3 in all 2 training examples"),
        ("classification", ["A4C", "A4C"], "every training example has the class 'A4C'"),
        ("classification", [1.0, 1.5], "contains 1.5, which is not a class"),
    ],
)
def test_labels_that_teach_nothing_are_one_sentence(kind, labels, sentence):
    with pytest.raises(UserError, match=sentence):
        fit_task(kind, "x", examples(labels))


def test_f15_whole_numbers_in_a_regression_are_warned_of(caplog):
    fit_task("regression", "ef", examples([40.0, 60.0]))
    assert "has only whole numbers, 40 to 60" in caplog.text


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_score_that_is_not_defined_has_no_interval_and_is_said(kind):
    rng = np.random.default_rng(0)
    score = class_scores if kind == "classification" else regression_scores
    true, found = rng.integers(2, size=20), rng.random((20, 2))
    found[3] = np.nan
    patients = [str(i) for i in range(20)]
    found = found if kind == "classification" else found[:, 0]
    told = with_intervals(score, true, found, patients, 50, 0)
    nothing = {"value": None, "low": None, "high": None}
    assert all(values == nothing for values in told.values())
    test = {"scores": told, "examples": 20, "patients": 20, "unreadable": 0}
    said = summary({"task": {"kind": kind, "target": "x", "unit": "mm"}, "test": test})
    name = {"regression": "MAE", "classification": "accuracy"}[kind]
    assert said == f"x: {name} is not defined on 20 examples of 20 patients"


def test_the_worst_predictions_are_far_off_or_sure_of_another_class():
    task = fit_task("regression", "ef", examples([40.5, 60.5]))
    rows = list(zip(examples([50.0, 50.0, 50.0]), [51.0, 30.0, np.nan], strict=True))
    np.testing.assert_array_equal(badness(task, rows), [1, 20, np.inf])
    task = fit_task("classification", "view", examples(["A", "B"]))
    shares = [np.array([0.9, 0.1]), np.array([0.6, 0.4])]
    found = badness(task, list(zip(examples(["B", "A"]), shares, strict=True)))
    np.testing.assert_array_equal(found, [-0.1, -0.6])


def test_f05_every_example_has_a_line_and_what_is_unreadable_says_why():
    task = Task("regression", "ef", mean=50.0, std=10.0)
    values = np.array([[[1.0], [0.0], [2.0]], [[0.0], [0.0], [0.0]], [[-1.0], [-1.0], [9.0]]])
    present = np.array([[True, True], [False, False], [True, False]])
    outputs = Outputs(values, ["", "truncated", ""])
    lines, rows = predictions(task, examples([60.0, 50.0, 45.0]), outputs, present)
    assert [line["id"] for line in lines] == ["v0", "v1", "v2"]
    assert lines[0] | {"prediction": "60.0", "spread": "10.0", "status": "ok"} == lines[0]
    assert lines[1]["status"] == "unreadable: truncated"
    assert "prediction" not in lines[1]
    assert (lines[2]["prediction"], lines[2]["spread"]) == ("40.0", "")
    assert [example.name for example, _ in rows] == ["v0", "v2"]
    result = scores(task, rows, 10, 0)
    assert result["scores"]["mae"]["value"] == 2.5
    assert result["baseline"]["mae"] == 7.5


def test_heads_are_of_use_if_they_do_better_than_a_constant_guess():
    """A head of classes that is not finite counted as one that always answers the first class."""
    lost = [math.nan, math.nan]
    task = Task("regression", "ef", mean=50.0, std=10.0)
    decoded = np.array([[41.0, 50.0, math.nan], [58.0, 50.0, 60.0]])
    assert beats_the_guess(task, [40.0, 60.0], decoded).tolist() == [True, False, False]
    task = Task("classification", "view", classes=("A4C", "PLAX"), commonest="PLAX")
    decoded = np.array([[[0.9, 0.1], [0.2, 0.8], lost]] * 2 + [[[0.3, 0.7], [0.2, 0.8], lost]])
    labels = ["A4C", "A4C", "PLAX"]
    assert beats_the_guess(task, labels, decoded).tolist() == [True, False, False]


def test_the_spread_over_heads_is_beside_that_over_clips():
    task = Task("regression", "ef", mean=50.0, std=10.0)
    # The chosen head, one clip, and three heads of the grid.
    values = np.array([[[1.0], [1.0], [1.0], [0.0], [2.0]]])
    outputs, present = Outputs(values, [""]), np.array([[True]])
    (line,), _ = predictions(task, examples([60.0]), outputs, present, np.array([1.5]))
    assert (line["spread"], float(line["spread_heads"])) == ("", pytest.approx(200**0.5 / 3**0.5))
    assert (line["distance"], line["flag"]) == ("1.5", "far")
    (line,), _ = predictions(task, examples([60.0]), outputs, present)
    assert (line["distance"], line["flag"]) == ("", "")


def test_a_study_is_the_mean_of_its_videos():
    task = Task("regression", "ef", mean=0.0, std=1.0)
    parts = [
        Example(name, "csv:/x", patient, study, "test", "A4C", ((0,),), label)
        for name, patient, study, label in (
            ("v0", "p", "a", 60.0),
            ("v1", "p", "a", 60.0),
            ("v2", "q", "b", 40.0),
        )
    ]
    said = (50.0, 80.0, 41.0)
    lines, studies = study_rows(task, list(zip(parts, said, strict=True)))
    assert [(line["study"], line["prediction"], line["examples"]) for line in lines] == [
        ("a", "65.0", 2),
        ("b", "41.0", 1),
    ]
    assert scores(task, studies, 10, 0)["scores"]["mae"]["value"] == 3.0


def test_spread_is_over_the_slots_that_are_there():
    values = np.array([[1.0, 3.0, 99.0], [5.0, 0.0, 0.0]])
    present = np.array([[True, True, False], [True, False, False]])
    found = spread(values, present)
    assert found[0] == 1.0
    assert np.isnan(found[1])
