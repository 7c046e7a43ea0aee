"""The clinical reading of a cell is that of a probe with the same predictions."""

import numpy as np
import pytest

from echojepa_jax.evaluation.cells import MEASURE, Cell
from echojepa_jax.evaluation.readings import of_cell
from echojepa_jax.probes import clinical

TRUE = np.linspace(25.5, 69.5, 23)
FOUND = TRUE + 6 * np.sin(np.arange(23))


def cell(**changes):
    fields = {
        "unit": "%",
        "ids": [f"v{i}" for i in range(23)],
        "patients": [f"p{i // 2}" for i in range(23)],
        "views": ["A4C", "A2C"] * 11 + ["A4C"],
        "ages": [None, *map(float, range(10, 32))],
        "sexes": [""] * 23,
        "true": TRUE.tolist(),
        "predicted": FOUND.tolist(),
        "guess": 50.0,
        "not_scored": 2,
        "val_true": (TRUE + 1).tolist(),
        "val_predicted": (FOUND[::-1] + 60 - FOUND).tolist(),
    }
    return Cell(**{"variant": {}, "kind": "regression"} | fields | changes)


def test_of_a_number():
    found = of_cell(cell(), "ef", 20, 0).found
    assert (found["scored"], found["not_scored"]) == (23, 2)
    bias, low, high = clinical.agreement(TRUE, FOUND)
    scores = {name: part["value"] for name, part in found["scores"].items()}
    assert (scores["bias"], scores["limit_low"], scores["limit_high"]) == (bias, low, high)
    slope, _ = clinical.calibration_line(TRUE, FOUND)
    assert scores["slope"] == pytest.approx(slope)
    val = np.array(cell().val_predicted)
    for cut in found["cutoffs"]:
        threshold = clinical.threshold_below(TRUE + 1, val, cut["cutoff"])
        assert cut["threshold"] == threshold != cut["cutoff"]
        sensitivity, _ = clinical.rates(cut["cutoff"] > TRUE, threshold > FOUND)
        assert scores[f"sensitivity_below_{cut['cutoff']:g}"] == sensitivity
    assert set(found["groups"]) == {"range", "view", "age"}
    assert [row["examples"] for row in found["groups"]["view"]] == [11, 12]


def test_of_a_class_and_of_what_has_none():
    shares = np.eye(3)[np.arange(23) % 3] * 0.7 + 0.1
    true = (np.arange(23) % 3 + (np.arange(23) > 17)) % 3
    made = cell(
        kind="classification",
        classes=["A2C", "A4C", "PLAX"],
        true=true.tolist(),
        predicted=shares.tolist(),
        guess=[1.0, 0.0, 0.0],
        val_true=[],
        val_predicted=[],
    )
    rows = of_cell(made, "view", 5, 0).found["classes"]
    expected = clinical.class_table(true, shares)
    assert [row["sensitivity"] for row in rows] == [row["sensitivity"] for row in expected]
    assert of_cell(Cell({}, MEASURE, measures={"variance": 1.0}), "", 5, 0) is None
    assert of_cell(cell(ids=[], true=[], predicted=[]), "ef", 5, 0) is None
