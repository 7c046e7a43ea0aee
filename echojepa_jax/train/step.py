"""One training step, as plain mathematics (V-JEPA 2: Assran et al. 2025, section 2.1).

Everything here is pure. jit, donation and shardings are wrapped around it from outside. The parts
have named scopes, here and in the objectives, from which costs/account.py attributes the operations
of a compiled step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from echojepa_jax.train.objectives.vjepa2 import Batch
from echojepa_jax.train.state import Networks, Optimizer, TrainState


def in_parts(batch: Batch, parts: int) -> Batch:
    """Splits every array [B, ...] -> [parts, B / parts, ...]; clips stay on their devices."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), batch)


def update(
    state: TrainState,
    batch: Batch,
    *,
    networks: Networks,
    optimizer: Optimizer,
    microbatches: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One AdamW step on encoder and predictor, then one EMA step of the target encoder.

    Args:
      batch: `clips` float [B, T, H, W, 3], normalised; for the rest see the objective's `loss`.
        `images`, if the networks have an objective for them: the same entries for images
        [Bi, 1, H, W, 3].
        `stop`, optional: bool [B], True for the clips of a host that was asked to stop. The metric
        of the same name is True if any host was, so that all hosts stop after the same step.
      microbatches: number of equal parts of the batch over which gradients are accumulated.

    Returns:
      The next state, and metrics. If the loss or the gradient is not finite, only `state.step`
      changes, and `skipped` is 1 (F20).
    """
    loss, others, grads = gradients(state, batch, networks=networks, microbatches=microbatches)
    after, facts = move(state, loss, grads, optimizer=optimizer)
    metrics = {"loss": loss, **others, **networks.objective.facts_at(state.step), **facts}
    if "stop" in batch:
        metrics["stop"] = jnp.any(batch["stop"])
    return after, metrics


def gradients(
    state: TrainState, batch: Batch, *, networks: Networks, microbatches: int = 1
) -> tuple[jax.Array, dict[str, jax.Array], Any]:
    """The loss of a batch, the objective's other sums, and gradients: all as means over clips.

    For the arguments see `update`.
    """
    clips_seen = jnp.maximum(jnp.sum(batch["valid"]), 1)

    def losses(params: Any, part: Batch) -> Any:
        """(loss, other sums), all of them sums over clips."""

        def of(objective: Any, clips: Batch) -> Any:
            both = networks.encoder, networks.predictor
            target = state.target.ema
            return objective.loss(params, *both, target, clips["clips"], clips, state.step)

        loss, others = of(networks.objective, part)
        if networks.images is None:
            return loss, others
        # All sums are divided by the number of videos at the end. This factor makes the images'
        # share of the result a mean over images.
        images_seen = jnp.maximum(jnp.sum(batch["images"]["valid"]), 1)
        image_loss, of_images = jax.tree.map(
            lambda x: x * (clips_seen / images_seen), of(networks.images, part["images"])
        )
        share = networks.image_share
        others |= {
            "loss/images": jnp.mean(of_images["loss_by_mask"]),
            "loss_context/images": of_images["loss_context"],
        }
        return (1 - share) * loss + share * image_loss, others

    def of_part(part: Batch) -> Any:
        """(losses, gradients)."""
        return jax.value_and_grad(losses, has_aux=True)(state.params, part)

    def add(total: Any, part: Batch) -> Any:
        sums, grads = of_part(part)
        return jax.tree.map(jnp.add, total, grads), sums

    if microbatches == 1:
        sums, grads = of_part(batch)
    else:
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        grads, sums = jax.lax.scan(add, zeros, in_parts(batch, microbatches))
        sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)
    (loss, others), grads = jax.tree.map(lambda x: x / clips_seen, (sums, grads))
    return loss, others, grads


def move(
    state: TrainState, loss: jax.Array, grads: Any, *, optimizer: Optimizer
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The next state, and what happened: `grad_norm`, `skipped`, `updates`; see `update`."""
    with jax.named_scope("optimizer"):
        grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def moved(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

        updates, opt_state = optimizer.adamw.update(grads, state.opt_state, state.params)
        # Selected before the moving average is updated: one pass over the state then does it all.
        params = moved(optax.apply_updates(state.params, updates), state.params)
        opt_state = moved(opt_state, state.opt_state)
        target = moved(optimizer.ema.update(params["encoder"], state.target)[1], state.target)
    facts = {
        "grad_norm": grad_norm,
        "skipped": 1 - finite.astype(jnp.int32),
        "updates": target.count,
    }
    return TrainState(state.step + 1, params, opt_state, target), facts


def train_step(
    state: TrainState, batch: Batch, *, networks: Networks, **settings: Any
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`update` on a batch as the input pipeline yields it: `clips` are uint8 pixels."""

    def normalised(part: Batch) -> Batch:
        return part | {"clips": networks.normalise(part["clips"])}

    batch = normalised(batch)
    if "images" in batch:
        batch["images"] = normalised(batch["images"])
    return update(state, batch, networks=networks, **settings)
