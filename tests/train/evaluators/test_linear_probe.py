"""The online probe's models and its words about labels."""

import dataclasses

import numpy as np
import pytest

from echojepa_jax.data.sample import Sample
from echojepa_jax.train.evaluators.linear_probe import (
    check_labels,
    fit_all,
    fit_regression,
    regression_scores,
    view_scores,
)
from echojepa_jax.utils.errors import UserError

VIEWS = ("A2C", "A4C")
LABELS = {"train_split": "train", "test_split": "test", "targets": ("ef",), "view": True}


def cohort(patients, split, rng):
    """Two videos a patient, whose feature 0 rises with EF in one view and falls in the other."""
    samples, features = [], []
    for index in range(patients):
        ef = rng.uniform(20, 75)
        for sign, view in zip((1, -1), VIEWS, strict=True):
            name = f"{split}{index}"
            about = {"view": view, "split": split, "targets": {"ef": ef}}
            samples.append(Sample(f"{name}-{view}", "", "", name, **about))
            features.append([sign * (ef - 47), sign, *rng.standard_normal(3)])
    return samples, np.array(features)


@pytest.fixture
def cohorts():
    rng = np.random.default_rng(0)
    return cohort(40, "train", rng), cohort(10, "test", rng)


def test_every_view_has_a_regression_of_its_own(cohorts):
    (train, x), (test, y) = cohorts
    fit = fit_regression(x, train, y, test, "ef")
    assert fit.scores["mae"] < 0.5
    assert fit.scores["r2"] > 0.99
    np.testing.assert_array_equal(fit.true, [s.targets["ef"] for s in test])


def test_scores_of_numbers_and_views():
    found = regression_scores(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 6]))
    assert found == {"mae": 0.5, "r2": pytest.approx(1 - 4 / 5)}
    assert np.isnan(regression_scores(np.ones(3), np.zeros(3))["r2"])
    assert view_scores(np.array(["A", "B"]), np.array(["A", "A"])) == {"accuracy": 0.5}


def test_a_view_with_few_patients_is_read_by_the_regression_of_all(cohorts):
    (train, x), (test, y) = cohorts
    few = [i for i, s in enumerate(train) if s.view == "A4C" or int(s.patient[5:]) < 5]
    fit = fit_regression(x[few], [train[i] for i in few], y, test, "ef")
    error = np.abs(fit.predicted - fit.true)
    rare = np.array([s.view == "A2C" for s in test])
    assert error[~rare].mean() < 0.5
    assert error[rare].mean() > 5


def test_views_are_told_apart_and_nothing_of_the_test_split_is_fitted(cohorts):
    (train, x), (test, y) = cohorts
    fits = fit_all(np.concatenate([x, y]), train + test, **LABELS)
    assert fits["view"].scores == {"accuracy": 1.0}
    # Wrong labels of the test split change its scores, not its predictions.
    wrong = [dataclasses.replace(s, targets={"ef": 0.0}) for s in test]
    again = fit_all(np.concatenate([x, y]), train + wrong, **LABELS)
    np.testing.assert_array_equal(again["ef"].predicted, fits["ef"].predicted)
    assert again["ef"].scores["mae"] > 20


@pytest.mark.parametrize(
    ("change", "labels", "sentence"),
    [
        ({}, {"test_split": "val"}, r"no video in the split 'val', only in \['test', 'train'\]"),
        ({}, {"targets": ("rvsp",)}, r"train0-A2C of .* has no label 'rvsp'; it has \['ef'\]"),
        ({"view": ""}, {}, "has no label 'view'"),
        ({"patient": "p"}, {}, "contains only one patient"),
        ({"view": "A4C"}, {}, "contains only one view, 'A4C'"),
    ],
)
def test_labels_that_do_not_do_are_one_sentence(cohorts, change, labels, sentence):
    (train, _), (test, _) = cohorts
    samples = [dataclasses.replace(s, **change) for s in train] + test
    with pytest.raises(UserError, match=sentence):
        check_labels(samples, source="csv:list.csv", **(LABELS | labels))
    assert check_labels(train + test, source="csv:list.csv", **LABELS) == train + test
