"""The exact GELU, against its definition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.ops.gelu import gelu

X = np.linspace(-12, 12, 4001).astype(np.float32)


def test_values_and_slopes_are_exact_to_float32():
    """As far as x * (0.5 + 0.5 * erf) is: near -5 half an ulp of 1 is multiplied by x."""
    phi = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in X.astype(float)])
    density = np.exp(-0.5 * X.astype(float) ** 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(gelu(jnp.asarray(X)), X * phi, rtol=2e-7, atol=1e-6)
    slopes = jax.vmap(jax.grad(gelu))(jnp.asarray(X))
    np.testing.assert_allclose(slopes, phi + X * density, rtol=2e-7, atol=1e-6)


def test_half_precision_is_float32_rounded():
    x = jnp.asarray(X, jnp.bfloat16)
    value, back = jax.vjp(gelu, x)
    (slope,) = back(jnp.ones_like(x))
    assert value.dtype == slope.dtype == jnp.bfloat16
    wanted, back = jax.vjp(gelu, x.astype(jnp.float32))
    np.testing.assert_array_equal(value, wanted.astype(jnp.bfloat16))
    np.testing.assert_array_equal(slope, back(jnp.ones_like(wanted))[0].astype(jnp.bfloat16))


@pytest.mark.parametrize("x", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(x):
    np.testing.assert_equal(float(gelu(jnp.float32(x))), x)
