"""A linear head on the tokens of a frame, whose scores are upsampled to the pixels of the clip.

A token has one score for each class; bilinear interpolation between the centres of tokens gives
those of a pixel, and the loss is the mean cross-entropy over pixels. All weights start at 0, so a
seed gives only the order of the examples. A grid of heads is trained side by side, as everywhere.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from ml_collections import ConfigDict

from echojepa_jax.evaluation.fit import Scaled, scaling
from echojepa_jax.evaluation.masks import dice
from echojepa_jax.probes import grid as grids
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.rng import generator

Tree = Any


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames with their masks, read from disk when they are asked for.

    tokens: [n, P, D], of square grids of P tokens. labels: [n, size, size], of what it was traced.
    classes: the class of each label, int [labels]; 0 = background.
    """

    tokens: Any
    labels: Any
    classes: np.ndarray

    def masks(self, rows: np.ndarray) -> np.ndarray:
        """Classes of all pixels: uint8 [len(rows), size, size]."""
        return self.classes[self.labels[rows].astype(np.intp)].astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class FittedMasks:
    """The head that did best on validation; `chosen` as of `fit.Fitted`."""

    params: Tree
    frames: Frames
    chosen: dict[str, Any]


def scores(params: Tree, tokens: jax.Array, size: int) -> jax.Array:
    """Scores of all classes for all pixels: tokens [B, P, D] -> float32 [B, size, size, K]."""
    of_tokens = tokens @ params["kernel"] + params["bias"]
    side = math.isqrt(tokens.shape[1])
    by_place = rearrange(of_tokens, "b (h w) k -> b h w k", h=side)
    shape = (len(tokens), size, size, by_place.shape[-1])
    return jax.image.resize(by_place, shape, "bilinear")


def loss_fn(params: Tree, tokens: jax.Array, masks: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean cross-entropy over the pixels of frames: masks int [B, size, size], weight [B]."""
    logs = jax.nn.log_softmax(scores(params, tokens, masks.shape[1]))
    losses = -jnp.take_along_axis(logs, masks[..., None], axis=-1).mean(axis=(1, 2, 3))
    return jnp.sum(losses * weight) / jnp.maximum(jnp.sum(weight), 1.0)


@partial(jax.jit, donate_argnums=0)
def _step(
    heads: Tree, tokens: jax.Array, masks: jax.Array, weight: jax.Array, rates: Any, decays: Any
) -> Tree:
    def one(params: Tree, adam: Tree, rate: jax.Array, decay: jax.Array) -> Tree:
        grads = jax.grad(loss_fn)(params, tokens, masks, weight)
        values = grids.everywhere(rate, params), grids.everywhere(decay, params)
        params, adam = grids.adamw(params, grads, adam, *values)
        return {"params": params, "adam": adam}

    return jax.vmap(one)(heads["params"], heads["adam"], rates, decays)


@partial(jax.jit, static_argnames="size")
def _classes(stacked: Tree, tokens: jax.Array, size: int) -> jax.Array:
    """The best class of every pixel, by every head: int32 [G, B, size, size]."""
    return jax.vmap(lambda params: scores(params, tokens, size).argmax(-1))(stacked)


def fit(
    frames: Frames,
    train: np.ndarray,
    val: np.ndarray,
    probe: ConfigDict,
    seed: int,
) -> FittedMasks:
    """Trains a grid of heads and keeps the one with the best mean Dice on validation.

    Args:
      train, val: rows of frames that can be read, int [n]. probe: the section of a suite's config.

    Raises:
      UserError: no head gave finite numbers.
    """
    if probe.standardise:
        frames = dataclasses.replace(
            frames, tokens=Scaled(frames.tokens, *scaling(frames.tokens, train))
        )
    count = int(frames.classes.max()) + 1
    cells = grids.cells(probe.learning_rates, probe.weight_decays)
    zeros = {"kernel": jnp.zeros((frames.tokens.shape[-1], count)), "bias": jnp.zeros(count)}
    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(cells), *x.shape)), zeros)
    heads = {"params": stacked, "adam": jax.vmap(grids.ADAM.init)(stacked)}
    steps = -(-len(train) // probe.batch)
    updates = steps * probe.epochs
    best, kept = -1.0, None
    batches = _batches(frames, train, probe.batch, seed)
    for update in range(1, updates + 1):
        heads = _step(heads, *next(batches), *grids.rates(cells, update, updates))
        if update % steps == 0:
            found = _mean_dice(frames, heads["params"], val, probe.batch)
            row = int(found.argmax())
            if found[row] > best:
                best = float(found[row])
                params = jax.device_get(jax.tree.map(lambda x, row=row: x[row], heads["params"]))
                chosen = {"head": cells[row].name, "update": update, "updates": updates}
                kept = FittedMasks(params, frames, chosen | {"val": best})
    if kept is None:
        raise UserError("no head gave finite scores of pixels: lower probe.learning_rates")
    return kept


def _batches(
    frames: Frames, rows: np.ndarray, size: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(tokens, masks, weight) without an end: every frame once in each pass."""
    epoch = 0
    while True:
        order = rows[generator(seed, "mask epoch", epoch).permutation(len(rows))]
        for start in range(0, len(order), size):
            yield _batch(frames, order[start : start + size], size)
        epoch += 1


def _batch(
    frames: Frames, rows: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, filled up to `size` with copies of weight 0, so that there is one program."""
    weight = (np.arange(size) < len(rows)).astype(np.float32)
    full = np.resize(rows, size)
    return frames.tokens[full], frames.masks(full).astype(np.int32), weight


def _mean_dice(frames: Frames, stacked: Tree, rows: np.ndarray, size: int) -> np.ndarray:
    """Mean Dice of every head over frames and the structures that they show: float64 [G]."""
    values: list[list[float]] = []
    for part, found in _predicted(frames, stacked, rows, size):
        for i, true in enumerate(frames.masks(part)):
            for k in range(1, int(frames.classes.max()) + 1):
                if (true == k).any():
                    values.append([dice(true == k, mask[i] == k) for mask in found])
    finite = [np.isfinite(x).all(axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(stacked)]
    return np.where(np.all(finite, axis=0), np.mean(values, axis=0), -np.inf)


def _predicted(
    frames: Frames, stacked: Tree, rows: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Parts of the rows, and what each head finds there: uint8 [G, len(part), side, side]."""
    side = frames.labels.shape[1]
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        found = _classes(stacked, frames.tokens[np.resize(part, size)], side)
        yield part, np.asarray(found)[:, : len(part)].astype(np.uint8)


def predict(fitted: FittedMasks, rows: np.ndarray, size: int) -> np.ndarray:
    """The class of every pixel of frames: uint8 [len(rows), side, side]."""
    stacked = jax.tree.map(lambda x: x[None], fitted.params)
    return np.concatenate([found[0] for _, found in _predicted(fitted.frames, stacked, rows, size)])


def commonest(frames: Frames, rows: Sequence[int]) -> np.ndarray:
    """The commonest class of every pixel in some frames, int [side, side]: the mean mask."""
    count = int(frames.classes.max()) + 1
    votes = np.zeros((*frames.labels.shape[1:], count), int)
    for row in rows:
        votes += frames.masks(np.array([row]))[0][..., None] == np.arange(count)
    return votes.argmax(axis=-1)
