"""A probe of the suite: a grid of heads on stored features, chosen on validation.

It sees the training and validation examples and nothing else; the test split is scored afterwards,
once. Everything is a function of the features, the examples, the options and the seed.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.evaluation.pixels import principal
from echojepa_jax.models.heads import Head
from echojepa_jax.probes import grid as grids
from echojepa_jax.probes.examples import Example, drop_views, slots
from echojepa_jax.probes.predict import Features, by_slot, rows_of
from echojepa_jax.probes.task import Task, beats_the_guess, class_weights
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.rng import generator

Tree = Any
_HEAD = re.compile(r"(pca(?P<pca>\d+)-)?(linear|mlp|(?P<alone>mean-)?attentive-(?P<depth>\d+))")
HEADS = "linear, pca512-linear, mlp, attentive-4 or mean-attentive-4, also with other numbers"


@dataclasses.dataclass(frozen=True)
class HeadChoice:
    """A head by name: its kind, and the depth of an attentive one.

    pca: principal components of a clip's mean token that the head gets; 0 = the tokens. alone: the
    head predicts from the mean token of each clip separately, as the paper probed EchoMAE.
    """

    kind: str
    depth: int = 1
    pca: int = 0
    alone: bool = False

    @property
    def averages(self) -> bool:
        """Whether the head needs no more of a clip than the mean of its tokens."""
        return self.kind != "attentive" or self.pca > 0 or self.alone


def head_choice(name: str) -> HeadChoice:
    """What the name of a head means, such as "attentive-4" or "pca512-linear".

    Raises:
      UserError: there is no such head.
    """
    match = _HEAD.fullmatch(name)
    if not match:
        raise UserError(f"there is no head {name!r}; a head is {HEADS}")
    kind = "attentive" if match["depth"] else match[3]
    return HeadChoice(kind, int(match["depth"] or 1), int(match["pca"] or 0), bool(match["alone"]))


@dataclasses.dataclass(frozen=True)
class HowToFit:
    """What is trained, and how long.

    head: see `head_choice`. views: slots of an example, for studies. streams, fusion, view_dropout:
    see `models.heads.Head`. updates: 0 = `probe.epochs` passes over the training examples.
    class_weights: rare classes count as much as common ones. focal_gamma: of the focal loss.
    """

    head: str
    views: int = 1
    streams: bool = False
    fusion: str = "early"
    view_dropout: float = 0.0
    updates: int = 0
    class_weights: bool = False
    focal_gamma: float = 0.0


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The head that did best on validation.

    look: how the head sees tokens. chosen: which head of the grid, after how many updates, and its
    validation score. heads: those of the grid that do better on validation than a constant guess
    after as many updates, stacked; None if there are not two.
    """

    head: Head
    params: Tree
    task: Task
    look: "Look"
    chosen: dict[str, Any]
    heads: Tree


