"""A guard: of a TPU's time in the layers, little may go into anything but products and attention.

Before there were kernels for it, rotary and moving data took 59 % of it, and nobody saw it.
"""

import math

import jax
import jax.numpy as jnp
import pytest

from configs import vit_l
from echojepa_jax.costs import account as accounts
from echojepa_jax.costs import ahead
from echojepa_jax.costs.account import (
    ELEMENTWISE,
    ENCODER,
    MOVING,
    OPTIMIZER,
    OUTSIDE,
    PARTS,
    ROTARY,
)
from echojepa_jax.costs.chips import TPUS
from echojepa_jax.models.blocks import BlockStack
from echojepa_jax.ops.rotary import rotary_angles
from echojepa_jax.train.config import clip_spec, mask_specs
from echojepa_jax.train.state import make_networks

pytestmark = pytest.mark.slow

MOST_MOVING, MOST_ELEMENTWISE = 0.1, 0.25
CLIPS = 16  # on a chip, as many as docs/plans.md has


def share_in_layers(account, *kinds):
    """What these kinds take of the time in the layers, by the JSON of `plan`."""
    parts = account["by_part_and_kind"]
    layers = [parts[part] for part in parts.keys() - {OUTSIDE, OPTIMIZER}]
    whole = sum(sum(times.values()) for times in layers)
    return sum(times.get(kind, 0.0) for times in layers for kind in kinds) / whole


def test_what_a_share_is():
    nested = {
        "target encoder": {"rotary": 1.0, "moving data": 2.0, "matrix products": 5.0},
        "predictor, forward": {"matrix products": 2.0},
        "outside the layers": {"moving data": 100.0},
        "optimizer and EMA": {"elementwise": 100.0},
    }
    account = {"by_part_and_kind": nested}
    assert share_in_layers(account, "rotary", "moving data") == pytest.approx(0.3)


def times_of_layers(scope, network, grid, lengths, gradients):
    """Seconds by part and kind of two of a network's layers on a v5e; of kernels, none."""
    ahead.prepare_environment()
    one = jax.sharding.SingleDeviceSharding(ahead.tpu_devices("v5e:1x1")[0])
    settings = network.heads, network.mlp_hidden, True, network.remat, network.dtype
    stack = BlockStack(2, *settings, attention="fused", name="stack")
    width = network.width

    def angles(ids):
        return rotary_angles(ids, grid, width // network.heads)

    @jax.named_scope(scope)  # the account knows parts by their names
    def forward(params, x, ids):
        return stack.apply(params, x, angles(ids), lengths)

    def both(params, x, ids, gradient):
        out, back = jax.vjp(lambda params, x: forward(params, x, ids), params, x)
        return out, back(gradient)

    def placed(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one)

    few, zeros = jnp.zeros((1, 8), int), jnp.zeros((1, 8, width))
    plain = stack.clone(attention="xla")
    params = jax.eval_shape(lambda: plain.init(jax.random.key(0), zeros, angles(few)))
    x = jax.ShapeDtypeStruct((CLIPS, sum(lengths), width), network.dtype)
    ids = jax.ShapeDtypeStruct((CLIPS, sum(lengths)), jnp.int32)
    function, *arrays = (both, params, x, ids, x) if gradients else (forward, params, x, ids)
    compiled = jax.jit(function).lower(*jax.tree.map(placed, arrays)).compile()
    return accounts.account(compiled.as_text(), TPUS["v5e"], {}).by_part_and_kind()


def test_rotary_and_moving_data_take_little_of_a_v5e():
    """Layers of the real widths and lengths; all layers are alike, so two of each will do.

    Without the attention kernels, so that these are shares of less than the whole.
    """
    config = vit_l.get_config()
    networks, clip, masks = make_networks(config), clip_spec(config), mask_specs(config).values()
    encoder, predictor = networks.encoder, networks.predictor
    grid = encoder.grid(clip.frames, clip.size, clip.size)
    context = [mask.context_tokens for mask in masks]
    with_targets = [mask.context_tokens + mask.target_tokens for mask in masks]
    parts = times_of_layers("target_encoder", encoder, grid, [math.prod(grid)], gradients=False)
    parts |= times_of_layers("context_encoder", encoder, grid, context, gradients=True)
    parts |= times_of_layers("predictor", predictor, grid, with_targets, gradients=True)
    assert set(PARTS) - {ENCODER, OPTIMIZER} == set(parts)
    account = {"by_part_and_kind": parts}
    assert share_in_layers(account, ROTARY, MOVING) <= MOST_MOVING, parts
    # Such as a GELU that the compiler cannot make a part of the products.
    assert share_in_layers(account, ELEMENTWISE) <= MOST_ELEMENTWISE, parts
