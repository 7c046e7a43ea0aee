"""Scores over resamples: equal to scikit-learn's on every resample, and paired."""

import math

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn import metrics as sk

from echojepa_jax.evaluation import rows, scores
from echojepa_jax.evaluation.cells import Cell, of_studies
from echojepa_jax.utils.scores import regression_scores

rng = np.random.default_rng(0)
PATIENTS = [f"p{i % 9}" for i in range(30)]
NAMES = sorted(set(PATIENTS))


def drawn(cell, weights):
    """The rows of a cell's examples in a resample."""
    column = {name: i for i, name in enumerate(NAMES)}
    counts = [int(weights[column[patient]]) for patient in cell.patients]
    return np.repeat(np.arange(len(counts)), counts)


def regression(noise=5.0, **changes):
    true = 50 + 10 * np.random.default_rng(1).standard_normal(30)
    found = true + noise * np.random.default_rng(2).standard_normal(30)
    fields = {"kind": "regression", "unit": "%", "patients": PATIENTS, "guess": 50.0}
    fields |= {"true": true.tolist(), "predicted": found.tolist(), "ids": PATIENTS}
    return Cell(**{"variant": {"head": "linear"}} | fields | changes)


def test_errors_are_those_of_scikit_learn_in_every_resample():
    cell = regression()
    weights = scores.resamples(NAMES, 20, 0, "task")
    found = scores.scores(cell, cell.predicted, NAMES, weights)
    true, predicted = np.array(cell.true), np.array(cell.predicted)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == len(NAMES)).all()
    for i, row in enumerate(weights):
        chosen = drawn(cell, row)
        expected = regression_scores(true[chosen], predicted[chosen])
        expected["bias"] = np.mean(predicted[chosen] - true[chosen])
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(value, rel=1e-9), name


def test_detection_of_a_low_ef_is_that_of_scikit_learn_in_every_resample():
    cell = regression(cutoffs=[50.0, 40.0])
    cell.predicted[:] = np.round(cell.predicted, -1).tolist()  # with ties
    weights = scores.resamples(NAMES, 20, 0, "task")
    found = scores.scores(cell, cell.predicted, NAMES, weights)
    true, predicted = np.array(cell.true), np.array(cell.predicted)
    for cutoff in cell.cutoffs:
        low = true < cutoff
        for i, row in enumerate(weights):
            chosen = drawn(cell, row)
            value = found[f"auroc_below_{cutoff:g}"][i]
            if low[chosen].any() and not low[chosen].all():
                area = sk.roc_auc_score(low[chosen], -predicted[chosen])
                assert value == pytest.approx(area, abs=1e-9)
            else:
                assert np.isnan(value)
    guess = scores.scores(cell, [50.0] * 30, NAMES, weights)["auroc_below_50"]
    assert guess[0] == 0.5
    assert "auroc_below_50" not in scores.scores(regression(), cell.predicted, NAMES, weights)


def test_class_scores_are_those_of_scikit_learn_in_every_resample():
    true = rng.integers(3, size=30)
    shares = rng.dirichlet(np.ones(3), size=30).round(1)  # with ties
    cell = Cell({}, "classification", patients=PATIENTS, true=true.tolist())
    weights = scores.resamples(NAMES, 20, 0, "task")
    found = scores.scores(cell, shares.tolist(), NAMES, weights)
    for i, row in enumerate(weights):
        chosen = drawn(cell, row)
        t, p = true[chosen], shares[chosen]
        assert found["accuracy"][i] == pytest.approx(np.mean(p.argmax(axis=1) == t))
        there = np.unique(t)
        recall = [np.mean(p.argmax(axis=1)[t == k] == k) for k in there]
        assert found["balanced_accuracy"][i] == pytest.approx(np.mean(recall))
        if len(there) > 1:
            areas = [sk.roc_auc_score(t == k, p[:, k]) for k in there]
            assert found["auroc"][i] == pytest.approx(np.mean(areas))


def test_the_majority_of_a_study_is_scored_without_an_auroc():
    """A study of two labels, and a video without a study, count as not scored."""
    videos = [
        ("a", 0, (0.9, 0.1, 0.0)),
        ("a", 0, (0.4, 0.6, 0.0)),
        ("a", 0, (0.4, 0.6, 0.0)),  # the mean says 0, most of them say 1
        ("b", 2, (0.6, 0.4, 0.0)),
        ("b", 2, (0.0, 0.1, 0.9)),  # of equally many, the more probable class
        ("c", 1, (0.2, 0.8, 0.0)),
        ("d", 1, (0.2, 0.8, 0.0)),
        ("d", 2, (0.2, 0.8, 0.0)),
        ("", 2, (0.2, 0.8, 0.0)),
    ]
    studies, true, shares = map(list, zip(*videos, strict=True))
    owners = {"ids": list(range(9)), "patients": [f"p{s}" for s in studies], "studies": studies}
    owners |= {"ages": [None] * 9, "sexes": [""] * 9, "distance": [1.0] * 9, "guess": [0, 1.0, 0]}
    cell = Cell({}, "classification", classes=[*"XYZ"], true=true, predicted=shares, **owners)
    weights = np.ones((1, 3))
    found = {}
    for vote in (False, True):
        study = of_studies(cell, {"level": "study"}, vote)
        assert (study.true, study.not_scored, study.distance) == ([0, 2, 1], 3, [])
        for what, says in ((vote, study.predicted), (f"{vote} guess", [study.guess] * 3)):
            told = scores.scores(study, says, study.patients, weights)
            found[what] = [told[name][0] for name in scores.CLASSIFICATION]
    assert study.predicted == [1, 2, 1]
    np.testing.assert_allclose(found[False], [1, 1, 1])
    np.testing.assert_allclose(found[True], [2 / 3, 2 / 3, math.nan])
    np.testing.assert_allclose(found["True guess"], [1 / 3, 1 / 3, math.nan])


