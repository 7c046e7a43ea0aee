"""Health: measures of collapse that the loss does not show (F19).

The loss of a collapsing run often *falls*: constant features are easy to predict. The measures are
taken from the encoder that is exported (the target encoder, if there is one) on one fixed batch, so
that they are comparable over the run. train/alarms.py judges them.
"""

from functools import partial

import jax
import jax.numpy as jnp

from echojepa_jax.train.evaluators import Evaluator, Moment
from echojepa_jax.train.state import Networks, TrainState
from echojepa_jax.train.step import Batch, in_parts

CLIPS = 64


def clips_for(devices: int) -> int:
    """About CLIPS clips: a number that the devices divide."""
    return devices * max(1, CLIPS // devices)


def evaluator(every: int, batch: Batch, devices: int) -> Evaluator:
    """Measures the health on a fixed batch at the start, every `every` steps, and at the end.

    Args:
      batch: on the devices, `clips_for(devices)` clips as the input pipeline yields them.
    """
    # One clip per device at a time: ViT-g would need 70 GB for the attention scores of 64.
    parts = len(batch["clips"]) // devices

    def values(moment: Moment) -> dict[str, float]:
        found = measure(moment.state, batch, networks=moment.networks, parts=parts)
        return {f"health/{name}": float(value) for name, value in found.items()}

    return Evaluator("health", every, at_start=True, measure=values)


def effective_rank(features: jax.Array) -> jax.Array:
    """Exponential of the entropy of the normalised singular values; features: [B, D], centred."""
    values = jnp.linalg.svd(features, compute_uv=False)
    share = values / jnp.maximum(jnp.sum(values), 1e-12)
    return jnp.exp(-jnp.sum(jnp.where(share > 0, share * jnp.log(share), 0.0)))


@partial(jax.jit, static_argnames=("networks", "parts"))
def measure(
    state: TrainState, batch: Batch, networks: Networks, parts: int = 1
) -> dict[str, jax.Array]:
    """Health of a state on a batch as the input pipeline yields it.

    Args:
      parts: the clips are encoded in that many equal parts, one after the other, to save memory.

    Returns:
      token_std: standard deviation over all tokens of all clips, averaged over features.
      clip_std: standard deviation of the clips' mean features, averaged over features: how much
        clips differ.
      effective_rank: of the clips' mean features, centred; at most B - 1.
      cosine_similarity: of the mean features of two different clips, averaged over all pairs.
      relative_error: the predictor's error divided by that of predicting the batch's mean target,
        both computed as in the loss; 1 means that the prediction does not depend on the clip.
    """

    def encode(part: Batch) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        clips = networks.normalise(part["clips"])
        return networks.objective.embed(
            networks.encoder, networks.predictor, state.params, state.target.ema, clips, part
        )

    encoded = jax.lax.map(encode, in_parts(batch, parts))
    tokens, predicted = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), encoded)
    means = jnp.mean(tokens, axis=1)
    count = len(means)
    unit = means / jnp.maximum(jnp.linalg.norm(means, axis=-1, keepdims=True), 1e-12)
    pairs = jnp.sum(unit @ unit.T) - jnp.sum(unit * unit)

    errors, trivial = jnp.zeros([]), jnp.zeros([])
    for prediction, wanted in predicted:
        power = networks.objective.exponent
        errors += jnp.mean(jnp.abs(prediction - wanted) ** power)
        trivial += jnp.mean(jnp.abs(jnp.mean(wanted, axis=(0, 1)) - wanted) ** power)
    return {
        "token_std": jnp.mean(jnp.std(tokens, axis=(0, 1))),
        "clip_std": jnp.mean(jnp.std(means, axis=0)),
        "effective_rank": effective_rank(means - jnp.mean(means, axis=0)),
        "cosine_similarity": pairs / max(1, count * (count - 1)),
        "relative_error": errors / jnp.maximum(trivial, 1e-12),
    }
