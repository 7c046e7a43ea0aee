"""Attention in chunks of queries, and with keys that are not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.ops.attention import attention


def arrays(count=37):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, count, 3, 8)) for key in keys]


@pytest.mark.parametrize("chunk", [1, 8, 36, 37, 100])
def test_chunks_change_neither_values_nor_gradients(chunk):
    query, key, value = arrays()
    present = jnp.arange(37)[None] < jnp.array([[37], [20]])

    def total(query, key, value, chunk):
        return jnp.sum(jnp.sin(attention(query, key, value, present, chunk)))

    wanted = jax.value_and_grad(total, argnums=(0, 1, 2))(query, key, value, 0)
    mine = jax.value_and_grad(total, argnums=(0, 1, 2))(query, key, value, chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, wanted)


def test_a_key_that_is_not_there_has_no_influence():
    query, key, value = arrays()
    present = jnp.broadcast_to(jnp.arange(37) < 30, (2, 37))
    out = attention(query, key, value, present)
    np.testing.assert_allclose(out, attention(query, key[:, :30], value[:, :30]), atol=1e-6)
    noise = value.at[:, 30:].set(1e6)
    np.testing.assert_array_equal(attention(query, key, noise, present), out)
