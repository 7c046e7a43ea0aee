"""Layer norm, against automatic differentiation of its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.ops.norm import EPS, layer_norm


def plain(x, scale, bias, dtype):
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + EPS) * scale + bias).astype(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
def test_values_and_gradients(dtype, tolerance):
    keys = jax.random.split(jax.random.key(0), 4)
    x = (3 * jax.random.normal(keys[0], (2, 5, 12)) + 1).astype(dtype)
    scale, bias = jax.random.normal(keys[1], (12,)), jax.random.normal(keys[2], (12,))
    weight = jax.random.normal(keys[3], x.shape)

    def results(function):
        def loss(x, scale, bias):
            out = function(x, scale, bias, dtype)
            return jnp.sum(out.astype(jnp.float32) * weight), out

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(x, scale, bias)

    for mine, wanted in zip(*map(jax.tree.leaves, map(results, (layer_norm, plain))), strict=True):
        assert mine.dtype == wanted.dtype
        mine, wanted = np.asarray(mine, np.float32), np.asarray(wanted, np.float32)
        np.testing.assert_allclose(mine, wanted, rtol=tolerance, atol=tolerance)
