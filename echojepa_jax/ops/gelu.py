"""The exact GELU, as PyTorch computes it."""

import jax
import jax.numpy as jnp

_SQRT_HALF = 0.5**0.5


def gelu(x: jax.Array) -> jax.Array:
    """x times the share of a normal distribution below it: any shape, computed in float32.

    `jax.nn.gelu(approximate=False)` rounds every step in half precision, the constant as well, and
    asks for erfc, which compilers expand into three times as many operations as erf.
    """
    x32 = x.astype(jnp.float32)
    return (0.5 * x32 * (1 + jax.lax.erf(x32 * _SQRT_HALF))).astype(x.dtype)
