"""Multi-head attention, one function for every caller."""

import jax
import jax.numpy as jnp
from einops import rearrange


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    present: jax.Array | None = None,
    chunk: int = 0,
) -> jax.Array:
    """Softmax attention, scaled by 1/sqrt(d); the softmax is computed in float32.

    Args:
      query: [B, N, heads, d].
      key, value: [B, M, heads, d].
      present: bool [B, M], which keys there are; at least one in a row. None = all.
      chunk: queries that are dealt with at a time, and computed again for the gradient, so that
        scores take chunk/N of the memory; 0 = all at once.

    Returns:
      [B, N, heads, d] in the dtype of `query`.
    """
    count = query.shape[1]
    if chunk and count > chunk:
        parts = -(-count // chunk)
        padded = jnp.pad(query, ((0, 0), (0, parts * chunk - count), (0, 0), (0, 0)))
        some = jax.checkpoint(lambda part: attention(part, key, value, present))
        out = jax.lax.map(some, rearrange(padded, "b (p c) h d -> p b c h d", p=parts))
        return rearrange(out, "p b c h d -> b (p c) h d")[:, :count]
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)
    scores *= query.shape[-1] ** -0.5
    if present is not None:
        scores = jnp.where(present[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value)
