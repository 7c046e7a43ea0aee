"""Fresh states of training, without a run."""

import jax
from ml_collections import ConfigDict

from echojepa_jax.train import state as states


def fresh(config: ConfigDict) -> tuple[states.Networks, states.Optimizer, states.TrainState]:
    """Networks, optimizer and state of a tiny config: clips of 4 frames of 32 pixels."""
    networks = states.make_networks(config)
    params = states.init_params(networks, jax.random.key(0), 4, 32)
    optimizer = states.make_optimizer(config, params, states.make_schedules(config))
    return networks, optimizer, states.new_state(params, optimizer)
