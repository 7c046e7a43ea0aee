"""Tubelets by the TPU's kernel: interpreted on a CPU, against the plain way; compiled for TPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.costs import ahead
from echojepa_jax.models.vit import tubelets
from echojepa_jax.ops import tpu_tubelets
from echojepa_jax.ops.linear import linear

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("tubelet", "shape"), [(2, (2, 4, 32, 48, 3)), (2, (1, 2, 64, 32, 1)), (8, (1, 8, 32, 16, 1))]
)
def test_the_first_layer_gives_the_same_and_learns_the_same(tubelet, shape):
    clips = jax.random.normal(jax.random.key(0), shape)
    order = tpu_tubelets.order_of(clips, tubelet, patch=16)
    plain = tubelets(clips, tubelet, 16)
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
    def order(tubelet, patch, *shape):
        return tpu_tubelets.order_of(jax.ShapeDtypeStruct(shape, jnp.bfloat16), tubelet, patch)

    assert order(2, 16, 2, 16, 224, 224, 3)
    assert order(2, 14, 2, 16, 224, 224, 3) is None
    assert order(4, 16, 2, 16, 64, 64, 3) is None
    assert order(2, 16, 2, 128, 224, 224, 3) is None


@pytest.mark.parametrize(
    ("topology", "dtype", "size"),
    [
        ("v5e:2x2", jnp.bfloat16, 224),
        ("v5e:2x2", jnp.float32, 224),
        ("v5p:2x2x1", jnp.bfloat16, 336),
        ("v6e:2x2", jnp.bfloat16, 224),
    ],
)
def test_it_compiles_for_tpus_and_moves_nothing_else(topology, dtype, size):
    ahead.prepare_environment()
    one = jax.sharding.SingleDeviceSharding(ahead.tpu_devices(topology)[0])
    clips = jax.ShapeDtypeStruct((2, 16, size, size, 3), jnp.uint8, sharding=one)

    def cut(clips):
        clips = clips.astype(dtype)
        return tpu_tubelets.tubelets(clips, tpu_tubelets.order_of(clips, 2, 16))

    compiled = jax.jit(cut).lower(clips).compile()
    # The pixels in that type, once; rows of pixels fill up registers.
    once = clips.size * -(-size // 128) * 128 / size * jnp.dtype(dtype).itemsize
    assert compiled.memory_analysis().temp_size_in_bytes < 1.1 * once
