"""A grid of heads, one for each learning rate and weight decay, trained side by side (`vmap`).

All heads start with the same values and get the same tokens in the same order: one encoder pass is
enough, and each head becomes equal to one that is trained separately. All functions are pure.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from echojepa_jax.models.heads import Head, class_loss, regression_loss
from echojepa_jax.train.schedules import cosine
from echojepa_jax.train.step import in_parts

Tree = Any
ADAM = optax.scale_by_adam(0.9, 0.999, eps=1e-8)
_NO_WEIGHT = 1e-12  # less than the weight of any example; a batch of padding has a loss of 0


@dataclasses.dataclass(frozen=True)
class Cell:
    """One head of the grid."""

    learning_rate: float
    weight_decay: float

    @property
    def name(self) -> str:
        return f"lr{self.learning_rate:g}_wd{self.weight_decay:g}"


def cells(learning_rates: Sequence[float], weight_decays: Sequence[float]) -> list[Cell]:
    """The grid, row by row."""
    return [Cell(*pair) for pair in itertools.product(learning_rates, weight_decays)]


# Compiled, because its operations one by one take longer than all of a short training.
@partial(jax.jit, static_argnames=("head", "width", "count"))
def init_grid(head: Head, key: jax.Array, width: int, count: int) -> Tree:
    """{"params", "adam"} of `count` equal heads, stacked on the first axis of every array."""
    slots = head.views * head.clips
    params = head.init(key, jnp.zeros((1, slots, 1, width)), jnp.ones((1, slots), bool))["params"]
    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), params)
    return {"params": stacked, "adam": jax.vmap(ADAM.init)(stacked)}


def rates(grid: Sequence[Cell], update: int, updates: int) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and weight decay of every head at an update, counted from 1: float32 [G]."""
    share = cosine(1.0, 0.0, updates)(update)
    return (
        np.array([cell.learning_rate * share for cell in grid], np.float32),
        np.array([cell.weight_decay for cell in grid], np.float32),
    )


def example_losses(
    outputs: jax.Array, labels: jax.Array, kind: str, gamma: float = 0.0
) -> jax.Array:
    """The loss of every example: outputs [B, o], labels [B] -> [B]; gamma: see `class_loss`."""
    if kind == "regression":
        return regression_loss(outputs, labels)
    return class_loss(outputs, labels, gamma)


def loss_fn(
    params: Tree, tokens: jax.Array, batch: Tree, head: Head, kind: str, gamma: float = 0.0
) -> jax.Array:
    """Weighted mean loss of one head over the examples of a batch.

    Args:
      tokens: [B, S, N, D].
      batch: `present` bool [B, S]; `labels` [B]; `weight` float [B], such as that of the class, and
        0 for the padding of a batch.
    """
    outputs: Any = head.apply({"params": params}, tokens, batch["present"])
    losses = example_losses(outputs, batch["labels"], kind, gamma)
    return jnp.sum(losses * batch["weight"]) / jnp.maximum(jnp.sum(batch["weight"]), _NO_WEIGHT)


def adamw(
    params: Tree, grads: Tree, adam: Tree, learning_rates: Tree, weight_decays: Tree
) -> tuple[Tree, Tree]:
    """One AdamW step, with a rate and a decay (numbers or arrays) for every leaf of `params`.

    Returns:
      The parameters and Adam's state after the step.
    """
    updates, adam = ADAM.update(grads, adam)
    params = jax.tree.map(
        lambda p, u, rate, decay: p - rate * (u + decay * p),
        params,
        updates,
        learning_rates,
        weight_decays,
    )
    return params, adam


def everywhere(value: Any, tree: Tree) -> Tree:
    """A tree like `tree` with one value at every leaf."""
    return jax.tree.map(lambda _: value, tree)


def _loss_and_grads(
    params: Tree, tokens: jax.Array, batch: Tree, head: Head, kind: str, parts: int, gamma: float
) -> tuple[jax.Array, Tree]:
    """Value and gradients of `loss_fn`, with one part of the batch in memory at a time."""
    if parts == 1:
        return jax.value_and_grad(loss_fn)(params, tokens, batch, head, kind, gamma)
    cut = in_parts({"tokens": tokens, **batch}, parts)

    def add(total: Any, part: Tree) -> tuple[Any, None]:
        share = jnp.sum(part["weight"])
        found = jax.value_and_grad(loss_fn)(params, part.pop("tokens"), part, head, kind, gamma)
        return jax.tree.map(lambda sum_, x: sum_ + share * x, total, found), None

    zeros = (jnp.zeros([]), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zeros, cut)
    weight = jnp.maximum(jnp.sum(batch["weight"]), _NO_WEIGHT)
    return jax.tree.map(lambda x: x / weight, total)


@partial(jax.jit, static_argnames=("head", "kind", "parts", "gamma"), donate_argnums=0)
def grid_step(
    heads: Tree,
    tokens: jax.Array,
    batch: Tree,
    learning_rate: jax.Array,
    weight_decay: jax.Array,
    head: Head,
    kind: str,
    parts: int = 1,
    gamma: float = 0.0,
) -> tuple[Tree, jax.Array]:
    """One update of every head on the same tokens [B, S, N, D].

    Args:
      parts: gradients are summed over that many equal parts of the batch, to save memory.
      gamma: of the focal loss, see `class_loss`.

    Returns:
      The heads after the update, and the loss of every head before it: float32 [G].
    """

    def one(params: Tree, adam: Tree, rate: jax.Array, decay: jax.Array) -> tuple[Tree, Any]:
        loss, grads = _loss_and_grads(params, tokens, batch, head, kind, parts, gamma)
        # All parameters decay, as in the original's probes.
        params, adam = adamw(
            params, grads, adam, everywhere(rate, params), everywhere(decay, params)
        )
        return {"params": params, "adam": adam}, loss

    return jax.vmap(one)(heads["params"], heads["adam"], learning_rate, weight_decay)


def several(stacked: Tree, good: np.ndarray) -> Tree:
    """Those of stacked heads that are good, bool [G]; None if there are not two to be compared."""
    return jax.tree.map(lambda x: x[good], stacked) if np.count_nonzero(good) > 1 else None


def grid_outputs(head: Head, params: Tree, tokens: jax.Array, present: jax.Array) -> jax.Array:
    """Outputs of every head: float32 [B, G, o]."""

    def of_one(params: Tree) -> Any:
        return head.apply({"params": params}, tokens, present)

    return jax.vmap(of_one, out_axes=1)(params)


def slot_outputs(head: Head, params: Tree, tokens: jax.Array) -> jax.Array:
    """Outputs of one head (not stacked) for each slot separately: float32 [B, S, o]."""
    slots = tokens.shape[1]

    def of_slot(slot: jax.Array) -> Any:
        present = jnp.broadcast_to(jnp.arange(slots) == slot, (len(tokens), slots))
        return head.apply({"params": params}, tokens, present)

    return jnp.moveaxis(jax.lax.map(of_slot, jnp.arange(slots)), 0, 1)
