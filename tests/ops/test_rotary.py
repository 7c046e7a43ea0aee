"""The rotary embedding: its definition channel by channel, and what attention needs of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.ops.rotary import axis_channels, rotary_angles, rotate

GRID = (4, 3, 5)


def by_definition(vector, position):
    """Rotates one head's vector [d], written out from the formula, slip included."""
    d = len(vector)
    a = 2 * ((d // 3) // 2)
    out = np.array(vector, np.float64)
    for axis, p in enumerate(position):
        x = np.array(vector[axis * a : (axis + 1) * a], np.float64)
        angle = np.array([p * 10_000 ** (-i / (a / 2)) for i in range(a // 2)])
        angle = np.concatenate([angle, angle])  # tiled, not repeated
        partner = np.empty(a)
        partner[0::2], partner[1::2] = -x[1::2], x[0::2]
        out[axis * a : (axis + 1) * a] = x * np.cos(angle) + partner * np.sin(angle)
    return out


@pytest.mark.parametrize(
    ("head_dim", "channels"), [(64, 20), (32, 10), (88, 28), (80, 26), (24, 8)]
)
def test_every_channel_follows_the_formula(head_dim, channels):
    assert axis_channels(head_dim) == channels
    rng = np.random.default_rng(0)
    count = int(np.prod(GRID))
    x = rng.standard_normal((1, count, 1, head_dim)).astype(np.float32)
    cos, sin = rotary_angles(jnp.arange(count)[None], GRID, head_dim)
    out = np.asarray(rotate(jnp.asarray(x), cos, sin))
    for token in range(count):
        wanted = by_definition(x[0, token, 0], np.unravel_index(token, GRID))
        np.testing.assert_allclose(out[0, token, 0], wanted, atol=1e-5)
    left_over = 3 * channels
    np.testing.assert_array_equal(out[..., left_over:], x[..., left_over:])


@pytest.mark.parametrize("head_dim", [8, 32, 64])
def test_both_ways_of_swapping_neighbours_are_equal(head_dim):
    x = jax.random.normal(jax.random.key(0), (2, 60, 3, head_dim), jnp.bfloat16)
    cos, sin = rotary_angles(jnp.arange(60)[None], GRID, head_dim)

    def value_and_pullback(flip):
        out, pull = jax.vjp(lambda x: rotate(x, cos, sin, flip=flip), x)
        return out, pull(out)

    for one, other in zip(value_and_pullback(False), value_and_pullback(True), strict=True):
        np.testing.assert_array_equal(one, other)


def test_positions_go_with_ids_not_with_places():
    ids = jnp.asarray([[7, 0, 59, 12]])
    cos, sin = rotary_angles(ids, GRID, 32)
    all_cos, all_sin = rotary_angles(jnp.arange(60)[None], GRID, 32)
    np.testing.assert_array_equal(cos[0], all_cos[0][ids[0]])
    np.testing.assert_array_equal(sin[0], all_sin[0][ids[0]])
