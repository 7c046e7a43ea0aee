"""The dense layer of a sharded model: products in low precision, gradients in full precision.

The parameters are float32 and may be split over devices. They are first cast and then gathered,
which halves the communication, and gathered again for the backward pass instead of being kept.
Matrix products give their gradients in float32, which are summed over devices in float32: a sum of
bfloat16 numbers over a pod would have an error of about one percent.
"""

import functools

import jax
import jax.numpy as jnp

from echojepa_jax.ops.tpu_tubelets import Order
from echojepa_jax.parallel.mesh import (
    KERNEL_AXES,
    VECTOR_AXES,
    gathered,
    shard_by_clip,
    sum_over_clips,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, order: Order | None = None
) -> jax.Array:
    """x @ kernel + bias, computed in the dtype of x.

    Args:
      x: [B, N, D], split over devices by clip.
      kernel: float32 [D, F]; bias: float32 [F].
      order: of the features of x, if it differs from that of the kernel's rows.

    Returns:
      [B, N, F] in the dtype of x, split over devices by clip.
    """
    return shard_by_clip(x @ _gathered(kernel, x, order) + gathered(bias.astype(x.dtype)))


def _gathered(kernel: jax.Array, x: jax.Array, order: Order | None) -> jax.Array:
    kernel = gathered(kernel.astype(x.dtype))
    return order.arrange(kernel) if order else kernel


def _forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, order: Order | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return linear(x, kernel, bias, order), (x, kernel)


def _backward(
    order: Order | None, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel = saved
    gradient = shard_by_clip(gradient)
    of_x = shard_by_clip(gradient @ _gathered(kernel, x, order).T)

    def summed(x: jax.Array, gradient: jax.Array) -> jax.Array:
        total = _product_over_tokens(x, gradient)
        return order.restore(total) if order else total

    of_kernel = sum_over_clips(summed, KERNEL_AXES, x, gradient)
    of_bias = sum_over_clips(
        lambda g: jnp.sum(g, axis=(0, 1), dtype=jnp.float32), VECTOR_AXES, gradient
    )
    return of_x, of_kernel.astype(kernel.dtype), of_bias.astype(kernel.dtype)


def _product_over_tokens(x: jax.Array, g: jax.Array) -> jax.Array:
    """[b, N, D] and [b, N, F] -> float32 [D, F]."""
    # On CPUs, the first operand is transposed in memory: let it be the smaller one.
    if x.shape[-1] > g.shape[-1]:
        return _product_over_tokens(g, x).T
    return jnp.einsum("bnd,bnf->df", x, g, preferred_element_type=jnp.float32)


linear.defvjp(_forward, _backward)