def fit(
    how: HowToFit,
    features: Features,
    train: Sequence[Example],
    val: Sequence[Example],
    task: Task,
    probe: ConfigDict,
    seed: int,
) -> Fitted:
    """Trains a grid of heads side by side and keeps the best one.

    Args:
      task: its scaling or classes. probe: the section of a suite's config.

    Raises:
      UserError: no head gave finite numbers, or no validation example can be read.
    """
    choice = head_choice(how.head)
    look = fit_look(features, rows_of(train), choice, probe.standardise)
    head = make_head(how, task, features, probe)
    features = look.of(features)
    rates = probe.attentive_rates if choice.kind == "attentive" else probe.learning_rates
    cells = grids.cells(rates, probe.weight_decays)
    width = features.tokens.shape[-1]
    _check_width(head, width)
    heads = grids.init_grid(head, jax.random.key(seed), width, len(cells))
    steps = -(-len(train) // probe.batch)
    updates = how.updates or steps * probe.epochs
    checks = set(np.linspace(0, updates, probe.epochs + 1).round().astype(int)[1:].tolist())
    best: tuple[float, float] = (np.inf, np.inf)
    kept: tuple[Tree, int, np.ndarray, dict[str, Any]] | None = None
    batches = _batches(features, train, task, probe.batch, how, seed)
    for update in range(1, updates + 1):
        tokens, batch = next(batches)
        rates_now = grids.rates(cells, update, updates)
        heads, _ = grids.grid_step(
            heads, tokens, batch, *rates_now, head, task.kind, 1, how.focal_gamma
        )
        if update in checks:
            params = heads["params"]
            scores, losses, good = _validate(head, params, features, val, task, probe.batch)
            row = int(np.lexsort((losses, scores))[0])
            if (scores[row], losses[row]) < best:
                best = scores[row], losses[row]
                chosen = {
                    "head": cells[row].name,
                    "update": update,
                    "updates": updates,
                    "val": abs(float(scores[row])),
                }
                # Copied, because the next update uses the memory of these parameters again.
                kept = jax.tree.map(np.array, params), row, good, chosen
    if kept is None:
        raise UserError(
            f"no head of {how.head} gave finite predictions of {task.target!r}: lower "
            "probe.learning_rates, or look at the labels"
        )
    stacked, row, good, chosen = kept
    one = jax.tree.map(lambda x: x[row], stacked)
    return Fitted(head, one, task, look, chosen, grids.several(stacked, good))


def make_head(how: HowToFit, task: Task, features: Features, probe: ConfigDict) -> Head:
    """The network of a head."""
    choice = head_choice(how.head)
    return Head(
        kind=choice.kind,
        outputs=task.outputs,
        depth=choice.depth,
        heads=probe.heads,
        hidden=probe.hidden,
        views=how.views,
        clips=features.at.shape[1],
        streams=how.streams,
        fusion="late" if choice.alone else how.fusion,
    )


def _check_width(head: Head, width: int) -> None:
    if head.kind == "attentive" and width % head.heads:
        raise UserError(
            f"config field 'probe.heads' is {head.heads}, but it must divide the width of a token, "
            f"{width}"
        )


def _batches(
    features: Features, train: Sequence[Example], task: Task, size: int, how: HowToFit, seed: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Batches without an end: every example once in each pass, in an order that the seed gives."""
    labels = task.encode([example.label for example in train])
    worth = np.ones(len(labels), np.float32)
    if how.class_weights:
        there, numbers = np.unique(labels, return_inverse=True)  # few labels may lack a class
        worth = class_weights(numbers, len(there))[numbers]
    usable, clips = features.usable(), features.at.shape[1]
    epoch = 0
    while True:
        rng = generator(seed, "probe epoch", epoch)
        rows = slots(train, usable, rng)
        kept = drop_views(rows >= 0, how.view_dropout, rng)
        order = rng.permutation(len(train))
        order = np.concatenate([order, np.full(-len(order) % size, -1)])
        for start in range(0, len(order), size):
            part = order[start : start + size]
            real = part >= 0
            tokens, present = features.gather(np.where(real[:, None], rows[part], -1))
            present &= by_slot(kept[part] & real[:, None], clips)
            some = np.any(present, axis=1)
            yield (
                tokens,
                {
                    "labels": labels[part],
                    "weight": worth[part] * (real & some),
                    # A softmax over nothing has no value.
                    "present": present | np.logical_not(some)[:, None],
                },
            )
        epoch += 1


_grid_outputs = jax.jit(grids.grid_outputs, static_argnums=0)


def _outputs(
    head: Head, stacked: Tree, features: Features, examples: Sequence[Example], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of stacked heads, float32 [E, G, o], and which examples could be read, bool [E]."""
    rows = slots(examples, features.usable(), None)
    values, readable = [], []
    for start in range(0, len(rows), size):
        tokens, present = features.gather(rows[start : start + size])
        count = len(tokens)
        some = np.any(present, axis=1)
        full = np.pad(
            present | np.logical_not(some)[:, None],
            ((0, size - count), (0, 0)),
            constant_values=True,
        )
        tokens = np.pad(tokens, ((0, size - count), (0, 0), (0, 0), (0, 0)))
        values.append(np.asarray(_grid_outputs(head, stacked, tokens, full))[:count])
        readable.append(some)
    return np.concatenate(values), np.concatenate(readable)


def _validate(
    head: Head, stacked: Tree, features: Features, val: Sequence[Example], task: Task, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score (low is good) and loss of every head on validation, inf where one is not finite; and
    whether it does better than a constant guess, bool [G]."""
    outputs, readable = _outputs(head, stacked, features, val, size)
    if not readable.any():
        raise UserError(f"none of {len(val)} validation examples can be read")
    outputs = outputs[readable]
    labels = [example.label for example, ok in zip(val, readable, strict=True) if ok]
    coded, decoded = task.encode(labels), task.decode(outputs)
    if task.kind == "regression":
        away = np.abs(outputs[..., 0].astype(np.float64) - coded[:, None])
        losses = np.where(away < 1, away**2 / 2, away - 0.5).mean(axis=0)
        scores = away.mean(axis=0) * task.std
    else:
        scores = -(decoded.argmax(axis=-1) == coded[:, None]).mean(axis=0)
        picked = np.take_along_axis(decoded, coded[:, None, None], axis=-1)[..., 0]
        losses = -np.log(np.maximum(picked, 1e-30)).mean(axis=0)
    finite = np.isfinite(outputs).all(axis=(0, 2))
    good = beats_the_guess(task, labels, decoded)
    return np.where(finite, scores, np.inf), np.where(finite, losses, np.inf), good


def predict(
    fitted: Fitted, features: Features, examples: Sequence[Example], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions for examples, and which could be read, bool [E].

    Returns:
      Numbers in the target's unit [E], or probabilities [E, classes].
    """
    features = fitted.look.of(features)
    stacked = jax.tree.map(lambda x: x[None], fitted.params)
    outputs, readable = _outputs(fitted.head, stacked, features, examples, size)
    return fitted.task.decode(outputs[:, 0]), readable


# --- what is fitted on training tokens before any head -------------------------------------------


@dataclasses.dataclass(frozen=True)
class Look:
    """How heads see clips: all tokens or their mean, principal components, then a common scale.

    averages: only the mean token. centre [D], matrix [D, k]: of the components; None = there are
    none. shift, scale: [D] or [k].
    """

    shift: np.ndarray
    scale: np.ndarray
    averages: bool = False
    centre: np.ndarray | None = None
    matrix: np.ndarray | None = None

    def of(self, features: Features) -> Features:
        """The features as heads see them."""
        if self.averages:
            features = features.averaged()
        tokens = features.tokens
        if self.matrix is not None:
            tokens = (tokens - self.centre) @ self.matrix
        return dataclasses.replace(features, tokens=Scaled(tokens, self.shift, self.scale))


class Scaled:
    """Tokens [m, N, D] that are shifted and scaled when they are asked for."""

    def __init__(self, tokens: Any, shift: np.ndarray, scale: np.ndarray) -> None:
        self._tokens, self._shift, self._scale = tokens, shift, scale

    @property
    def shape(self) -> tuple[int, ...]:
        return self._tokens.shape

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        return (self._tokens[places] - self._shift) * self._scale


def fit_look(
    features: Features, rows: Sequence[int], choice: HeadChoice, standardise: bool
) -> Look:
    """What the training samples `rows` give: components, mean and spread.

    Args:
      standardise: every channel gets mean 0 and standard deviation 1 over all tokens, also if the
        head sees their mean.
    """
    place = features.place[list(rows)]
    clips = np.unique(features.at[place])
    clips = clips[features.there[clips]]
    tokens, centre, matrix = features.tokens, None, None
    if choice.pca:
        means = features.averaged().tokens
        centre, matrix = principal(means[clips, 0], choice.pca)
        tokens = (means - centre) @ matrix
    width = tokens.shape[-1]
    shift, scale = np.zeros(width, np.float32), np.ones(width, np.float32)
    if standardise:
        shift, scale = scaling(tokens, clips)
    return Look(shift, scale, choice.averages, centre, matrix)


def scaling(tokens: Any, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale, float32 [D], that give every channel mean 0 and standard deviation 1.

    Args:
      tokens: [m, N, D]. clips: int [k], those that it is computed from.
    """
    width = tokens.shape[-1]
    sums, squares, count = np.zeros(width), np.zeros(width), 0
    for part in _parts(clips):
        values = tokens[part].reshape(-1, width).astype(np.float64)
        sums, squares = sums + values.sum(axis=0), squares + np.square(values).sum(axis=0)
        count += len(values)
    mean = sums / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A channel that is the same everywhere says nothing: it stays 0.
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0)
    return mean.astype(np.float32), scale.astype(np.float32)


def _parts(clips: np.ndarray) -> list[np.ndarray]:
    """Clips in parts that fit into memory with all their tokens."""
    return np.array_split(clips, max(1, len(clips) // 64))
