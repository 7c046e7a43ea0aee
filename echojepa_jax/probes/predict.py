"""Predictions of a probe: encodes videos, gathers features by example, and applies heads."""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jax.sharding import PartitionSpec

from echojepa_jax.data.sample import Sample
from echojepa_jax.features.encode import CLIPS_PER_DEVICE, EncodedClips, FrozenEncoder, divided
from echojepa_jax.models.heads import Head
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.probes import grid as grids
from echojepa_jax.probes.examples import Example, slots
from echojepa_jax.utils.progress import with_progress

log = logging.getLogger(__name__)

Tree = Any
EXAMPLES_PER_DEVICE = 8  # for heads at a time; fixed for the same reason as CLIPS_PER_DEVICE


@dataclasses.dataclass(frozen=True)
class Videos:
    """The videos of a probe, and the encoder for them.

    workers: processes that decode; 0 = threads of this process.
    """

    samples: Sequence[Sample]
    encoder: FrozenEncoder
    workers: int

    def encoded_by(self, params: Tree) -> "Videos":
        """The same videos with other parameters of the encoder."""
        return dataclasses.replace(self, encoder=dataclasses.replace(self.encoder, params=params))


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of some samples.

    place: int [samples], the row of a sample in `at`; -1 = it was not encoded.
    tokens: float32 [m, N, D], of clips that differ; an array, or what is indexed like one.
    at: int [n, C], the row of a clip in `tokens`.
    there: bool [m], whether a clip could be decoded.
    repeats: bool [n, C], whether a clip shows the same frames as the clip before.
    errors: by sample, why its clips could not be decoded.
    means: float32 [m, D], the mean token of every clip; None = they are not stored.
    """

    place: np.ndarray
    tokens: Any
    at: np.ndarray
    there: np.ndarray
    repeats: np.ndarray
    errors: dict[int, str]
    means: np.ndarray | None = None

    def averaged(self) -> "Features":
        """The same clips with one token each, in memory: the mean of its tokens."""
        means = self.means
        if means is None:
            parts = np.array_split(np.arange(len(self.there)), 1 + len(self.there) // 64)
            means = np.concatenate([self.tokens[part].mean(axis=1) for part in parts])
        return dataclasses.replace(self, tokens=means[:, None], means=means)

    def usable(self) -> np.ndarray:
        """Which samples have a decoded clip: bool [samples]."""
        return (self.place >= 0) & self.there[self.at][self.place].any(axis=1)

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [E, V C, N, D] and presence [E, V C] of samples int [E, V]; -1 = none."""
        place = np.where(rows >= 0, self.place[rows], -1)
        tokens = rearrange(self.tokens[self.at[place]], "e v c n d -> e (v c) n d")
        present = self.there[self.at[place]] & (place >= 0)[..., None]
        return tokens, rearrange(present, "e v c -> e (v c)")

    def own(self, rows: np.ndarray) -> np.ndarray:
        """Which slots do not repeat another one: bool [E, V C]."""
        place = np.where(rows >= 0, self.place[rows], -1)
        return rearrange(~self.repeats[place], "e v c -> e (v c)")


def encode_videos(videos: Videos, rows: Sequence[int], what: str) -> Features:
    """Encodes the samples `rows` once each; `what` names them in the log; "" = no log lines."""
    (features,) = encode_groups(videos, [rows], what)
    return features


