"""A linear head on the tokens of a frame, whose scores are upsampled to the pixels of the clip.

A token has one score for each class; bilinear interpolation between the centres of tokens gives
those of a pixel. The loss is the cross-entropy of pixels, most of which are background, plus what
the Dice of each structure lacks. A grid of heads is trained side by side, as everywhere.

The bias is the same for all tokens, or each place has its own. Tokens need not tell where they are
(rotary positions are relative), and where many look alike, the commonest class is the best answer.
With its own bias for each place, a head that ignores the tokens is the mean mask. All heads start
there: weights are 0, biases are the logs of frequencies in training. So a seed gives only the order
of the examples.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from ml_collections import ConfigDict

from echojepa_jax.evaluation.fit import Scaled, scaling
from echojepa_jax.evaluation.masks import dice
from echojepa_jax.probes import grid as grids
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.rng import generator

Tree = Any
_RARE = 0.01  # added to frequencies, whose logs must be finite
_FITTED, _STEPS = 32, 50  # frames at a time, and steps, of `at_tokens`


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
    return upsampled(tokens @ params["kernel"] + params["bias"], size)


def upsampled(values: jax.Array, size: int) -> jax.Array:
    """Values of tokens between their centres: [B, P, K] -> [B, size, size, K]."""
    by_place = rearrange(values, "b (h w) k -> b h w k", h=math.isqrt(values.shape[1]))
    return jax.image.resize(by_place, (len(values), size, size, values.shape[-1]), "bilinear")


def loss_fn(params: Tree, tokens: jax.Array, masks: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean over frames of cross-entropy and 1 - Dice: masks int [B, size, size], weight [B].

    Dice is of probabilities; its mean is over the structures that a frame shows.
    """
    logs = jax.nn.log_softmax(scores(params, tokens, masks.shape[1]))
    true, found = jax.nn.one_hot(masks, logs.shape[-1]), jnp.exp(logs)
    crossed = -(true * logs).sum(axis=-1).mean(axis=(1, 2))
    areas = true.sum(axis=(1, 2))[:, 1:]
    common = (true * found).sum(axis=(1, 2))[:, 1:]
    missed = 1 - 2 * common / (areas + found.sum(axis=(1, 2))[:, 1:])
    there = areas > 0
    losses = crossed + (missed * there).sum(axis=1) / jnp.maximum(there.sum(axis=1), 1)
    return jnp.sum(losses * weight) / jnp.maximum(jnp.sum(weight), 1.0)


@partial(jax.jit, donate_argnums=0)
def _step(
    heads: Tree, tokens: jax.Array, masks: jax.Array, weight: jax.Array, rates: Any, decays: Any
) -> Tree:
    def one(params: Tree, adam: Tree, rate: jax.Array, decay: jax.Array) -> Tree:
        grads = jax.grad(loss_fn)(params, tokens, masks, weight)
        # Without tokens, the best head is the mean mask: the bias does not decay.
        decays = {"kernel": decay, "bias": 0.0}
        rates = grids.everywhere(rate, params)
        params, adam = grids.adamw(params, grads, adam, rates, decays)
        return {"params": params, "adam": adam}

    return jax.vmap(one)(heads["params"], heads["adam"], rates, decays)


@partial(jax.jit, static_argnames="size")
def _classes(stacked: Tree, tokens: jax.Array, size: int) -> jax.Array:
    """The best class of every pixel, by every head: int32 [G, B, size, size]."""
    return jax.vmap(lambda params: scores(params, tokens, size).argmax(-1))(stacked)


def fit(
    frames: Frames, train: np.ndarray, val: np.ndarray, probe: ConfigDict, seed: int, by_place: bool
) -> FittedMasks:
    """Trains a grid of heads and keeps the one with the best mean Dice on validation.

    Args:
      train, val: rows of frames that can be read, int [n]. probe: the section of a suite's config.
      by_place: every place of a token has its own bias.

    Raises:
      UserError: no head gave finite numbers.
    """
    if probe.standardise:
        frames = dataclasses.replace(
            frames, tokens=Scaled(frames.tokens, *scaling(frames.tokens, train))
        )
    count = int(frames.classes.max()) + 1
    cells = grids.cells(probe.mask_rates, probe.weight_decays)
    _, places, width = frames.tokens.shape
    shares = shares_of_tokens(frequencies(frames, train)[None], places)[0]
    shares = shares if by_place else shares.mean(axis=0, keepdims=True)
    start = {"kernel": jnp.zeros((width, count)), "bias": jnp.log(shares + _RARE)}
    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(cells), *x.shape)), start)
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


def frequencies(frames: Frames, rows: np.ndarray) -> np.ndarray:
    """How often each pixel has each class in some frames: float32 [side, side, K]."""
    count = int(frames.classes.max()) + 1
    votes = np.zeros((*frames.labels.shape[1:], count), int)
    for row in rows:
        votes += frames.masks(np.array([row]))[0][..., None] == np.arange(count)
    return (votes / len(rows)).astype(np.float32)


def commonest(frames: Frames, rows: np.ndarray) -> np.ndarray:
    """The commonest class of every pixel in some frames, int [side, side]: the mean mask."""
    return frequencies(frames, rows).argmax(axis=-1)


def shares_of_tokens(classes: np.ndarray, places: int) -> np.ndarray:
    """Means over the pixels of each token: [B, size, size, K] -> [B, places, K]."""
    side = math.isqrt(places)
    return reduce(classes, "b (h y) (w x) k -> b (h w) k", "mean", h=side, w=side)


def at_tokens(masks: np.ndarray, count: int, places: int) -> np.ndarray:
    """Masks of `count` classes as well as scores of `places` tokens can show them.

    The scores are free for each frame: they are fitted to its mask with the loss of the heads.

    Args:
      masks: classes of pixels, uint8 [n, size, size].

    Returns:
      The same for the fitted scores.
    """
    parts = []
    for start in range(0, len(masks), _FITTED):
        part = np.resize(masks[start : start + _FITTED], (_FITTED, *masks.shape[1:]))
        shares = shares_of_tokens(np.eye(count, dtype=np.float32)[part], places)
        parts.append(np.asarray(_free_scores(shares, part.astype(np.int32)), np.uint8))
    return np.concatenate(parts)[: len(masks)]


@jax.jit
def _free_scores(shares: jax.Array, masks: jax.Array) -> jax.Array:
    """Classes of pixels [B, size, size] by the best scores of tokens, from their shares."""
    same = {"kernel": jnp.eye(shares.shape[-1]), "bias": jnp.zeros(())}
    weight = jnp.ones(len(masks))

    def step(state: Tree, _: None) -> tuple[Tree, None]:
        tokens, adam = state
        grads = jax.grad(loss_fn, argnums=1)(same, tokens, masks, weight)
        return grids.adamw(tokens, grads, adam, 0.5, 0.0), None

    tokens = jnp.log(shares + _RARE)
    (tokens, _), _ = jax.lax.scan(step, (tokens, grids.ADAM.init(tokens)), length=_STEPS)
    return scores(same, tokens, masks.shape[1]).argmax(-1)
