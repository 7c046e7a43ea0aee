"""The 3-D rotary position embedding of V-JEPA 2 and 2.1, on a grid of time, height and width."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Grid = tuple[int, int, int]
BASE = 10_000.0


def axis_channels(head_dim: int) -> int:
    """Channels per head that each of the three axes rotates: the largest even number <= d/3."""
    return 2 * ((head_dim // 3) // 2)


@jax.named_scope("rotary")
def rotary_angles(ids: jax.Array, grid: Grid, head_dim: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and signed sines for the tokens at `ids`, as in V-JEPA 2.

    Args:
      ids: int [..., N], token ids, time-major: id = (t * Hp + h) * Wp + w.
      grid: (T', Hp, Wp), tokens along time, height and width.
      head_dim: channels of one attention head, d.

    Returns:
      cos, sin: float32 [..., N, d] for `rotate`: neighbouring channels form a pair, and the sine of
      an even channel is negative. Channels past 3 * axis_channels(d) are not rotated (cos 1, sin
      0).
    """
    # An inherited mistake: the angles are tiled [c, c] over the channels, although pairs are
    # neighbours, for which they would have to be repeated. All released V-JEPA 2 checkpoints were
    # trained this way, so it stays.
    return _angles(
        places(ids, grid), head_dim, lambda angle: jnp.concatenate([angle, angle], axis=-1)
    )


@jax.named_scope("rotary")
def scaled_rotary_angles(
    ids: jax.Array, grid: Grid, head_dim: int, trained: int
) -> tuple[jax.Array, jax.Array]:
    """The same as in V-JEPA 2.1: both channels of a pair have the same angle, a true rotation.

    Args:
      trained: tokens along each side of the frames that the recipe was made for. Rows and columns
        are scaled to it: the first and last token of a side have the same positions at any size.
    """
    time, *sides = places(ids, grid)
    scaled = [
        place * float(trained - 1) / max(1, count - 1)
        for place, count in zip(sides, grid[1:], strict=True)
    ]
    return _angles((time, *scaled), head_dim, lambda angle: jnp.repeat(angle, 2, axis=-1))


def places(ids: jax.Array, grid: Grid) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Time, row and column of tokens on the grid, each int like `ids`."""
    _, height, width = grid
    return ids // (height * width), (ids // width) % height, ids % width


def _angles(
    positions: Sequence[jax.Array], head_dim: int, over_channels: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """over_channels: maps the angles of half of an axis' channels, [.., c / 2], to all of them."""
    channels = axis_channels(head_dim)
    half = channels // 2
    frequencies = jnp.asarray(BASE ** (-np.arange(half) / half) if half else [], jnp.float32)
    signs = jnp.where(jnp.arange(channels) % 2 == 0, -1.0, 1.0)
    cos, sin = [], []
    for position in positions:
        angle = over_channels(position[..., None].astype(jnp.float32) * frequencies)
        cos.append(jnp.cos(angle))
        sin.append(jnp.sin(angle) * signs)
    rest = (*positions[0].shape, head_dim - 3 * channels)
    cos.append(jnp.ones(rest, jnp.float32))
    sin.append(jnp.zeros(rest, jnp.float32))
    return jnp.concatenate(cos, axis=-1), jnp.concatenate(sin, axis=-1)


def swap_matrix(channels: int) -> np.ndarray:
    """The permutation matrix [d, d] that swaps the channels of each pair; its own inverse."""
    partner = np.arange(channels) ^ 1
    partner[partner == channels] = channels - 1  # a channel without a partner, whose sine is 0
    return np.eye(channels, dtype=np.float32)[partner]


@jax.named_scope("rotary")
def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, flip: bool = False) -> jax.Array:
    """Rotates queries or keys by the angles of their positions.

    Args:
      x: [B, N, heads, d].
      cos, sin: float32 [B or 1, N, d] from `rotary_angles`.
      flip: for GPUs and even d: swap neighbours while reading. The values are the same.

    Returns:
      [B, N, heads, d] in the dtype of `x`; computed in float32.
    """
    if flip:
        # The GPU compiler does this in one pass; a matrix product would write to memory.
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        partner = jnp.flip(pairs, axis=-1).reshape(x.shape)
    else:
        # A matrix product swaps neighbours exactly, and faster than shifts along a short last axis.
        swap = jnp.asarray(swap_matrix(x.shape[-1]), x.dtype)
        partner = jnp.matmul(x, swap, precision=jax.lax.Precision.HIGHEST)
    turned = partner.astype(jnp.float32) * sin[:, :, None]
    return (x.astype(jnp.float32) * cos[:, :, None] + turned).astype(x.dtype)
