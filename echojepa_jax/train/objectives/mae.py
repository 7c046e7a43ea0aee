"""The objective of VideoMAE, for the baseline EchoMAE: the pixels of masked tokens."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from echojepa_jax.models.pixels import IMAGENET_MEAN, IMAGENET_STD, Colour
from echojepa_jax.models.vit import take_tokens, tubelets
from echojepa_jax.train.objectives.vjepa2 import TARGET_NORM_EPS, Batch, present_tokens, token_means

# Added to the standard deviation of a token's pixels.
PIXEL_EPS = 1e-6
# Pixels in 0..1 that are rounded to 0 of 255.
BLACK = 0.5 / 255


class Mae(NamedTuple):
    """Settings of the objective.

    Attributes:
      mean, std: with which clips were normalised; the targets undo this normalisation.
      norm_pix: whether target pixels are normalised, for each token and colour separately.
    """

    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    norm_pix: bool = True

    @property
    def has_target(self) -> bool:
        """Whether the targets come from a target encoder: no, they are pixels."""
        return False

    @property
    def exponent(self) -> float:
        """Exponent of the loss: 2."""
        return 2.0

    @property
    def levels(self) -> int:
        """Number of the encoder's layers that the decoder reads: the last one."""
        return 1

    def facts_at(self, step: jax.Array) -> dict[str, jax.Array]:
        """Settings that change with the number of steps, for the metrics: none."""
        del step
        return {}

    def targets(
        self, clips: jax.Array, ids: jax.Array, tubelet: int, patch: int
    ) -> tuple[jax.Array, jax.Array]:
        """The pixels to predict.

        Args:
          clips: float [B, T, H, W, 3], normalised.
          ids: int [B, K], of tokens.

        Returns:
          float32 [B, K, tubelet * patch * patch * 3], the colours of a pixel next to each other;
          and bool [B, K], which tokens are black.
        """
        pixels = clips.astype(jnp.float32) * jnp.asarray(self.std) + jnp.asarray(self.mean)
        pixels = take_tokens(tubelets(pixels, tubelet, patch), ids)
        black = jnp.max(pixels, axis=-1) < BLACK
        if self.norm_pix:
            by_colour = rearrange(pixels, "b k (p c) -> b k p c", c=len(self.mean))
            mean = jnp.mean(by_colour, axis=2, keepdims=True)
            spread = jnp.std(by_colour, axis=2, keepdims=True, ddof=1)
            pixels = rearrange((by_colour - mean) / (spread + PIXEL_EPS), "b k p c -> b k (p c)")
        return pixels, black

    def reconstruct(
        self, encoder: Any, decoder: Any, params: dict[str, Any], clips: jax.Array, batch: Batch
    ) -> jax.Array:
        """The predicted pixels of the masked tokens, float32, in the layout of `targets`."""
        (visible,), (masked,) = batch["context_ids"], batch["target_ids"]
        with jax.named_scope("context_encoder"):
            context = encoder.apply({"params": params["encoder"]}, clips, visible)
        with jax.named_scope("predictor"):
            (out,) = decoder.apply(
                {"params": params["predictor"]},
                context,
                [visible],
                [masked],
                encoder.grid(*clips.shape[1:4]),
            )
        return out.astype(jnp.float32)

    def embed(
        self, encoder: Any, predictor: Any, params: Any, target: Any, clips: jax.Array, batch: Batch
    ) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        """Embeddings of all tokens, and pairs of predicted and true pixels.

        For arguments and results see `VJepa2.embed`; `target` is not used.
        """
        del target
        tokens: Any = encoder.apply({"params": params["encoder"]}, clips)
        embeddings = jax.nn.standardize(tokens, axis=-1, epsilon=TARGET_NORM_EPS)
        predicted = self.reconstruct(encoder, predictor, params, clips, batch)
        (ids,) = batch["target_ids"]
        wanted, _ = self.targets(clips, ids, encoder.tubelet, encoder.patch)
        return embeddings, [(predicted, wanted)]

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
        """Sum over clips of the mean squared error; for the arguments see `VJepa2.loss`.

        Returns:
          The sum; `loss_by_mask`, the same as [1]; and two sums over clips to compare it with:
          `loss_of_zero`, the loss if all predictions were 0, and `black_share`, the share of target
          tokens that are black. Normalised pixels of black tokens are 0, which is easy to predict.
        """
        del target, step
        predicted = self.reconstruct(encoder, predictor, params, clips, batch)
        (ids,) = batch["target_ids"]
        wanted, black = self.targets(clips, ids, encoder.tubelet, encoder.patch)
        present = present_tokens(batch, ids, encoder.grid(*clips.shape[1:4]), encoder.tubelet)

        def summed(x: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(batch["valid"], token_means(x, present), 0.0))

        loss = summed(jnp.square(predicted - wanted))
        return loss, {
            "loss_by_mask": loss[None],
            "loss_of_zero": summed(jnp.square(wanted)),
            "black_share": summed(black[..., None].astype(jnp.float32)),
        }
