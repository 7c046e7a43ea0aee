"""The dense layer of a sharded model: low precision for the products, full precision for gradients.

The parameters are float32 and may be split over devices. They are cast first and gathered then,
which halves the bytes on the wire, and gathered again for the backward pass instead of being kept.
Their gradients leave the matrix product in float32 and are summed over devices in float32: a sum of
bfloat16 numbers over a pod would lose about a percent.
"""

import jax
import jax.numpy as jnp

from echojepa_jax.parallel.mesh import KERNEL_AXES, VECTOR_AXES, split_over_fsdp, whole


@jax.custom_vjp
def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x @ kernel + bias, computed in the dtype of x.

    Args:
      x: [..., D].
      kernel: float32 [D, F]; bias: float32 [F].

    Returns:
      [..., F] in the dtype of x.
    """
    return x @ whole(kernel.astype(x.dtype)) + whole(bias.astype(x.dtype))


def _forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return linear(x, kernel, bias), (x, kernel)


def _backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel = saved
    of_x = gradient @ whole(kernel.astype(x.dtype)).T
    of_kernel = jnp.einsum("...d,...f->df", x, gradient, preferred_element_type=jnp.float32)
    of_bias = jnp.sum(gradient, axis=tuple(range(gradient.ndim - 1)), dtype=jnp.float32)
    return (
        of_x,
        split_over_fsdp(of_kernel.astype(kernel.dtype), KERNEL_AXES),
        split_over_fsdp(of_bias.astype(kernel.dtype), VECTOR_AXES),
    )


linear.defvjp(_forward, _backward)
