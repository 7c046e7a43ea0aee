"""Multi-head attention, one function for every caller."""

import jax
import jax.numpy as jnp


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Softmax attention, scaled by 1/sqrt(d); the softmax is computed in float32.

    Args:
      query: [B, N, heads, d].
      key, value: [B, M, heads, d].

    Returns:
      [B, N, heads, d] in the dtype of `query`.
    """
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value)
