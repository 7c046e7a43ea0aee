"""Starts a run from the weights of another run or of a file (config field init.from)."""

import dataclasses
import logging
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.load_weights import load_weights, shapes_of
from echojepa_jax.train.state import Networks, TrainState
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.trees import count_parameters
from echojepa_jax.weights.pretrained import Pretrained

log = logging.getLogger(__name__)


def start_from(config: ConfigDict, networks: Networks, state: TrainState) -> TrainState:
    """Puts other weights into a fresh state: step, optimizer and schedules start from 0.

    If `init.from` contains only one encoder, it becomes both context and target encoder.

    Raises:
      UserError: there are no such weights, or their architecture is another one.
    """
    path = config.init["from"]
    shape, predictor = shapes_of(networks)
    weights = load_weights(
        path, config.init.step, heads=shape.heads, predictor_heads=predictor.heads
    )
    _check_shapes(path, weights, networks)
    encoder = weights.params["encoder"]
    found = {"encoder": weights.params.get("context_encoder", encoder)}
    message = f"all {count_parameters(encoder):,} parameters of the encoder"
    if "context_encoder" in weights.params:
        message += "s, context and target,"
    if "predictor" in weights.params:
        loaded, fresh = dict(weights.params["predictor"]), {}
        if weights.predictor_shape and weights.predictor_shape.out_width:
            for name in ("proj", "proj_context"):
                del loaded[name]
                fresh[name] = state.params["predictor"][name]
            log.info(
                "the predictor of %s predicts the %d channels of the larger encoder that it "
                "was distilled from: its last layers start from random weights",
                path,
                weights.predictor_shape.out_width,
            )
        found["predictor"] = loaded | fresh
        message += f" and {count_parameters(loaded):,} of the predictor"
    else:
        message += "; the predictor starts from random weights, because there is none"
    training = f" ({weights.origin['training']})" if "training" in weights.origin else ""
    log.info("started from %s%s: %s", path, training, message)
    # Placed like the fresh weights, on any mesh; every host has read all of them.
    params, target = jax.tree.map(
        lambda new, fresh: (
            new if new is fresh else meshes.to_global(np.asarray(new), fresh.sharding)
        ),
        (state.params | found, encoder if networks.objective.has_target else {}),
        (state.params, state.target.ema),
    )
    return dataclasses.replace(state, params=params, target=state.target._replace(ema=target))


def _check_shapes(path: str, weights: Pretrained, networks: Networks) -> None:
    """Raises UserError, naming the fields, unless the weights have this architecture."""
    if "encoder" not in weights.params:
        raise UserError(f"{path} contains no encoder, which 'init.from' needs")
    shape, predictor = shapes_of(networks)
    pairs: list[tuple[str, Any, Any]] = [("model", weights.shape, shape)]
    if "predictor" in weights.params:
        pairs.append(("predictor", weights.predictor_shape, predictor))
    named = {"predictor.levels": "objective.levels"}  # its name in a config
    differ = [
        f"{named.get(f'{section}.{field}', f'{section}.{field}')} is {mine} here and "
        f"{vars(theirs)[field]} there"
        for section, theirs, ours in pairs
        for field, mine in vars(ours).items()
        # The last layers of a distilled model's predictor start from random weights.
        if mine != vars(theirs)[field] and field != "out_width"
    ]
    if weights.shape.family != shape.family:
        raise UserError(
            f"{path} (config field 'init.from') is of family {weights.shape.family}, but this "
            f"config is of family {shape.family}: set model.family, or choose other weights"
        )
    if differ:
        raise UserError(
            f"{path} (config field 'init.from') does not fit this config's model: "
            f"{', '.join(differ)}"
        )
