"""Tubelets by the TPU's kernel: interpreted on a CPU, against the plain way; compiled for TPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.costs import ahead
from echojepa_jax.models.vit import tubelets
from echojepa_jax.ops import tpu_tubelets
from echojepa_jax.ops.linear import linear


@pytest.mark.parametrize("shape", [(2, 4, 32, 48, 3), (1, 2, 64, 32, 1)])
def test_the_first_layer_gives_the_same_and_learns_the_same(shape):
    order = tpu_tubelets.order_of(shape, tubelet=2, patch=16)
    clips = jax.random.normal(jax.random.key(0), shape)
    plain = tubelets(clips, 2, 16)
    kernel = jax.random.normal(jax.random.key(1), (order.features, 24)) / order.features**0.5
    assert plain.shape[-1] == order.features

    def layer(tokens, order):
        def loss(kernel, bias):
            out = linear(tokens, kernel, bias, order)
            return jnp.mean(jnp.sin(out)), out

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(kernel, jnp.zeros(24))

    mine = layer(tpu_tubelets.tubelets(clips, order, interpret=True), order)
    for got, wanted in zip(jax.tree.leaves(mine), jax.tree.leaves(layer(plain, None)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=5e-6)


def test_shapes_that_do_not_fill_registers_or_fit_are_cut_the_plain_way():
    assert tpu_tubelets.order_of((2, 16, 224, 224, 3), 2, 16)
    assert tpu_tubelets.order_of((2, 16, 224, 224, 3), 2, 14) is None
    assert tpu_tubelets.order_of((2, 128, 224, 224, 3), 2, 16) is None
    assert tpu_tubelets.order_of((2, 16, 64, 64, 3), 4, 16) is None


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_it_compiles_for_tpus_and_moves_nothing_else(topology):
    ahead.prepare_environment()
    one = jax.sharding.SingleDeviceSharding(ahead.tpu_devices(topology)[0])
    clips = jax.ShapeDtypeStruct((2, 16, 224, 224, 3), jnp.uint8, sharding=one)
    order = tpu_tubelets.order_of(clips.shape, 2, 16)

    def cut(clips):
        return tpu_tubelets.tubelets(clips.astype(jnp.bfloat16), order)

    compiled = jax.jit(cut).lower(clips).compile()
    # The pixels in half precision, once.
    assert compiled.memory_analysis().temp_size_in_bytes < 2.5 * clips.size
