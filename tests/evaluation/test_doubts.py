"""How far to trust a prediction: as computed by hand from features and from the heads on disk."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.special import softmax

from echojepa_jax.evaluation import heads, readings
from echojepa_jax.evaluation.data import divided
from echojepa_jax.evaluation.fit import HowToFit
from echojepa_jax.evaluation.tasks import classification, regression
from tests.makers.labelled import data_of, probe_config

pytestmark = pytest.mark.slow

# The last head of the grid is far from finite.
PROBE = probe_config(learning_rates=(3e-2, 1e-2, 1e30), epochs=8)
COMMON = {"data": "adult", "views": (), "heads": ("linear",), "by_study": False}
OF_CLASSES = {"target": "view", "shares": (1.0,), "subsets": ("patient",), "lengths": ("epochs",)}
OF_CLASSES |= {"class_weights": False, "focal_gamma": 0.0}
NUMBER = regression, COMMON | {"target": "ef"}
CLASS = classification, COMMON | OF_CLASSES


@pytest.fixture
def adult(tmp_path):
    """Two clips of each video. The first test video is too short for two, of the second one only
    one clip can be decoded, of the third one none."""
    data = data_of()
    features, count = data.features[None], len(data.samples)
    more = features.tokens + 0.3 * np.random.default_rng(2).standard_normal(features.tokens.shape)
    tokens = np.concatenate([features.tokens, more.astype(np.float32)])
    at, there = np.arange(2 * count).reshape(2, count).T, np.ones(2 * count, bool)
    test = [row for row, s in enumerate(data.samples) if s.split == "test"]
    repeats = np.zeros((count, 2), bool)
    at[test[0], 1], repeats[test[0], 1] = at[test[0], 0], True
    there[at[test[1], 1]] = there[at[test[2]]] = False
    features = dataclasses.replace(
        features, tokens=tokens, at=at, there=there, repeats=repeats, errors={test[2]: "damaged"}
    )
    return dataclasses.replace(data, features={None: features}, heads=tmp_path)


def linear(params, tokens, there):
    """Outputs of a linear head [E, o], on the clips of tokens [E, C, D] that are there."""
    x = (tokens * there[..., None]).sum(axis=1) / there.sum(axis=1, keepdims=True)
    away = x - x.mean(axis=1, keepdims=True)
    x = away / np.sqrt(np.mean(away**2, axis=1, keepdims=True) + 1e-5)
    x = x * params["norm"]["scale"] + params["norm"]["bias"]
    return x @ params["out"]["kernel"] + params["out"]["bias"]


@pytest.mark.parametrize(("kind", "options"), [NUMBER, CLASS], ids=["number", "class"])
def test_spread_and_distance_are_those_by_hand_and_make_an_abstain_curve(adult, kind, options):
    (cell,) = kind.run({"adult": adult}, ConfigDict(options), PROBE, 0)
    name = "regression" if kind is regression else "classification"
    parts = divided(adult, name, options["target"], (), study=False)
    fitted = heads.trained(HowToFit("linear"), adult, parts, PROBE, 0)  # from disk
    features, task = adult.features[None], parts.task

    # --- by hand ----------------------------------------------------------------------------------
    def clips(examples):
        rows = np.array([example.rows[0][0] for example in examples])
        return features.tokens[features.at[rows]], features.there[features.at[rows]]

    tokens, there = clips(parts.train)
    mean, std = tokens[there].mean(axis=(0, 1)), tokens[there].std(axis=(0, 1))
    tokens, there = clips(parts.test)
    seen, can = ((tokens - mean) / std).mean(axis=2)[there.any(axis=1)], there[there.any(axis=1)]

    def decoded(params, can):
        out = linear(params, seen, can)
        if name == "regression":
            return out[:, 0] * task.std + task.mean
        chosen = softmax(linear(fitted.params, seen, there[there.any(axis=1)]), axis=1).argmax(1)
        return softmax(out, axis=1)[np.arange(len(out)), chosen]

    alone = [decoded(fitted.params, np.eye(2)[[k] * len(seen)]) for k in (0, 1)]
    two = np.std(alone, axis=0)
    assert cell.spread[:2] == [None, None]
    np.testing.assert_allclose(cell.spread[2:], two[2:], rtol=1e-4)
    grid = [{k: {n: x[g] for n, x in v.items()} for k, v in fitted.heads.items()} for g in (0, 1)]
    assert len(fitted.heads["out"]["bias"]) == 2, "one is not finite"
    over_heads = np.std([decoded(params, can) for params in grid], axis=0)
    np.testing.assert_allclose(cell.spread_heads, over_heads, rtol=1e-4)
    # All components but one: the covariance is that of the embeddings.
    train, val, test = (
        np.array([x[ok].mean(axis=(0, 1)) for x, ok in zip(*clips(part), strict=True) if ok.any()])
        for part in (parts.train, parts.val, parts.test)
    )
    precision = np.linalg.inv(np.cov(train.T.astype(float)))
    val, test = (
        np.sqrt(np.einsum("nd,de,ne->n", x - train.mean(axis=0), precision, x - train.mean(axis=0)))
        for x in (val, test)
    )
    distance = test / np.quantile(val, 0.95)
    np.testing.assert_allclose(cell.distance, distance, rtol=1e-4)

    # --- what the report shows --------------------------------------------------------------------
    found = readings.of_cell(cell, options["target"], 5, 0).found
    assert (found["scored"], found["not_scored"]) == (len(parts.test) - 1, 1)
    assert found["flags"]["far"] == np.sum(distance > 1)
    predicted, true = np.array(cell.predicted), np.array(cell.true)
    wrong = np.abs(predicted - true) if name == "regression" else predicted.argmax(axis=1) != true
    for column, doubt in (("spread_heads", over_heads), ("distance", distance)):
        half = np.argsort(doubt)[: -(-len(doubt) // 2)]
        assert dict(found["doubt"][column]["kept"])[0.5] == pytest.approx(wrong[half].mean())
    assert found["doubt"]["spread"]["not_scored"] == 2
