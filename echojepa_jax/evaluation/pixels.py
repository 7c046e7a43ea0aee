"""Principal components of pixels: what a model must beat that has learned nothing about hearts.

A token is a tubelet of a few frames, made small and grey. The components are fitted on the training
videos alone.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.data.clips.pipeline import evaluation_batches
from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.data.sample import Sample
from echojepa_jax.features.encode import EncodedClips, pooled
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import whole

SIDE = 32  # pixels of a frame, once it is made small
BATCH = 32  # clips that are decoded at a time
MOST_VIDEOS = 2000  # that components are fitted on: more change them little


@dataclasses.dataclass(frozen=True)
class Components:
    """Principal components: mean float32 [inputs], matrix float32 [inputs, outputs]."""

    mean: np.ndarray
    matrix: np.ndarray
    tubelet: int


def principal(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and the first components [D, count] of vectors [n, D], the largest first.

    There are no more than n or D of them.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    away = vectors - mean
    _, basis = np.linalg.eigh(away.T @ away)
    basis = basis[:, ::-1][:, : min(count, *vectors.shape)]
    # Of the two directions of a component, the one whose largest entry is positive.
    largest = np.abs(basis).argmax(axis=0)
    signs = np.sign(basis[largest, np.arange(basis.shape[1])])
    return mean.astype(np.float32), (basis * signs).astype(np.float32)


def fitted(
    kept: Path,
    samples: Sequence[Sample],
    clip: ClipSpec,
    tubelet: int,
    count: int,
    workers: int,
) -> Components:
    """The components of training videos; made once and kept in a file.

    Raises:
      UserError: no video can be decoded.
    """
    if not kept.exists():
        chosen = samples[:: -(-len(samples) // MOST_VIDEOS)]
        batches = evaluation_batches(chosen, clip=clip, global_batch=BATCH, workers=workers)
        parts = [_tubelets(batch["clips"][batch["valid"]], tubelet) for batch in batches]
        vectors = np.concatenate(parts).reshape(-1, parts[0].shape[-1])
        if not len(vectors):
            raise UserError("not one training video can be decoded: there are no pixels to analyse")
        mean, matrix = principal(vectors, count)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole(kept) as partial, partial.open("wb") as file:
            np.savez(file, mean=mean, matrix=matrix)
    with np.load(kept) as found:
        return Components(found["mean"], found["matrix"], tubelet)


def _tubelets(clips: np.ndarray, tubelet: int) -> np.ndarray:
    """uint8 [B, T, H, W, C] -> grey values 0..1, float32 [B, T / tubelet, tubelet SIDE SIDE]."""
    batch, frames = clips.shape[:2]
    small = np.empty((batch * frames, SIDE, SIDE), np.float32)
    for i, image in enumerate(clips.reshape(-1, *clips.shape[2:])):
        grey = image.mean(axis=-1, dtype=np.float32) / 255
        small[i] = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return small.reshape(batch, frames // tubelet, -1)


def encoded(
    components: Components,
    samples: Sequence[Sample],
    clip: ClipSpec,
    only: np.ndarray,
    keep: str,
    perturbation: Perturbation | None,
    workers: int,
) -> Iterator[EncodedClips]:
    """Tokens of clips, as `FrozenEncoder.encode` gives them."""
    batches = evaluation_batches(
        samples,
        clip=clip,
        global_batch=BATCH,
        clips_per_sample=only.shape[1],
        only=only,
        perturbation=perturbation,
        workers=workers,
    )
    for batch in batches:
        there = batch["sample_ids"] >= 0
        vectors = _tubelets(batch["clips"], components.tubelet)
        tokens = (vectors - components.mean) @ components.matrix
        values = np.array(pooled(tokens, tokens.shape[1], keep))
        values[~batch["valid"]] = 0.0
        yield EncodedClips(
            batch["sample_ids"][there], batch["error"][there], batch["padded"][there], values[there]
        )
