"""Multi-head attention, one function for every caller."""

import jax
import jax.numpy as jnp


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, present: jax.Array | None = None
) -> jax.Array:
    """Softmax attention, scaled by 1/sqrt(d); the softmax is computed in float32.

    Args:
      query: [B, N, heads, d].
      key, value: [B, M, heads, d].
      present: bool [B, M], which keys there are; at least one in a row. None = all.

    Returns:
      [B, N, heads, d] in the dtype of `query`.
    """
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)
    scores *= query.shape[-1] ** -0.5
    if present is not None:
        scores = jnp.where(present[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value)
