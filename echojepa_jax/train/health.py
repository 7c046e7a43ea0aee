"""Is the representation alive? Measures of collapse that the loss cannot show (F19).

A collapsing run often has a *falling* loss: constant features are easy to predict. These numbers
come from the encoder that is used in the end (the target encoder, if there is one) on one fixed
batch, so that their course is comparable over the run.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from functools import partial

import jax
import jax.numpy as jnp

from echojepa_jax.train.state import Networks, TrainState
from echojepa_jax.train.step import Batch, in_parts

# An alarm is raised when a measure falls below (or rises above) these limits.
MIN_RANK_SHARE = 0.5
MAX_COSINE = 0.98
MAX_RELATIVE_ERROR = 1.0
# The share of the run after which health is judged.
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
      relative_error: the predictor's error over that of predicting the batch's mean target, both
        as the loss has them; 1 means it knows nothing of the clip.
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


class Judge:
    """Judges the health of a run from the lines of its metrics, one after the other.

    The log and the report both use it, so they raise the same alarms. Nothing is judged during the
    first tenth of a run: before, nothing has been learned yet.

    last_step: of the whole run.
    """

    def __init__(self, last_step: int) -> None:
        self.judged_after = JUDGED_FROM * last_step
        self._best_rank = 0.0
        self._losses: list[float] = []

    def line(self, line: Mapping[str, float | None]) -> dict[str, str]:
        """Judges a line of metrics.jsonl.

        Args:
          line: "step", and any of "loss" and "health/NAME" for the names that `measure` returns. A
            value that was not finite, None in the file, raises no alarm.

        Returns:
          A sentence for every metric of the line that is alarming, by its name.
        """
        now = {name: value for name, value in line.items() if value is not None}
        judged = now["step"] > self.judged_after
        fall = self._fall(now["loss"], judged) if "loss" in now else ""
        found = {"loss": fall} if fall else {}
        if not judged:
            return found
        rank = now.get("health/effective_rank", math.nan)
        if rank < MIN_RANK_SHARE * self._best_rank:
            found["health/effective_rank"] = (
                f"effective rank {rank:.1f} is less than half of its best, {self._best_rank:.1f}"
            )
        self._best_rank = max(self._best_rank, rank)
        if (cosine := now.get("health/cosine_similarity", math.nan)) > MAX_COSINE:
            found["health/cosine_similarity"] = (
                f"different clips look alike: cosine similarity {cosine:.3f} is above {MAX_COSINE}"
            )
        if (error := now.get("health/relative_error", math.nan)) > MAX_RELATIVE_ERROR:
            found["health/relative_error"] = (
                f"the predictor is no better than the mean target: relative error {error:.2f}"
            )
        return found

    def _fall(self, loss: float, judged: bool) -> str:
        """A sentence if the loss has just fallen out of its band: a partial collapse often does so.

        The band holds eight in ten of the lines before the latest ones, without the lowest and the
        highest tenth. The loss has left it when the median of the latest lines lies below the band
        by more than the height of the band. Each fall is found once.
        """
        seen = self._losses
        if math.isfinite(loss):
            seen.append(loss)
        del seen[: -FALL_BEFORE - FALL_RECENT]
        before, latest = seen[:-FALL_RECENT], seen[-FALL_RECENT:]
        if not judged or len(before) < FALL_AT_LEAST:
            return ""
        tenths = statistics.quantiles(before, n=10)
        now, low, high = statistics.median(latest), tenths[0], tenths[-1]
        if now >= low - (high - low):
            return ""
        del seen[:-FALL_RECENT]
        return f"the loss fell suddenly to {now:.3g}; it was between {low:.3g} and {high:.3g}"


def standing_alarms(lines: Iterable[Mapping[str, float | None]], last_step: int) -> list[str]:
    """Sentences on measures whose latest value is alarming, and on every sudden fall of the loss.

    Args:
      lines: of metrics.jsonl, in the order of steps.
      last_step: of the whole run.
    """
    judge, standing, falls = Judge(last_step), dict[str, str](), []
    for line in lines:
        found = judge.line(line)
        if "loss" in found:
            falls.append(f"{found.pop('loss')} (step {line['step']:,})")
        for name, value in line.items():
            if value is not None:
                standing.pop(name, None)
        standing |= found
    return [*standing.values(), *falls]
