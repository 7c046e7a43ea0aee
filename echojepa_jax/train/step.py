"""One training step, as plain mathematics (method, section 1).

Everything here is pure. jit, donation and shardings are wrapped around it from outside. The parts
have names, by which the account of a compiled step (costs/account.py) tells them apart.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from echojepa_jax.models.vit import take_tokens
from echojepa_jax.train.state import Networks, Optimizer, TrainState

Batch = dict[str, Any]

TARGET_NORM_EPS = 1e-5


def target_embeddings(encoder: Any, target: Any, clips: jax.Array) -> jax.Array:
    """The target encoder's output, layer-normalised without parameters, as float32 [B, N, D]."""
    with jax.named_scope("target_encoder"):
        tokens: Any = encoder.apply({"params": target}, clips)
        return jax.nn.standardize(tokens, axis=-1, epsilon=TARGET_NORM_EPS)


def predict(
    networks: Networks,
    params: dict[str, Any],
    clips: jax.Array,
    context_ids: Sequence[jax.Array],
    target_ids: Sequence[jax.Array],
) -> list[jax.Array]:
    """Context encoder, then predictor, for M mask specifications at once.

    Args:
      clips: float [B, T, H, W, 3], normalised.
      context_ids, target_ids: M times int [B, K].

    Returns:
      M times float32 [B, Kt, D], the embeddings at `target_ids`.
    """
    encoder, predictor = networks.encoder, networks.predictor
    # Laid end to end, the contexts share the matrix products and the gathering of parameters.
    ids, lengths = jnp.concatenate(context_ids, axis=1), [x.shape[1] for x in context_ids]
    with jax.named_scope("context_encoder"):
        context = encoder.apply({"params": params["encoder"]}, clips, ids, lengths)
    grid = encoder.grid(*clips.shape[1:4])
    with jax.named_scope("predictor"):
        out: Any = predictor.apply(
            {"params": params["predictor"]}, context, context_ids, target_ids, grid
        )
    return [prediction.astype(jnp.float32) for prediction in out]


def clip_losses(prediction: jax.Array, target: jax.Array, exponent: float) -> jax.Array:
    """Mean of |prediction - target|^p / p over tokens and features: [B, Kt, D] twice -> [B]."""
    return jnp.mean(jnp.abs(prediction - target) ** exponent, axis=(1, 2)) / exponent


def loss_fn(
    params: dict[str, Any],
    target: Any,
    networks: Networks,
    clips: jax.Array,
    batch: Batch,
    exponent: float,
) -> tuple[jax.Array, jax.Array]:
    """Sum over clips of the loss, per clip the mean over mask specifications.

    Args:
      clips: float [B, T, H, W, 3], normalised.
      batch: `context_ids`, `target_ids`: one int [B, K] per mask specification; `valid`: bool [B],
        False for a clip whose file failed, which then counts for nothing.

    Returns:
      The sum, and the same for each mask specification: float32 [M].
    """
    # The targets are constants: no gradient flows into them, and nothing is stored for one.
    targets = target_embeddings(networks.encoder, jax.lax.stop_gradient(target), clips)
    predictions = predict(networks, params, clips, batch["context_ids"], batch["target_ids"])
    sums = []
    for prediction, target_ids in zip(predictions, batch["target_ids"], strict=True):
        losses = clip_losses(prediction, take_tokens(targets, target_ids), exponent)
        sums.append(jnp.sum(jnp.where(batch["valid"], losses, 0.0)))
    by_mask = jnp.stack(sums)
    return jnp.mean(by_mask), by_mask


def in_parts(batch: Batch, parts: int) -> Batch:
    """[B, ...] -> [parts, B / parts, ...] for every array; every device keeps its own clips."""
    return jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1),
        batch,
    )


def update(
    state: TrainState,
    batch: Batch,
    *,
    networks: Networks,
    optimizer: Optimizer,
    exponent: float = 1.0,
    microbatches: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One AdamW step on encoder and predictor, then one EMA step of the target encoder.

    Args:
      batch: `clips` float [B, T, H, W, 3], normalised; for the rest see `loss_fn`. `stop`, if
        there: bool [B], whether the host that a clip comes from is asked to stop. The metric of the
        same name says whether any host is, which is how all of them stop after the same step.
      exponent: p of the loss, 1 in the recipe.
      microbatches: gradients are accumulated over that many equal parts of the batch.

    Returns:
      The next state, and metrics. If the loss or the gradient is not finite, nothing but
      `state.step` moves, and `skipped` is 1 (F20).
    """
    clips_seen = jnp.maximum(jnp.sum(batch["valid"]), 1)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def accumulate(total: Any, part: Batch) -> tuple[Any, None]:
        (loss, by_mask), grads = grad_fn(
            state.params, state.target.ema, networks, part["clips"], part, exponent
        )
        return jax.tree.map(jnp.add, total, (loss, by_mask, grads)), None

    if microbatches == 1:
        (loss, by_mask), grads = grad_fn(
            state.params, state.target.ema, networks, batch["clips"], batch, exponent
        )
    else:
        zeros = (jnp.zeros([]), jnp.zeros([len(batch["context_ids"])]))
        start = (*zeros, jax.tree.map(jnp.zeros_like, state.params))
        (loss, by_mask, grads), _ = jax.lax.scan(accumulate, start, in_parts(batch, microbatches))
    loss, by_mask, grads = jax.tree.map(lambda x: x / clips_seen, (loss, by_mask, grads))

    with jax.named_scope("optimizer"):
        grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def moved(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

        updates, opt_state = optimizer.adamw.update(grads, state.opt_state, state.params)
        # Chosen before the average sees them: so that one pass over the state does all of it.
        params = moved(optax.apply_updates(state.params, updates), state.params)
        opt_state = moved(opt_state, state.opt_state)
        target = moved(optimizer.ema.update(params["encoder"], state.target)[1], state.target)
    metrics = {
        "loss": loss,
        "loss_by_mask": by_mask,
        "grad_norm": grad_norm,
        "skipped": 1 - finite.astype(jnp.int32),
        "updates": target.count,
    }
    if "stop" in batch:
        metrics["stop"] = jnp.any(batch["stop"])
    return TrainState(state.step + 1, params, opt_state, target), metrics


def train_step(
    state: TrainState, batch: Batch, *, networks: Networks, **settings: Any
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`update` on a batch as the input pipeline gives it: `clips` are uint8 pixels."""
    clips = networks.normalise(batch["clips"])
    return update(state, batch | {"clips": clips}, networks=networks, **settings)
