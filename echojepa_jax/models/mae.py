"""Encoder and decoder of VideoMAE (the baseline EchoMAE): where they differ from V-JEPA 2.

Positions are a fixed table of sines and cosines, indexed by token id and added to the tokens. (The
same place has another id on another grid.) There is no rotation, and keys have no bias. The decoder
predicts pixels from the encoder's embeddings of the visible tokens.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echojepa_jax.models.blocks import XAVIER, Dense, Initializer, LayerNorm, stack_of
from echojepa_jax.models.predictor import Predictor
from echojepa_jax.models.vit import Encoder, cut
from echojepa_jax.ops.rotary import Grid
from echojepa_jax.parallel.mesh import gathered

BASE = 10000.0

# PyTorch's initialisation of a convolution: the patch embedding is one in PyTorch.
CONVOLUTION = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@functools.cache
def positions(count: int, width: int) -> np.ndarray:
    """The table of the first `count` ids, float32 [count, width]: sine and cosine alternate."""
    channels = np.arange(width)
    angles = np.arange(count)[:, None] / BASE ** (2 * (channels // 2) / width)
    return np.where(channels % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def convolution_bias(features: int) -> Initializer:
    """PyTorch's initialisation of a convolution's bias. features: inputs of each output."""
    limit = 1 / math.sqrt(features)
    return functools.partial(jax.random.uniform, minval=-limit, maxval=limit)


class EncoderMae(Encoder):
    """The same transformer as `Encoder`, with VideoMAE's positions and blocks."""

    @nn.compact
    def __call__(
        self, clips: jax.Array, ids: jax.Array | None = None, segments: Sequence[int] = ()
    ) -> jax.Array:
        """Embeds all tokens of the clips, or those at `ids`; see `Encoder`."""
        tokens, ids, order = cut(
            clips.astype(self.dtype), ids, self.tubelet, self.patch, self.attention
        )
        bias = convolution_bias(tokens.shape[-1])
        embed = Dense(self.width, CONVOLUTION, self.dtype, order, bias, name="patch_embed")
        table = positions(math.prod(self.grid(*clips.shape[1:4])), self.width)
        x = embed(tokens) + jnp.asarray(table, self.dtype)[ids]
        x = stack_of(self, self.drop_path, videomae=True)(x, None, segments)
        # The result feeds a loss or a probe, so it has full precision.
        return LayerNorm(jnp.float32, name="norm")(x)


class DecoderMae(Predictor):
    """A narrow transformer like `Predictor`, from tokens to pixels.

    Attributes:
      out_width: pixel values of a token, in all colours.
      mask_tokens: 1.
    """

    @nn.compact
    def __call__(
        self,
        context: jax.Array,
        context_ids: Sequence[jax.Array],
        target_ids: Sequence[jax.Array],
        grid: Grid,
    ) -> list[jax.Array]:
        """Predicts the pixels of the tokens at `target_ids`; for the arguments see `Predictor`.

        There is one mask specification. The visible tokens come first, then the masked ones: the
        order does not matter, because positions are added.

        Returns:
          [B, Kt, out_width], in a list.
        """
        (visible,), (masked,) = context_ids, target_ids
        embed = Dense(self.width, XAVIER, self.dtype, bias_init=None, name="embed")
        # Truncated at one standard deviation.
        init = nn.initializers.truncated_normal(0.02, lower=-1.0, upper=1.0)
        mask_token = gathered(self.param("mask_token", init, (self.width,), jnp.float32))
        table = jnp.asarray(positions(math.prod(grid), self.width), self.dtype)
        known, asked = (
            embed(context) + table[visible],
            mask_token.astype(self.dtype) + table[masked],
        )
        x = jnp.concatenate([known, asked], axis=1)
        x = stack_of(self, videomae=True)(x, None)[:, visible.shape[1] :]
        x = LayerNorm(self.dtype, name="norm")(x)
        return [Dense(self.out_width, XAVIER, self.dtype, name="proj")(x)]
