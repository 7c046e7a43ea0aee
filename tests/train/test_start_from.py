"""Starting from weights of V-JEPA 2.1: those of a distilled model, and of another family."""

import dataclasses

import jax
import numpy as np
import pytest

from echojepa_jax.train.load_weights import shapes_of
from echojepa_jax.train.start_from import start_from
from echojepa_jax.train.state import make_networks
from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights.write import write_weights
from tests.makers.states import fresh
from tests.makers.weights import random_weights

pytestmark = pytest.mark.slow

V21 = {"model__family": "v2.1", "objective__context_weight": 0.5}


@pytest.fixture
def start(tiny, tmp_path):
    """Starts a run of a tiny config from weights of V-JEPA 2.1 with heads of that width."""

    def run(out_width=0, levels=1, **changes):
        config = tiny(**changes)
        shape, predictor = shapes_of(make_networks(tiny(**V21)))
        predictor = dataclasses.replace(predictor, out_width=out_width, levels=levels)
        weights = random_weights(shape, predictor)
        write_weights(weights, tmp_path / "weights", "safetensors")
        config.init["from"] = str(tmp_path / "weights")
        networks, _, before = fresh(config)
        return weights, before, start_from(config, networks, before)

    return run


def test_a_distilled_models_heads_start_anew_and_this_is_said(start, caplog):
    with caplog.at_level("INFO"):
        weights, fresh, state = start(out_width=40, **V21)
    said = [text for text in caplog.messages if "predicts the 40 channels" in text]
    assert len(said) == 1
    assert "its last layers start from random weights" in said[0]
    mine, theirs = state.params["predictor"], weights.params["predictor"]
    for name in ("proj", "proj_context"):
        jax.tree.map(np.testing.assert_array_equal, mine[name], fresh.params["predictor"][name])
    for name in theirs.keys() - {"proj", "proj_context"}:
        jax.tree.map(np.testing.assert_array_equal, mine[name], theirs[name])
    for tree in (state.params["encoder"], state.target.ema):
        jax.tree.map(np.testing.assert_array_equal, tree, weights.params["encoder"])


def test_another_family_is_one_sentence(start):
    with pytest.raises(UserError, match=r"of family v2\.1, but this config is of family v2: set"):
        start()


def test_other_levels_are_named_by_their_config_field(start):
    with pytest.raises(UserError, match=r"model: objective\.levels is 1 here and 4 there$"):
        start(levels=4, **V21)
