"""Is the representation alive? Measures of collapse that the loss cannot show (F19).

A collapsing run often has a *falling* loss: constant features are easy to predict. These numbers
come from the target encoder on one fixed batch, so that their course is comparable over the run.
"""

import math
import statistics
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from echojepa_jax.models.vit import take_tokens
from echojepa_jax.train.state import Networks, TrainState
from echojepa_jax.train.step import Batch, in_parts

# An alarm is raised when a measure falls below (or rises above) these; see README.
MIN_RANK_SHARE = 0.5
MAX_COSINE = 0.98
MAX_RELATIVE_ERROR = 1.0
# Health is judged from this share of the run on: before, nothing has been learned yet.
JUDGED_FROM = 0.1
# A fall of the loss: the median of so many lines of metrics against the band of those before them.
FALL_RECENT, FALL_BEFORE, FALL_AT_LEAST = 3, 30, 20


def effective_rank(features: jax.Array) -> jax.Array:
    """Exponential of the entropy of the normalised singular values; features: [B, D], centred."""
    values = jnp.linalg.svd(features, compute_uv=False)
    share = values / jnp.maximum(jnp.sum(values), 1e-12)
    return jnp.exp(-jnp.sum(jnp.where(share > 0, share * jnp.log(share), 0.0)))


@partial(jax.jit, static_argnames=("networks", "parts"))
def measure(
    state: TrainState, batch: Batch, networks: Networks, parts: int = 1
) -> dict[str, jax.Array]:
    """Health of a state on a batch as the input pipeline gives it.

    Args:
      parts: the clips are encoded in that many equal parts, one after the other, to save memory.

    Returns:
      token_std: standard deviation over all tokens of all clips, mean over features.
      clip_std: the same over clips, of token means: what tells clips apart.
      effective_rank: of the clips' mean features, centred; at most B - 1.
      cosine_similarity: mean over pairs of different clips, of mean features.
      relative_error: the predictor's L1 error over that of predicting the batch's mean target; 1
        means it knows nothing of the clip.
    """

    def encode(part: Batch) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        clips = networks.normalise(part["clips"])
        targets, predictions = networks.objective.embed(
            networks.encoder, networks.predictor, state.params, state.target.ema, clips, part
        )
        return targets, [
            (prediction, take_tokens(targets, ids))
            for prediction, ids in zip(predictions, part["target_ids"], strict=True)
        ]

    encoded = jax.lax.map(encode, in_parts(batch, parts))
    targets, predicted = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), encoded)
    means = jnp.mean(targets, axis=1)
    count = len(means)
    unit = means / jnp.maximum(jnp.linalg.norm(means, axis=-1, keepdims=True), 1e-12)
    pairs = jnp.sum(unit @ unit.T) - jnp.sum(unit * unit)

    errors, trivial = jnp.zeros([]), jnp.zeros([])
    for prediction, wanted in predicted:
        errors += jnp.mean(jnp.abs(prediction - wanted))
        trivial += jnp.mean(jnp.abs(jnp.mean(wanted, axis=(0, 1)) - wanted))
    return {
        "token_std": jnp.mean(jnp.std(targets, axis=(0, 1))),
        "clip_std": jnp.mean(jnp.std(means, axis=0)),
        "effective_rank": effective_rank(means - jnp.mean(means, axis=0)),
        "cosine_similarity": pairs / max(1, count * (count - 1)),
        "relative_error": errors / jnp.maximum(trivial, 1e-12),
    }


class Fall(NamedTuple):
    """Of the loss: its median now, and the band that it was in before, from low to high."""

    now: float
    low: float
    high: float


def falls(seen: list[float], loss: float, judged: bool) -> Fall | None:
    """Whether the loss has just fallen out of its band: a partial collapse often begins so.

    The band holds eight in ten of the lines before the latest ones, without the lowest and the
    highest tenth; it is left where their median is below it by its height. Each fall is found once.

    Args:
      seen: the lines before, which this function keeps: begin with an empty list.
      loss: of the latest line of metrics.
      judged: otherwise it is only kept.
    """
    if math.isfinite(loss):
        seen.append(loss)
    del seen[: -FALL_BEFORE - FALL_RECENT]
    before, latest = seen[:-FALL_RECENT], seen[-FALL_RECENT:]
    if not judged or len(before) < FALL_AT_LEAST:
        return None
    tenths = statistics.quantiles(before, n=10)
    found = Fall(statistics.median(latest), tenths[0], tenths[-1])
    if found.now >= found.low - (found.high - found.low):
        return None
    del seen[:-FALL_RECENT]
    return found


def alarms(now: dict[str, float], best_rank: float, started: bool) -> list[str]:
    """Sentences about measures that look like collapse.

    Args:
      now: what `measure` returned, as numbers.
      best_rank: the largest effective rank seen in this run so far.
      started: whether the predictor has had time to learn something.
    """
    found: list[tuple[bool, Any]] = [
        (
            now["effective_rank"] < MIN_RANK_SHARE * best_rank,
            f"effective rank {now['effective_rank']:.1f} is less than half of its best, "
            f"{best_rank:.1f}",
        ),
        (
            started and now["cosine_similarity"] > MAX_COSINE,
            f"different clips look alike: cosine similarity {now['cosine_similarity']:.3f}",
        ),
        (
            started and now["relative_error"] > MAX_RELATIVE_ERROR,
            f"the predictor is no better than the mean target: {now['relative_error']:.2f}",
        ),
    ]
    return [text for wrong, text in found if wrong]
