"""The clinical reading: equal to scikit-learn, scipy and NumPy, and by hand on small cases."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.linear_model import LinearRegression

from echojepa_jax.probes import clinical
from echojepa_jax.probes.reading import cutoffs, reading, thresholds
from echojepa_jax.probes.results import majority, majority_scores
from echojepa_jax.probes.task import Task

EF = Task("regression", "ef", mean=55.0, std=10.0, unit="%")


def lines_of(true, predicted, **columns):
    """Lines of predictions.csv; columns as one value or one for each line."""
    lines = []
    for i, (t, p) in enumerate(zip(true, predicted, strict=True)):
        line = {"patient": f"p{i // 2}", "target": str(t), "prediction": str(p)}
        line |= {k: str(v if isinstance(v, str) else v[i]) for k, v in columns.items()}
        lines.append(line | {"status": "ok"})
    return lines


def drawn(count=200, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.uniform(20, 75, count)
    noise = rng.uniform(1, 12, count)
    return true, 20 + 0.6 * true + noise * rng.standard_normal(count), noise


@pytest.mark.parametrize(
    ("target", "unit", "mean", "is_ef"),
    [
        ("ef", "%", 55, True),
        ("LVEF", "", 55, True),
        ("Ejection fraction", "%", 55, True),
        ("ef", "", 0.55, False),  # a fraction
        ("ef", "", 0.02, False),  # a z-score
        ("ef", "ml", 55, False),
        ("rvsp", "mmHg", 35, False),
        ("ef_change", "%", 5, False),
    ],
)
def test_only_ejection_fractions_in_percent_have_cutoffs(target, unit, mean, is_ef):
    task = Task("regression", target, mean=mean, std=1.0, unit=unit)
    assert cutoffs(task) == ((50.0, 40.0) if is_ef else ())
    assert cutoffs(Task("classification", target, mean=mean, unit=unit)) == ()


def test_agreement_by_hand():
    bias, low, high = clinical.agreement([50, 60, 70], [52, 60, 76])
    spread = np.std([2, 0, 6], ddof=1)
    np.testing.assert_allclose(
        [bias, low, high], [8 / 3, 8 / 3 - 1.96 * spread, 8 / 3 + 1.96 * spread]
    )
    assert np.isnan(clinical.agreement([50], [52])[1:]).all()


def test_the_calibration_line_by_hand_and_by_scikit_learn():
    # Predictions that are twice as far apart as the truth.
    assert clinical.calibration_line(np.array([50.0, 60]), np.array([40.0, 60])) == (0.5, 30.0)
    true, predicted, _ = drawn()
    line = LinearRegression().fit(predicted[:, None], true)
    found = clinical.calibration_line(true, predicted)
    np.testing.assert_allclose(found, (line.coef_[0], line.intercept_), rtol=1e-9)
    assert np.isnan(clinical.calibration_line(true, np.full(len(true), 50.0))).all()


def test_the_threshold_is_where_sensitivity_plus_specificity_is_largest():
    # Below 41 are two of three low ones and no other one; below 52 all low ones and one other one.
    true = np.array([30.0, 35, 45, 55, 60, 65])
    predicted = np.array([38.0, 40, 46, 42, 58, 60])
    assert clinical.threshold_below(true, predicted, 50) == 52  # as good as 41, and nearer to 50
    true, predicted, _ = drawn()
    found = clinical.threshold_below(true, predicted, 50)
    false_alarms, hits, points = sk.roc_curve(true < 50, -predicted)
    best = points[np.argmax(hits - false_alarms)]
    below = np.sum(predicted < found)
    assert below == np.sum(-predicted >= best)
    sensitivity, specificity = clinical.rates(true < 50, predicted < found)
    assert sensitivity == pytest.approx(sk.recall_score(true < 50, predicted < found))
    assert specificity == pytest.approx(sk.recall_score(true >= 50, predicted >= found))
    assert sensitivity + specificity - 1 == pytest.approx(np.max(hits - false_alarms))
    assert np.isnan(clinical.threshold_below(true + 100, predicted, 50))
    assert np.isnan(clinical.threshold_below(true, 0 * predicted, 50))


def test_ranges_have_their_lower_edge():
    values = np.array([29.9, 30, 45, 60, np.nan])
    names = ["below 30", "30 to 40", "40 to 50", "50 to 60", "60 and above"]
    assert clinical.range_names(clinical.EF_RANGES) == names
    assert clinical.ranges(values, clinical.EF_RANGES) == [*names[:3], names[4], ""]
    assert clinical.quarters(np.ones(9)) == [1.0]


def test_abstaining_keeps_the_least_doubtful():
    error = np.array([4.0, 1, 3, 2])
    curve = dict(clinical.abstaining(np.array([0.4, 0.1, 0.3, 0.2]), error))
    assert (curve[0.05], curve[0.25], curve[0.5], curve[1.0]) == (1, 1, 1.5, 2.5)
    worst_first = dict(clinical.abstaining(-error, error))
    assert worst_first[0.25] == 4
    assert len(curve) == 20
    three_of_twenty = dict(clinical.abstaining(np.arange(20.0), np.arange(20.0)))
    assert three_of_twenty[0.15] == 1.0


def test_a_reading_is_what_scikit_learn_and_scipy_compute():
    true, predicted, noise = drawn()
    val_true, val_predicted, _ = drawn(seed=1)
    chosen = thresholds(EF, val_true, val_predicted)
    lines = lines_of(true, predicted, spread=noise)
    found = reading(EF, lines, chosen, 50, 0)
    error = np.abs(true - predicted)
    value = {name: score["value"] for name, score in found["scores"].items()}
    for cutoff in (50, 40):
        low = true < cutoff
        called = predicted < chosen[cutoff]
        for name, expected in (
            ("auroc", sk.roc_auc_score(low, -predicted)),
            ("average_precision", sk.average_precision_score(low, -predicted)),
            ("sensitivity", sk.recall_score(low, called)),
            ("specificity", sk.recall_score(~low, ~called)),
        ):
            assert value[f"{name}_below_{cutoff}"] == pytest.approx(expected), name
    assert value["bias"] == pytest.approx(np.mean(predicted - true))
    assert [cut["threshold"] for cut in found["cutoffs"]] == [chosen[50], chosen[40]]
    assert found["cutoffs"][0]["below"] == np.sum(true < 50)
    ranges = {row["name"]: row for row in found["groups"]["range"]}
    middle = (true >= 40) & (true < 50)
    assert ranges["40 to 50"]["error"]["value"] == pytest.approx(error[middle].mean())
    assert ranges["40 to 50"]["bias"]["value"] == pytest.approx((predicted - true)[middle].mean())
    assert sum(row["examples"] for row in ranges.values()) == found["scored"] == 200
    doubt = found["doubt"]["spread"]
    expected = stats.spearmanr(noise, error).statistic
    assert doubt["correlation"]["value"] == pytest.approx(expected)
    assert doubt["correlation"]["low"] < expected < doubt["correlation"]["high"]
    quarters = [row["error"]["value"] for row in doubt["quarters"]]
    assert quarters == sorted(quarters)  # a larger spread is a larger error here
    assert [row["examples"] for row in doubt["quarters"]] == [50] * 4
    assert doubt["kept"][-1] == (1.0, pytest.approx(sk.mean_absolute_error(true, predicted)))


def test_thresholds_come_from_validation_and_not_from_the_test():
    true, predicted, _ = drawn()
    shifted = thresholds(EF, true, predicted + 7)
    own = thresholds(EF, true, predicted)
    assert shifted[50] == pytest.approx(own[50] + 7)
    found = reading(EF, lines_of(true, predicted), shifted, 5, 0)
    called = predicted < own[50] + 7
    assert found["scores"]["specificity_below_50"]["value"] == np.mean(~called[true >= 50])
    # Without a threshold of validation, there is none.
    without = reading(EF, lines_of(true, predicted), {}, 5, 0)
    assert without["cutoffs"][0]["threshold"] is None
    assert "sensitivity_below_50" not in without["scores"]
    assert "auroc_below_50" in without["scores"]


def test_groups_are_named_and_what_is_not_known_is_counted():
    true, predicted = [60.0, 61.0, 30.0, 31.0], [61.0, 63.0, 34.0, 39.0]
    columns = {"age": ["0.5", "17.9", "", "80"], "sex": ["F", "M", "F", ""], "view": "A4C"}
    columns["flag"] = ["near", "near", "far", "near"]
    found = reading(EF, lines_of(true, predicted, **columns), {}, 5, 0)["groups"]
    rows = {
        k: [(r["name"], r["examples"], r["error"]["value"]) for r in v] for k, v in found.items()
    }
    assert rows["age"] == [
        ("below 1", 1, 1),
        ("12 to 18", 1, 2),
        ("80 and above", 1, 8),
        ("", 1, 4),
    ]
    assert rows["sex"] == [("F", 2, 2.5), ("M", 1, 2), ("", 1, 8)]
    assert rows["flag"] == [("far", 1, 4), ("near", 3, pytest.approx(11 / 3))]
    assert "view" not in found  # there is nothing to compare
    assert found["sex"][0]["bias"]["value"] == 2.5
    assert found["sex"][0]["patients"] == 2


def test_what_could_not_be_scored_is_a_number():
    lines = lines_of([60.0, 50, 40], [61.0, 52, math.nan], spread=["1.0", "", "2.0"])
    lines.append({"patient": "p9", "target": "30.0", "status": "unreadable: cut off"})
    found = reading(EF, lines, {}, 5, 0)
    assert (found["scored"], found["not_scored"]) == (2, 2)
    assert found["scores"]["bias"]["value"] == 1.5
    doubt = found["doubt"]["spread"]
    assert (doubt["scored"], doubt["not_scored"]) == (1, 1)
    assert doubt["correlation"]["value"] is None
    assert reading(EF, lines[2:], {}, 5, 0) == {"scored": 0, "not_scored": 2}


def test_other_targets_have_quarters_and_no_cutoffs():
    task = Task("regression", "rvsp", mean=35.0, std=10.0, unit="mmHg")
    true = [20.0, 30.0, 40.0, 50.0]
    found = reading(task, lines_of(true, true), {}, 5, 0)
    assert found["cutoffs"] == []
    names = [row["name"] for row in found["groups"]["range"]]
    assert names == ["below 27.5", "27.5 to 35", "35 to 42.5", "42.5 and above"]


def test_classes_are_scored_against_the_rest_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    classes = ("A2C", "A4C", "PLAX", "SSN")
    task = Task("classification", "view", classes=classes, commonest="A4C")
    true = rng.integers(3, size=60)  # nobody shows SSN
    shares = rng.dirichlet(np.ones(4), 60)
    shares[np.arange(60), true] += 0.3
    shares /= shares.sum(axis=1, keepdims=True)
    said = shares.argmax(axis=1)
    columns = {f"p_{name}": shares[:, k] for k, name in enumerate(classes)}
    lines = lines_of(true, said, spread=1 - shares.max(axis=1), **columns)
    for line, t in zip(lines, true, strict=True):
        line["target"] = classes[t]
    found = reading(task, lines, {}, 5, 0)
    precision, recall, f1, count = sk.precision_recall_fscore_support(
        true, said, labels=range(4), zero_division=np.nan
    )
    for k, row in enumerate(found["classes"][:3]):
        assert row["name"] == classes[k]
        assert row["examples"] == count[k]
        assert row["precision"] == pytest.approx(precision[k])
        assert row["sensitivity"] == pytest.approx(recall[k])
        assert row["f1"] == pytest.approx(f1[k])
        assert row["auroc"] == pytest.approx(sk.roc_auc_score(true == k, shares[:, k]))
        assert row["specificity"] == pytest.approx(np.mean(said[true != k] != k))
    assert found["classes"][3]["sensitivity"] is None
    assert found["classes"][3]["auroc"] is None
    assert found["doubt"]["spread"]["kept"][-1][1] == pytest.approx(np.mean(said != true))
    lines[0] |= {f"p_{name}": "nan" for name in classes}
    partly = reading(task, lines, {}, 5, 0)
    assert (partly["scored"], partly["not_scored"]) == (59, 1)
    assert sum(row["examples"] for row in partly["classes"]) == 59


def test_the_majority_of_a_study_counts_videos_then_probabilities():
    assert majority(np.array([[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]])) == 0  # the mean says 1
    assert majority(np.array([[0.6, 0.4], [0.1, 0.9]])) == 1
    lines = [
        {"target": "a", "majority": "a", "patient": "p"},
        {"target": "a", "majority": "b", "patient": "q"},
    ]
    assert majority_scores(lines, 5, 0)["majority_accuracy"]["value"] == 0.5
