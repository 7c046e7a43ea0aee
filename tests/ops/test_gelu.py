"""The GELU: its definition, in each type, and its slope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from echojepa_jax.ops.gelu import gelu


def by_definition(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


@pytest.mark.parametrize(("dtype", "spacing"), [("float32", 2**-23), ("bfloat16", 2**-8)])
def test_values_are_those_of_the_definition(dtype, spacing):
    x = jnp.linspace(-6, 6, 2001).astype(dtype)
    exact = np.asarray(x, np.float64)
    got = np.asarray(gelu(x), np.float64)
    assert gelu(x).dtype == dtype
    # Half a step of the type at a result, and what float32 leaves of 1 + erf.
    assert np.all(abs(got - by_definition(exact)) <= spacing * abs(by_definition(exact)) + 1e-6)


def test_its_slope_is_that_of_the_definition():
    x = np.linspace(-6, 6, 101)
    slope = (by_definition(x + 1e-5) - by_definition(x - 1e-5)) / 2e-5
    got = jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, slope, atol=2e-6)
