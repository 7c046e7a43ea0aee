"""The objective of V-JEPA 2: the embeddings of masked tokens (method, section 1)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from echojepa_jax.models.vit import take_tokens

Batch = dict[str, Any]

TARGET_NORM_EPS = 1e-5


class VJepa2(NamedTuple):
    """exponent: p of the loss |difference|^p / p, 1 in the recipe."""

    exponent: float = 1.0

    @property
    def levels(self) -> int:
        """Layers of the encoder that are predicted: the last one."""
        return 1

    def facts_at(self, step: jax.Array) -> dict[str, jax.Array]:
        """Settings that change with the number of steps, for the metrics: none."""
        del step
        return {}

    def embed(
        self,
        encoder: Any,
        predictor: Any,
        params: dict[str, Any],
        target: Any,
        clips: jax.Array,
        batch: Batch,
    ) -> tuple[jax.Array, list[jax.Array]]:
        """All targets, and what is predicted of them.

        Args:
          params: {"encoder", "predictor"}; target: of the target encoder.
          clips: float [B, T, H, W, 3], normalised.
          batch: `context_ids`, `target_ids`: one int [B, K] per mask specification.

        Returns:
          float32 [B, N, D], layer-normalised without parameters; and M times float32 [B, Kt, D].
        """
        # The targets are constants: no gradient flows into them, and nothing is stored for one.
        with jax.named_scope("target_encoder"):
            tokens: Any = encoder.apply({"params": jax.lax.stop_gradient(target)}, clips)
            targets = jax.nn.standardize(tokens, axis=-1, epsilon=TARGET_NORM_EPS)
        ids, lengths = end_to_end(batch["context_ids"])
        with jax.named_scope("context_encoder"):
            context = encoder.apply({"params": params["encoder"]}, clips, ids, lengths)
        with jax.named_scope("predictor"):
            out: Any = predictor.apply(
                {"params": params["predictor"]},
                context,
                batch["context_ids"],
                batch["target_ids"],
                encoder.grid(*clips.shape[1:4]),
            )
        return targets, [prediction.astype(jnp.float32) for prediction in out]

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
        """Sum over clips of the loss, per clip the mean over mask specifications.

        Args:
          batch: as of `embed`, and `valid`: bool [B], False for a clip whose file failed, which
            then counts for nothing.
          step: number of steps before this one.

        Returns:
          The sum, and `loss_by_mask`, the same for each mask specification: float32 [M].
        """
        del step  # the same from the first to the last
        targets, predictions = self.embed(encoder, predictor, params, target, clips, batch)
        sums = []
        for prediction, ids in zip(predictions, batch["target_ids"], strict=True):
            losses = clip_losses(prediction, take_tokens(targets, ids), self.exponent)
            sums.append(jnp.sum(jnp.where(batch["valid"], losses, 0.0)))
        by_mask = jnp.stack(sums)
        return jnp.mean(by_mask), {"loss_by_mask": by_mask}


def end_to_end(context_ids: Sequence[jax.Array]) -> tuple[jax.Array, list[int]]:
    """Contexts of all specifications as one sequence, int [B, K], and the lengths of its parts.

    So they share the matrix products and the gathering of parameters.
    """
    return jnp.concatenate(context_ids, axis=1), [ids.shape[1] for ids in context_ids]


def clip_losses(prediction: jax.Array, target: jax.Array, exponent: float) -> jax.Array:
    """Mean of |prediction - target|^p / p over tokens and features: [B, Kt, D] twice -> [B]."""
    return jnp.mean(jnp.abs(prediction - target) ** exponent, axis=(1, 2)) / exponent
