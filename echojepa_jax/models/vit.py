"""The video vision transformer, used as context encoder and as target encoder."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from echojepa_jax.models.blocks import WEIGHT_INIT, Dense, LayerNorm, stack_of
from echojepa_jax.ops import tpu_tubelets
from echojepa_jax.ops.rotary import Grid, rotary_angles
from echojepa_jax.parallel.mesh import per_device


@dataclasses.dataclass(frozen=True)
class EncoderShape:
    """Sizes of an encoder, see `Encoder`, and its family, see models/family.py."""

    width: int
    depth: int
    heads: int
    mlp_hidden: int
    tubelet: int = 2
    patch: int = 16
    family: str = "v2"


# Method, section 2. The giant's MLP ratio is 48/11, as in the weights of EchoJEPA-G, and that of
# the gigantic size is 64/13, as in those of V-JEPA 2.1.
SIZES = {
    "vit_tiny": EncoderShape(192, 12, 3, 768),
    "vit_small": EncoderShape(384, 12, 6, 1536),
    "vit_base": EncoderShape(768, 12, 12, 3072),
    "vit_large": EncoderShape(1024, 24, 16, 4096),
    "vit_huge": EncoderShape(1280, 32, 16, 5120),
    "vit_giant": EncoderShape(1408, 40, 22, 6144),
    "vit_gigantic": EncoderShape(1664, 48, 26, 8192),
}


def tubelets(clips: jax.Array, tubelet: int, patch: int) -> jax.Array:
    """Cuts clips into flattened tubelets, time-major.

    Args:
      clips: [B, T, H, W, 3].

    Returns:
      [B, N, tubelet * patch * patch * 3] with N = (T / tubelet) (H / patch) (W / patch); the
      features of a tubelet are ordered by time, row, column, colour.
    """
    return rearrange(
        clips, "b (t u) (h p) (w q) c -> b (t h w) (u p q c)", u=tubelet, p=patch, q=patch
    )


def take_tokens(x: jax.Array, ids: jax.Array) -> jax.Array:
    """Picks tokens by id, clip by clip: x [B, N, D], ids int [B, K] -> [B, K, D]."""
    return jax.vmap(lambda tokens, rows: tokens[rows])(x, ids)


def cut(
    clips: jax.Array, ids: jax.Array | None, tubelet: int, patch: int, attention: str
) -> tuple[jax.Array, jax.Array, tpu_tubelets.Order | None]:
    """Cuts the tubelets at `ids` (None = all) from clips [B, T, H, W, 3] in the fastest way.

    Args:
      attention: the attention backend, which determines the platform.

    Returns:
      [B, K, features], the ids [B or 1, K], and the order of the features; None = the order of
      `tubelets`.
    """
    order = tpu_tubelets.order_of(clips, tubelet, patch) if attention == "fused" else None
    if order is None:
        tokens = tubelets(clips, tubelet, patch)
    else:
        tokens = per_device(functools.partial(tpu_tubelets.tubelets, order=order), clips)
    if ids is None:
        return tokens, jnp.arange(tokens.shape[1])[None], order
    return take_tokens(tokens, ids), ids, order


class Encoder(nn.Module):
    """Vision transformer over tubelets: no class token, no dropout, only rotary positions.

    It embeds only the tokens at `ids`, so that the context encoder does not compute masked tokens.
    Positions are computed from token ids: any resolution and clip length works.

    Attributes:
      width, depth, heads, mlp_hidden: see `EncoderShape`.
      tubelet, patch: frames and pixels (square) of one token.
      scan_layers, remat: see `BlockStack`.
      dtype: of activations and matrix products; parameters are float32.
      drop_path: see `Block`; 0 in pretraining.
      attention: a backend of `attention`.
    """

    width: int
    depth: int
    heads: int
    mlp_hidden: int
    tubelet: int = 2
    patch: int = 16
    scan_layers: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32
    drop_path: float = 0.0
    attention: str = "xla"

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """Tokens along time, height and width of clips of this size."""
        return frames // self.tubelet, height // self.patch, width // self.patch

    @nn.compact
    def __call__(
        self, clips: jax.Array, ids: jax.Array | None = None, segments: Sequence[int] = ()
    ) -> jax.Array:
        """Embeds all tokens of the clips, or those at `ids`.

        Args:
          clips: float [B, T, H, W, 3], normalised.
          ids: int [B, K], or None for all N tokens in order.
          segments: lengths of parts of `ids` that do not attend to each other, see `attention`.

        Returns:
          float32 [B, K or N, width], after the final layer norm.
        """
        tokens, ids, order = cut(
            clips.astype(self.dtype), ids, self.tubelet, self.patch, self.attention
        )
        embed = Dense(self.width, WEIGHT_INIT, self.dtype, order, name="patch_embed")
        x = stack_of(self, self.drop_path)(
            embed(tokens),
            rotary_angles(ids, self.grid(*clips.shape[1:4]), self.width // self.heads),
            segments,
        )
        # The result feeds a loss or a probe, so it has full precision.
        return LayerNorm(jnp.float32, name="norm")(x)
