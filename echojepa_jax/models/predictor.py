"""The predictor: from context embeddings and target positions to target embeddings."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echojepa_jax.models.blocks import WEIGHT_INIT, Dense, LayerNorm, stack_of
from echojepa_jax.ops.rotary import Grid, rotary_angles
from echojepa_jax.parallel.mesh import gathered

USED_MASK_TOKENS = 1
"""The first ones: the original picks a token by clip length, and there is one clip length."""


class Predictor(nn.Module):
    """A narrow transformer over context tokens and mask tokens (Assran et al. 2025).

    Attributes:
      out_width: width of the encoder whose embeddings are predicted.
      width, depth, heads, mlp_hidden: of the predictor itself.
      mask_tokens: number of learned mask tokens. Only the first one is used. The others exist
        because the released checkpoints contain them; training does not change them.
      scan_layers, remat, dtype, attention: see `Encoder`.
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
    attention: str = "xla"

    @nn.compact
    def __call__(
        self,
        context: jax.Array,
        context_ids: Sequence[jax.Array],
        target_ids: Sequence[jax.Array],
        grid: Grid,
    ) -> list[jax.Array]:
        """Predicts the target encoder's embeddings at `target_ids`, for M mask specifications.

        All specifications are one sequence of 2 M parts; the tokens of a specification attend only
        to each other. The original processes them one by one and sorts context and target tokens
        by id; with rotary positions by id, the order does not change the result.

        Args:
          context: [B, Kc_1 + ... + Kc_M, out_width], embeddings of the context tokens.
          context_ids: M arrays int [B, Kc]. target_ids: M arrays int [B, Kt].
          grid: (T', Hp, Wp).

        Returns:
          M arrays [B, Kt, out_width].
        """
        embedded = Dense(self.width, WEIGHT_INIT, self.dtype, name="embed")(context)
        _, masked = self.through_blocks(
            embedded,
            context_ids,
            target_ids,
            lambda ids: rotary_angles(ids, grid, self.width // self.heads),
        )
        x = LayerNorm(self.dtype, name="norm")(jnp.concatenate(masked, axis=1))
        out = Dense(self.out_width, WEIGHT_INIT, self.dtype, name="proj")(x)
        return cut_at(out, [ids.shape[1] for ids in target_ids])

    def through_blocks(
        self,
        embedded: jax.Array,
        context_ids: Sequence[jax.Array],
        target_ids: Sequence[jax.Array],
        angles: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
        added: jax.Array | None = None,
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Runs the blocks on context and mask tokens; returns M pieces of each.

        Args:
          embedded: context tokens, of the predictor's width.
          angles: a function of ids, see ops/rotary.py. added: [width], added to all tokens.
        """
        mask_tokens = self.param(
            "mask_tokens", nn.initializers.zeros, (self.mask_tokens, self.width), jnp.float32
        )
        mask_token = gathered(mask_tokens)[0].astype(self.dtype)
        lengths = [ids.shape[1] for ids in context_ids]
        parts, ids = [], []
        for known, here, there in zip(
            cut_at(embedded, lengths), context_ids, target_ids, strict=True
        ):
            parts += [known, jnp.broadcast_to(mask_token, (*there.shape, self.width))]
            ids += [here, there]
        tokens = jnp.concatenate(parts, axis=1)
        x = stack_of(self)(
            tokens if added is None else tokens + added.astype(self.dtype),
            angles(jnp.concatenate(ids, axis=1)),
            [a.shape[1] + b.shape[1] for a, b in zip(context_ids, target_ids, strict=True)],
        )
        # The lengths are static, so the pieces are slices, which cost less than a gather.
        pieces = cut_at(x, [part.shape[1] for part in parts])
        return pieces[0::2], pieces[1::2]


def cut_at(x: jax.Array, lengths: Sequence[int]) -> list[jax.Array]:
    """Cuts [B, N, D] into pieces of these lengths."""
    return jnp.split(x, np.cumsum(lengths)[:-1].tolist(), axis=1)
