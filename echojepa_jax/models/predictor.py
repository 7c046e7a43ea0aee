"""The predictor: from context embeddings and the places of the targets to target embeddings."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from echojepa_jax.models.blocks import WEIGHT_INIT, BlockStack, layer_norm
from echojepa_jax.ops.rotary import Grid


class Predictor(nn.Module):
    """A narrow transformer over context tokens and mask tokens (method, section 3).

    Attributes:
      out_width: width of the encoder whose embeddings are predicted.
      width, depth, heads, mlp_hidden: of the predictor itself.
      mask_tokens: how many learned mask tokens there are. Only the first one is used: the original
        picks it by clip length, and there is one clip length. The others exist because the released
        checkpoints have them; AdamW decays them from zero to zero.
      scan_layers, remat, dtype: see `Encoder`.
    """

    out_width: int
    width: int = 384
    depth: int = 12
    heads: int = 12
    mlp_hidden: int = 1536
    mask_tokens: int = 10
    scan_layers: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, context: jax.Array, context_ids: jax.Array, target_ids: jax.Array, grid: Grid
    ) -> jax.Array:
        """Predicts the target encoder's embeddings at `target_ids`.

        The original sorts context and target tokens by id before its blocks. Attention with rotary
        positions by id does not depend on the order, so they are only concatenated here.

        Args:
          context: [B, Kc, out_width], embeddings of the context tokens.
          context_ids: int [B, Kc]; target_ids: int [B, Kt].
          grid: (T', Hp, Wp).

        Returns:
          [B, Kt, out_width].
        """
        embed = nn.Dense(self.width, kernel_init=WEIGHT_INIT, dtype=self.dtype, name="embed")
        mask_tokens = self.param(
            "mask_tokens", nn.initializers.zeros, (self.mask_tokens, self.width), jnp.float32
        )
        masked = jnp.broadcast_to(
            mask_tokens[0].astype(self.dtype), (*target_ids.shape, self.width)
        )
        x = jnp.concatenate([embed(context), masked], axis=1)
        ids = jnp.concatenate([context_ids, target_ids], axis=1)
        x = BlockStack(
            self.depth,
            self.heads,
            self.mlp_hidden,
            self.scan_layers,
            self.remat,
            self.dtype,
            name="stack",
        )(x, ids, grid)
        x = layer_norm(self.dtype, "norm")(x[:, context.shape[1] :])
        return nn.Dense(self.out_width, kernel_init=WEIGHT_INIT, dtype=self.dtype, name="proj")(x)
