"""The objective of V-JEPA 2: the embeddings of masked tokens (Assran et al. 2025, section 2.1)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from echojepa_jax.models.vit import take_tokens
from echojepa_jax.ops.rotary import Grid, places

Batch = dict[str, Any]

TARGET_NORM_EPS = 1e-5


class VJepa2(NamedTuple):
    """exponent: p of the loss |difference|^p / p, 1 in the recipe."""

    exponent: float = 1.0

    @property
    def has_target(self) -> bool:
        """Whether the targets come from a target encoder: yes."""
        return True

    @property
    def levels(self) -> int:
        """Number of the encoder's layers that are predicted: the last one."""
        return 1

    def facts_at(self, step: jax.Array) -> dict[str, jax.Array]:
        """Settings that change with the number of steps, for the metrics: none."""
        del step
        return {}

    def embed(
        self, encoder: Any, predictor: Any, params: Any, target: Any, clips: jax.Array, batch: Batch
    ) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        """Embeddings of all tokens, and pairs of predictions and targets.

        Args:
          params: {"encoder", "predictor"}; target: of the target encoder.
          clips: float [B, T, H, W, 3], normalised.
          batch: `context_ids`, `target_ids`: one int [B, K] per mask specification.

        Returns:
          float32 [B, N, D], layer-normalised without parameters; and M pairs (prediction, target)
          of float32 [B, Kt, D].
        """
        # The targets are constants: they have no gradient, and nothing is stored for one.
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
        return targets, [
            (prediction.astype(jnp.float32), take_tokens(targets, masked))
            for prediction, masked in zip(out, batch["target_ids"], strict=True)
        ]

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
        """Sum over clips of the loss, which is a mean over mask specifications.

        Args:
          batch: as in `embed`, and `valid`: bool [B], False for a clip whose file failed, which
            does not count. `frames`, optional: see `present_tokens`.
          step: number of steps before this one.

        Returns:
          The sum, and `loss_by_mask`, the same for each mask specification: float32 [M].
        """
        del step  # the loss is the same at all steps
        _, pairs = self.embed(encoder, predictor, params, target, clips, batch)
        grid = encoder.grid(*clips.shape[1:4])
        sums = []
        for (prediction, wanted), ids in zip(pairs, batch["target_ids"], strict=True):
            present = present_tokens(batch, ids, grid, encoder.tubelet)
            losses = clip_losses(prediction, wanted, self.exponent, present)
            sums.append(jnp.sum(jnp.where(batch["valid"], losses, 0.0)))
        by_mask = jnp.stack(sums)
        return jnp.mean(by_mask), {"loss_by_mask": by_mask}


def end_to_end(context_ids: Sequence[jax.Array]) -> tuple[jax.Array, list[int]]:
    """Contexts of all specifications as one sequence, int [B, K], and the lengths of its parts.

    In one sequence they share the matrix products and the gathering of parameters.
    """
    return jnp.concatenate(context_ids, axis=1), [ids.shape[1] for ids in context_ids]


def present_tokens(batch: Batch, ids: jax.Array, grid: Grid, tubelet: int) -> jax.Array | None:
    """Which tokens show at least one frame of the video, and not only repeats of its last frame.

    Args:
      batch: `frames`, optional: int [B], the number of frames of a clip that are not repeats.
      ids: int [B, K]. tubelet: frames of a token.

    Returns:
      bool [B, K]; None if the batch has no `frames`: then all tokens count.
    """
    if "frames" not in batch:
        return None
    return places(ids, grid)[0] * tubelet < batch["frames"][:, None]


def clip_losses(
    prediction: jax.Array, target: jax.Array, exponent: float, present: jax.Array | None = None
) -> jax.Array:
    """Mean of |prediction - target|^p / p over tokens and features: [B, K, D] twice -> [B].

    present: from `present_tokens`; the mean is over these tokens.
    """
    return token_means(jnp.abs(prediction - target) ** exponent, present) / exponent


def token_means(x: jax.Array, present: jax.Array | None) -> jax.Array:
    """Mean over features and the present tokens of a clip, 0 if there are none: [B, K, D] -> [B].

    present: bool [B, K]; None = all.
    """
    if present is None:
        return jnp.mean(x, axis=(1, 2))
    count = jnp.maximum(jnp.sum(present, axis=1), 1)
    return jnp.sum(jnp.where(present[..., None], x, 0.0), axis=(1, 2)) / (count * x.shape[-1])