def test_what_is_not_defined_is_not_a_number():
    constant = regression(predicted=[50.0] * 30)
    weights = scores.resamples(NAMES, 5, 0, "task")
    found = scores.scores(constant, constant.predicted, NAMES, weights)
    assert np.isnan(found["pearson"]).all()
    assert np.isfinite(found["mae"]).all()
    empty = regression(true=[], predicted=[], patients=[], ids=[])
    assert np.isnan(scores.scores(empty, [], NAMES, weights)["mae"]).all()
    assert all(math.isnan(x) for x in scores.interval(np.full(6, np.nan)))
    rank = Cell({}, "measure", measures={"effective_rank": 3.0})
    value, low, high = scores.interval(scores.scores(rank, [], NAMES, weights)["effective_rank"])
    assert (value, math.isnan(low), math.isnan(high)) == (3.0, True, True)


LVEF = ConfigDict({"kind": "regression"})


def test_rows_are_models_beside_each_other_and_differences_are_paired():
    near, far = regression(2.0), regression(4.0)
    found = {"near": [[near], [near]], "far": [[far], [near]]}
    made = rows.of_task("lvef", LVEF, found, 200, 0)
    assert [row.model for row in made] == ["near", "far", "mean of training"]
    first, second, guess = made
    assert first.difference is None
    # Errors of "far" are twice those of "near" in one of two seeds: half as much more, always.
    ratio = second.difference[0] / first.values["mae"][0]
    assert ratio == pytest.approx(0.5)
    width = first.values["mae"][2] - first.values["mae"][1]
    assert second.difference[2] - second.difference[1] == pytest.approx(0.5 * width, rel=1e-6)
    assert second.spread == pytest.approx(first.values["mae"][0] / math.sqrt(2))
    assert first.spread == 0
    assert math.isnan(guess.spread)
    assert guess.values["mae"][0] == pytest.approx(np.mean(np.abs(np.array(near.true) - 50)))
    assert (first.examples, first.patients, first.seeds) == (30, 9, 2)


def test_what_one_model_does_not_find_is_scored_for_no_model():
    """A model that found no LV in a video was not scored there, but the others were."""
    good, fails = (regression(x, ids=[f"v{i}" for i in range(30)]) for x in (2.0, 4.0))
    fails.predicted[3] = fails.predicted[8] = math.nan
    first, second, guess = rows.of_task("s", LVEF, {"good": [[good]], "fails": [[fails]]}, 50, 0)
    assert [row.failed for row in (first, second, guess)] == [0, 2, 0]
    assert {(row.examples, row.not_scored) for row in (first, second, guess)} == {(28, 2)}
    kept = [i for i in range(30) if i not in (3, 8)]
    away = np.abs(np.array(good.predicted) - good.true)[kept]
    assert first.values["mae"][0] == pytest.approx(away.mean())
    assert second.difference[0] == pytest.approx(away.mean())  # twice the error, paired


def test_the_average_degradation_is_the_papers_and_of_all():
    clean = {"perturbation": "none", "severity": ""}
    # Coding alone is a control: it is in no average.
    errors = {"none": 2.0, "h264": 9.0, "shadow": 3.0, "radial_attenuation": 2.2, "gain": 2.0}
    cells = [
        regression(
            noise,
            variant={"perturbation": kind, "severity": "high" if kind != "none" else ""},
            against=None if kind == "none" else clean,
        )
        for kind, noise in errors.items()
    ]
    made = rows.of_task("r", ConfigDict({"kind": "robustness"}), {"m": [cells]}, 50, 0)
    averages = [r for r in made if r.main == "degradation" and r.model == "m"]
    average = {r.variant["perturbation"]: r for r in averages}
    papers = average["mean of the paper's kinds"].values["degradation"]
    np.testing.assert_allclose(papers, 100 * (0.5 + 0.1) / 2, rtol=1e-6)  # in every resample
    assert average["mean of all kinds"].values["degradation"][0] == pytest.approx(20)
    shadow = next(r for r in made if r.variant["perturbation"] == "shadow")
    clean_mae = made[0].values["mae"]
    assert shadow.change[0] == pytest.approx(0.5 * clean_mae[0])
    # A guess cannot degrade, and the table shows why: its change is exactly 0.
    guess = [r for r in made if r.model == "mean of training" and r.change]
    assert len(guess) == 4
    assert all(r.change == (0.0, 0.0, 0.0) for r in guess)
