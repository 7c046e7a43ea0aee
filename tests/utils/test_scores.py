"""Scores, which are those of scikit-learn, and their intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from echojepa_jax.probes.clinical import rank_correlation
from echojepa_jax.utils.bootstrap import with_intervals
from echojepa_jax.utils.scores import (
    auroc,
    average_precision,
    class_scores,
    ranks,
    regression_scores,
)


def test_scores_of_numbers():
    found = regression_scores(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 6]))
    assert found["mae"] == 0.5
    assert found["rmse"] == 1.0
    assert found["r2"] == pytest.approx(1 - 4 / 5)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 2, 3, 6])[0, 1])
    assert np.isnan(regression_scores(np.ones(3), np.ones(3))["r2"])


def test_scores_of_classes():
    true = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.4, 0.6, 0], [0.3, 0.7, 0]])
    found = class_scores(true, probabilities)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["auroc"] == 1.0
    assert np.isnan(class_scores(np.zeros(4, int), probabilities)["auroc"])


def test_scores_are_those_of_scikit_learn():
    """With equal probabilities, and classes that do not occur or that nothing is taken for."""
    rng = np.random.default_rng(0)
    for size in range(2, 20):
        true, shares = rng.integers(3, size=size), rng.integers(4, size=(size, 4)) / 4
        found, chosen, present = class_scores(true, shares), shares.argmax(axis=1), np.unique(true)
        assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, chosen))
        recalls = sk.recall_score(true, chosen, labels=present, average="macro")
        assert found["balanced_accuracy"] == pytest.approx(recalls)
        f1 = sk.f1_score(true, chosen, labels=present, average="macro")
        assert found["macro_f1"] == pytest.approx(f1)
        areas = [sk.roc_auc_score(true == k, shares[:, k]) for k in present if len(present) > 1]
        assert found["auroc"] == pytest.approx(np.mean(areas) if areas else np.nan, nan_ok=True)
        for k in present:
            wanted = sk.average_precision_score(true == k, shares[:, k])
            assert average_precision(true == k, shares[:, k]) == pytest.approx(wanted)
        np.testing.assert_array_equal(ranks(shares[:, 0]), stats.rankdata(shares[:, 0]))
        numbers = regression_scores(true, shares[:, 0])
        assert numbers["mae"] == pytest.approx(sk.mean_absolute_error(true, shares[:, 0]))
        assert numbers["rmse"] == pytest.approx(sk.root_mean_squared_error(true, shares[:, 0]))
        if np.ptp(true):
            assert numbers["r2"] == pytest.approx(sk.r2_score(true, shares[:, 0]))


def test_scores_of_a_prediction_that_is_no_number_are_not_numbers():
    true, score = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, np.nan, 0.4])
    assert np.isnan(auroc(true == 1, score))
    assert np.isnan(average_precision(true == 1, score))
    assert np.isnan(rank_correlation(score, np.array([0.3, 0.1, 0.2, 0.4])))
    np.testing.assert_array_equal(ranks(score), stats.rankdata(score))
    found = class_scores(true, np.stack([1 - score, score], axis=1))
    assert all(np.isnan(value) for value in found.values()), found
    # A score may be of any type of numbers, also of one without a sign.
    whole = np.array([3, 200, 0, 7], np.uint8)
    assert average_precision(true == 1, whole) == sk.average_precision_score(true == 1, whole)


def test_intervals_draw_patients_and_not_videos():
    rng = np.random.default_rng(0)
    error = np.repeat(rng.exponential(size=20), 50)  # alike within a patient
    true, predicted = np.zeros(1000), error
    few = [f"p{i // 50}" for i in range(1000)]
    many = [f"p{i}" for i in range(1000)]
    width = {}
    for name, patients in (("few", few), ("many", many)):
        mae = with_intervals(regression_scores, true, predicted, patients, 300, 0)["mae"]
        assert mae["low"] < mae["value"] < mae["high"]
        width[name] = mae["high"] - mae["low"]
    assert width["few"] > 4 * width["many"]
    again = with_intervals(regression_scores, true, predicted, few, 300, 0)["mae"]
    assert again["high"] - again["low"] == width["few"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_intervals_of_any_small_test_set_are_numbers_or_nothing(count, seed):
    rng = np.random.default_rng(seed)
    patients = [f"p{i}" for i in rng.integers(3, size=count)]
    true = rng.integers(3, size=count)
    shares = rng.dirichlet(np.ones(3), count)
    for score in with_intervals(class_scores, true, shares, patients, 20, 0).values():
        if None not in score.values():
            assert 0 <= score["low"] <= score["high"] <= 1