def encode_groups(videos: Videos, groups: Sequence[Sequence[int]], what: str) -> Iterator[Features]:
    """Encodes groups of samples in one stream; yields the complete features of each group.

    Clips of a video that is too short for different ones are encoded once.
    """
    chosen = [videos.samples[row] for group in groups for row in group]
    repeats = videos.encoder.repeats(chosen)
    firsts = np.cumsum([0, *map(len, groups)])
    parts = [repeats[start:stop] for start, stop in itertools.pairwise(firsts)]
    stream: Iterable[EncodedClips] = videos.encoder.encode(
        chosen, only=~repeats, workers=videos.workers
    )
    count = int(np.count_nonzero(~repeats))
    if what:
        batches = -(-count // (CLIPS_PER_DEVICE * jax.local_device_count()))
        stream = with_progress(stream, batches, f"{what}: encoding batches")
    pieces = divided(stream, [int(np.count_nonzero(~part)) for part in parts])
    done = padded = 0
    for number, of_group in itertools.groupby(pieces, key=lambda pair: pair[0]):
        features = _gathered(videos, groups[number], parts[number])
        at = 0
        for _, piece in of_group:
            stop = at + len(piece.rows)
            features.tokens[at:stop], features.there[at:stop] = piece.tokens, piece.errors == ""
            padded += int(np.count_nonzero(piece.padded))
            for row, error in zip(piece.rows, piece.errors, strict=True):
                if error:
                    features.errors[groups[number][row - firsts[number]]] = str(error)
            at = stop
        done += at
        yield features
    if done != count:
        raise RuntimeError(f"{done} of {count} clips were encoded")
    if padded and what:
        log.warning("%s: %d of %d clips end in repeated frames", what, padded, done)
    if repeats.any() and what:
        log.info(
            "%s: %d of %d videos are too short for %d different clips: equal clips count once",
            *(what, np.count_nonzero(repeats.any(axis=1)), len(chosen), videos.encoder.clips),
        )


def _gathered(videos: Videos, rows: Sequence[int], repeats: np.ndarray) -> Features:
    """Features of these samples, with arrays to be filled."""
    place = np.full(len(videos.samples), -1)
    place[list(rows)] = np.arange(len(rows))
    at = np.cumsum(~repeats).reshape(repeats.shape) - 1
    count = np.count_nonzero(~repeats)
    tokens = np.empty((count, videos.encoder.tokens, videos.encoder.width), np.float32)
    return Features(place, tokens, at, np.zeros(count, bool), repeats, {})


def rows_of(examples: Sequence[Example]) -> list[int]:
    """All samples of these examples, in order."""
    return sorted({row for e in examples for candidates in e.rows for row in candidates})


def in_chunks(
    examples: Sequence[Example], encoder: FrozenEncoder, memory: float
) -> Iterator[Sequence[Example]]:
    """Divides examples into parts whose features fit into `memory` bytes."""
    videos = max(len(rows_of([example])) for example in examples)
    count = max(1, int(memory // (videos * encoder.bytes_per_video())))
    for start in range(0, len(examples), count):
        yield examples[start : start + count]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Outputs of heads for examples, in their order.

    values: float32 [E, ...]; zeros if there is an error. errors: [E], "" = no error.
    embeddings: float32 [E, D], see `mean_tokens`; None = they were not asked for.
    """

    values: np.ndarray
    errors: list[str]
    embeddings: np.ndarray | None = None

    def readable(self) -> np.ndarray:
        """Which examples have outputs: bool [E]."""
        return np.array([not error for error in self.errors])


# Applies a head or a grid: (head, parameters, tokens [B, S, N, D], present [B, S]) -> outputs.
HeadFn = Callable[[Head, Tree, Any, Any], jax.Array]


def with_slots(head: Head, params: Tree, tokens: jax.Array, present: jax.Array) -> jax.Array:
    """The outputs of one head for an example, then for each slot separately: [B, 1 + S, o]."""
    together: Any = head.apply({"params": params}, tokens, present)
    return jnp.concatenate([together[:, None], grids.slot_outputs(head, params, tokens)], axis=1)


def with_slots_and_heads(
    head: Head, params: tuple[Tree, Tree], tokens: jax.Array, present: jax.Array
) -> jax.Array:
    """`with_slots` of the first parameters, then outputs of stacked heads: [B, 1 + S + G, o]."""
    mine, stacked = params
    alone = with_slots(head, mine, tokens, present)
    return jnp.concatenate([alone, grids.grid_outputs(head, stacked, tokens, present)], axis=1)


def with_doubt(params: Tree, heads: Tree) -> tuple[HeadFn, Tree]:
    """What gives the outputs for an example, for each of its slots, and of stacked `heads` if any,
    and its parameters."""
    return (with_slots, params) if heads is None else (with_slots_and_heads, (params, heads))


def mean_tokens(tokens: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The embedding of examples: the mean over the tokens of all slots that are present.

    Args:
      tokens: [E, S, N, D]. present: bool [E, S].

    Returns:
      float32 [E, D]; zeros for an example without slots.
    """
    of_slots = tokens.mean(axis=2, dtype=np.float64) * present[..., None]
    count = np.maximum(1, present.sum(axis=1, keepdims=True))
    return (of_slots.sum(axis=1) / count).astype(np.float32)


@partial(jax.jit, static_argnames=("head_fn", "head"))
def _each_device(params: Tree, tokens: Any, present: Any, head_fn: HeadFn, head: Head) -> jax.Array:
    mesh = meshes.make_mesh(jax.local_devices())
    batch = PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        partial(head_fn, head), mesh=mesh, in_specs=(PartitionSpec(), batch, batch), out_specs=batch
    )(params, tokens, present)


def head_outputs(
    head_fn: HeadFn,
    head: Head,
    params: Tree,
    examples: Sequence[Example],
    features: Features,
    embed: bool = False,
) -> tuple[Outputs, np.ndarray]:
    """Applies heads to every example once; an example without readable videos gets an error.

    Args:
      embed: also compute embeddings.

    Returns:
      The outputs, and which slots are present and do not repeat another one: bool [E, S].
    """
    rows = slots(examples, features.usable(), None)
    size = EXAMPLES_PER_DEVICE * jax.local_device_count()
    values, presence, embeddings = [], [], []
    for start in range(0, len(rows), size):
        tokens, present = features.gather(rows[start : start + size])
        if embed:
            embeddings.append(mean_tokens(tokens, present))
        missing = size - len(tokens)
        padded = np.pad(tokens, ((0, missing), (0, 0), (0, 0), (0, 0)))
        # A softmax over no slots is not defined: for examples without slots, all count as present.
        some = np.pad(present, ((0, missing), (0, 0)))
        some[~some.any(axis=1)] = True
        out = np.array(_each_device(params, padded, some, head_fn, head))[: len(tokens)]
        out[~present.any(axis=1)] = 0
        values.append(out)
        presence.append(present)
    own = features.own(rows)
    errors = []
    for example, there in zip(examples, np.concatenate(presence), strict=True):
        reasons = [features.errors[row] for row in rows_of([example]) if row in features.errors]
        errors.append("" if there.any() else reasons[0] if reasons else "it has no video")
    together = np.concatenate(embeddings) if embed else None
    return Outputs(np.concatenate(values), errors, together), np.concatenate(presence) & own


def encoded_head_outputs(
    head_fn: HeadFn,
    head: Head,
    params: Tree,
    examples: Sequence[Example],
    videos: Videos,
    memory: float,
    what: str,
    embed: bool = False,
) -> tuple[Outputs, np.ndarray]:
    """Encodes and applies `head_outputs`, with at most `memory` bytes of features at a time."""
    values, errors, presence = [], [], []
    embeddings: list[Any] = []
    chunks = list(in_chunks(examples, videos.encoder, memory))
    encoding = encode_groups(videos, [*map(rows_of, chunks)], what)
    for chunk, features in zip(chunks, encoding, strict=True):
        outputs, present = head_outputs(head_fn, head, params, chunk, features, embed)
        values.append(outputs.values)
        errors += outputs.errors
        presence.append(present)
        embeddings.append(outputs.embeddings)
    together = np.concatenate(embeddings) if embed else None
    return Outputs(np.concatenate(values), errors, together), np.concatenate(presence)


def spread(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Standard deviation over present slots: [E, S], bool [E, S] -> [E]; NaN for one slot."""
    count = present.sum(axis=1)
    mean = (values * present).sum(axis=1) / np.maximum(1, count)
    square = (np.square(values - mean[:, None]) * present).sum(axis=1) / np.maximum(1, count)
    return np.where(count > 1, np.sqrt(square), np.nan)


def spreads(decoded: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spread over slots and over heads, float64 [E] each; NaN where there are not two.

    Args:
      decoded: `Task.decode` of the outputs of `with_doubt`: numbers [E, 1 + S (+ G)], or
        probabilities [E, 1 + S (+ G), classes], of which the example's most probable class counts.
      present: bool [E, S], the slots that are there and do not repeat another one.
    """
    if decoded.ndim == 3:
        chosen = decoded[:, 0].argmax(axis=-1)
        decoded = np.take_along_axis(decoded, chosen[:, None, None], axis=2)[..., 0]
    of_slots, of_heads = np.split(decoded[:, 1:], [present.shape[1]], axis=1)
    return spread(of_slots, present), spread(of_heads, np.ones(of_heads.shape, bool))


def by_slot(present: np.ndarray, clips: int) -> np.ndarray:
    """Presence of slots [E, V C] from presence of views, bool [E, V]."""
    return repeat(present, "e v -> e (v c)", c=clips)
