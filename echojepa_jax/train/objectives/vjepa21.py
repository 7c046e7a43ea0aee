"""The objective of V-JEPA 2.1: embeddings of several layers, for masked and visible tokens.

Optionally, visible tokens count less the farther they are from masked ones, and the weight of their
loss grows gradually.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from echojepa_jax.models.vit import take_tokens
from echojepa_jax.ops.rotary import Grid, places
from echojepa_jax.train.objectives.vjepa2 import (
    TARGET_NORM_EPS,
    Batch,
    clip_losses,
    end_to_end,
    present_tokens,
    token_means,
)


class VJepa21(NamedTuple):
    """Settings of the objective.

    Attributes:
      exponent: p of both losses, |difference|^p / p.
      levels: number of the encoder's layers that are predicted: 4, or 1 for only the last one.
      context_weight: lambda, the weight of the loss of visible tokens.
      ramp: steps at which lambda starts to grow from 0, and at which it reaches its value; if they
        are equal, it has its value from the first step on.
      by_distance: whether visible tokens are weighted by 1 / sqrt(distance to the nearest masked
        token).
    """

    exponent: float = 1.0
    levels: int = 4
    context_weight: float = 0.5
    ramp: tuple[int, int] = (0, 0)
    by_distance: bool = False

    @property
    def has_target(self) -> bool:
        """Whether the targets come from a target encoder: yes."""
        return True

    def context_weight_at(self, step: jax.Array) -> jax.Array:
        """Lambda after that many steps."""
        start, end = self.ramp
        if start == end:
            return jnp.float32(self.context_weight)
        share = (jnp.asarray(step, jnp.float32) - start) / (end - start)
        return self.context_weight * jnp.clip(share, 0.0, 1.0)

    def facts_at(self, step: jax.Array) -> dict[str, jax.Array]:
        """Settings that change with the number of steps, for the metrics."""
        return {"context_weight": self.context_weight_at(step)}

    def embed(
        self, encoder: Any, predictor: Any, params: Any, target: Any, clips: jax.Array, batch: Batch
    ) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        """As `VJepa2.embed`, with levels x D features instead of D."""
        targets, masked, _ = self._embed(encoder, predictor, params, target, clips, batch)
        return targets, [
            (prediction, take_tokens(targets, ids))
            for prediction, ids in zip(masked, batch["target_ids"], strict=True)
        ]

    def _embed(
        self, encoder: Any, predictor: Any, params: Any, target: Any, clips: jax.Array, batch: Batch
    ) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
        with jax.named_scope("target_encoder"):
            tokens: Any = encoder.apply(
                {"params": jax.lax.stop_gradient(target)}, clips, levels=self.levels
            )
            by_level = rearrange(tokens, "b n (l d) -> b n l d", l=self.levels)
            targets = jax.nn.standardize(by_level, axis=-1, epsilon=TARGET_NORM_EPS)
            targets = rearrange(targets, "b n l d -> b n (l d)")
        ids, lengths = end_to_end(batch["context_ids"])
        with jax.named_scope("context_encoder"):
            context = encoder.apply(
                {"params": params["encoder"]}, clips, ids, lengths, levels=self.levels
            )
        with jax.named_scope("predictor"):
            found: Any = predictor.apply(
                {"params": params["predictor"]},
                context,
                batch["context_ids"],
                batch["target_ids"],
                encoder.grid(*clips.shape[1:4]),
                image=clips.shape[1] == 1,
            )
        masked, visible = ([x.astype(jnp.float32) for x in part] for part in found)
        return targets, masked, visible

    def loss(
        self,
        params: dict[str, Any],
        encoder: Any,
        predictor: Any,
        target: Any,
        clips: jax.Array,
        batch: Batch,
        step: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As `VJepa2.loss`: the loss of masked tokens plus lambda times that of visible tokens.

        Returns:
          The sum over clips; `loss_by_mask` of masked tokens, [M], and `loss_context` of visible
          tokens, without lambda.
        """
        targets, masked, visible = self._embed(encoder, predictor, params, target, clips, batch)
        grid = encoder.grid(*clips.shape[1:4])
        sums, of_context = [], []
        for asked, known, target_ids, context_ids in zip(
            masked, visible, batch["target_ids"], batch["context_ids"], strict=True
        ):
            hidden, shown = (
                present_tokens(batch, ids, grid, encoder.tubelet)
                for ids in (target_ids, context_ids)
            )
            losses = clip_losses(asked, take_tokens(targets, target_ids), self.exponent, hidden)
            sums.append(jnp.sum(jnp.where(batch["valid"], losses, 0.0)))
            apart = jnp.abs(known - take_tokens(targets, context_ids)) ** self.exponent
            if self.by_distance:
                apart /= root_distances(context_ids, target_ids, grid, hidden)[..., None]
            losses = token_means(apart, shown) / self.exponent
            of_context.append(jnp.sum(jnp.where(batch["valid"], losses, 0.0)))
        by_mask, context = jnp.stack(sums), jnp.mean(jnp.stack(of_context))
        total = jnp.mean(by_mask) + self.context_weight_at(step) * context
        return total, {"loss_by_mask": by_mask, "loss_context": context}


def root_distances(
    context_ids: jax.Array, target_ids: jax.Array, grid: Grid, present: jax.Array | None = None
) -> jax.Array:
    """The square root of every visible token's distance to the nearest masked token of its clip.

    Distances are in tokens, along time, height and width alike.

    Args:
      context_ids: int [B, Kc]; target_ids: int [B, Kt].
      present: bool [B, Kt], the masked tokens that count; None = all.

    Returns:
      float32 [B, Kc]; at least 1, because no token is both; infinite if no masked token counts.
    """
    squares: Any = sum(
        jnp.square(here[:, :, None] - there[:, None])
        for here, there in zip(places(context_ids, grid), places(target_ids, grid), strict=True)
    )
    squares = squares.astype(jnp.float32)
    if present is not None:
        squares = jnp.where(present[:, None], squares, jnp.inf)
    return jnp.min(squares, axis=-1) ** 0.25
