"""3-D rotary position embedding of tokens on a (time, height, width) grid, as V-JEPA 2 has it."""

import jax
import jax.numpy as jnp
import numpy as np

Grid = tuple[int, int, int]
BASE = 10_000.0


def axis_channels(head_dim: int) -> int:
    """Channels of a head that each of the three axes rotates: the largest even number <= d/3."""
    return 2 * ((head_dim // 3) // 2)


@jax.named_scope("rotary")
def rotary_angles(ids: jax.Array, grid: Grid, head_dim: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and signed sines for tokens that sit at `ids` (method: V-JEPA 2, section 3).

    Args:
      ids: int [..., N], token ids, time-major: id = (t * Hp + h) * Wp + w.
      grid: (T', Hp, Wp), tokens along time, height and width.
      head_dim: channels of one attention head, d.

    Returns:
      cos, sin: float32 [..., N, d] for `rotate`: a channel's partner is its neighbour, and the sine
      of an even channel is negative. Channels past 3 * axis_channels(d) stay (cos 1, sin 0).
    """
    _, height, width = grid
    positions = (ids // (height * width), (ids // width) % height, ids % width)
    channels = axis_channels(head_dim)
    half = channels // 2
    frequencies = jnp.asarray(BASE ** (-np.arange(half) / half) if half else [], jnp.float32)
    signs = jnp.where(jnp.arange(channels) % 2 == 0, -1.0, 1.0)

    cos, sin = [], []
    for position in positions:
        angle = position[..., None].astype(jnp.float32) * frequencies
        # Inherited slip: the angles are tiled [c, c] over the channels although the rotation below
        # pairs neighbours (which would ask for repeat). Every released V-JEPA 2 checkpoint was
        # trained this way, so it stays.
        angle = jnp.concatenate([angle, angle], axis=-1)
        cos.append(jnp.cos(angle))
        sin.append(jnp.sin(angle) * signs)
    rest = (*ids.shape, head_dim - 3 * channels)
    cos.append(jnp.ones(rest, jnp.float32))
    sin.append(jnp.zeros(rest, jnp.float32))
    return jnp.concatenate(cos, axis=-1), jnp.concatenate(sin, axis=-1)


def swap_matrix(channels: int) -> np.ndarray:
    """The permutation that gives each channel its neighbour's place: its own inverse. [d, d]."""
    partner = np.arange(channels) ^ 1
    partner[partner == channels] = channels - 1  # an odd one out, whose sine is 0
    return np.eye(channels, dtype=np.float32)[partner]


@jax.named_scope("rotary")
def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, flip: bool = False) -> jax.Array:
    """Rotates queries or keys by the angles of their positions.

    Args:
      x: [B, N, heads, d].
      cos, sin: float32 [B or 1, N, d] from `rotary_angles`.
      flip: for GPUs, and an even d: swap neighbours where they are read. The values are the same.

    Returns:
      [B, N, heads, d] in the dtype of `x`; computed in float32.
    """
    if flip:
        # Their compiler does all of it in one pass, and would write a product's result to memory.
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        partner = jnp.flip(pairs, axis=-1).reshape(x.shape)
    else:
        # A matrix product swaps neighbours exactly, and quicker than shifts of a short last axis.
        swap = jnp.asarray(swap_matrix(x.shape[-1]), x.dtype)
        partner = jnp.matmul(x, swap, precision=jax.lax.Precision.HIGHEST)
    turned = partner.astype(jnp.float32) * sin[:, :, None]
    return (x.astype(jnp.float32) * cos[:, :, None] + turned).astype(x.dtype)
