"""Principal components of pixels: what a model must beat that has learned nothing about hearts.

A token is a tubelet of a few frames, made small and grey; for segmentation it is the patch of a
tubelet that an encoder's token stands for. The components are fitted on the training videos alone.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from einops import rearrange

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.data.clips.pipeline import Shown, evaluation_batches
from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.data.clips.workers import Batch
from echojepa_jax.data.sample import Sample
from echojepa_jax.features.encode import EncodedClips, of_tubelets, pooled, tubelets_of
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import whole

log = logging.getLogger(__name__)

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
    return mean.astype(np.float32), _basis(away.T @ away, min(count, *vectors.shape))


def _basis(squares: np.ndarray, count: int) -> np.ndarray:
    """The first components [D, count] of centred vectors with these sums of products [D, D]."""
    _, basis = np.linalg.eigh(squares)
    basis = basis[:, ::-1][:, :count]
    # Of the two directions of a component, the one whose largest entry is positive.
    largest = np.abs(basis).argmax(axis=0)
    signs = np.sign(basis[largest, np.arange(basis.shape[1])])
    return (basis * signs).astype(np.float32)


def fitted(
    kept: Path, samples: Sequence[Sample], clip: ClipSpec, tubelet: int, count: int, workers: int
) -> Components:
    """The components of training videos; made once and kept in a file.

    Raises:
      UserError: no video can be decoded.
    """

    def fit() -> tuple[np.ndarray, np.ndarray]:
        parts = [_tubelets(clips, tubelet) for clips in _training_clips(samples, clip, workers)]
        return principal(np.concatenate(parts).reshape(-1, parts[0].shape[-1]), count)

    return Components(*_kept(kept, fit), tubelet)


def fitted_patches(
    kept: Path,
    samples: Sequence[Sample],
    clip: ClipSpec,
    tubelet: int,
    patch: int,
    count: int,
    workers: int,
) -> Components:
    """The components of patches of `patch` pixels, as `fitted` those of whole frames.

    Raises:
      UserError: no video can be decoded.
    """

    def fit() -> tuple[np.ndarray, np.ndarray]:
        size = tubelet * patch * patch
        number, total, squares = 0, np.zeros(size), np.zeros((size, size))
        for clips in _training_clips(samples, clip, workers):
            vectors = _patches(clips, tubelet, patch).reshape(-1, size).astype(np.float64)
            number += len(vectors)
            total += vectors.sum(axis=0)
            squares += vectors.T @ vectors
        mean = total / number
        squares -= number * np.outer(mean, mean)
        return mean.astype(np.float32), _basis(squares, min(count, size, number))

    return Components(*_kept(kept, fit), tubelet)


def _training_clips(
    samples: Sequence[Sample], clip: ClipSpec, workers: int
) -> Iterator[np.ndarray]:
    """Clips of videos, uint8 [B, T, H, W, C].

    Raises:
      UserError: no video can be decoded.
    """
    chosen, some = samples[:: -(-len(samples) // MOST_VIDEOS)], False
    for batch in evaluation_batches(chosen, clip=clip, global_batch=BATCH, workers=workers):
        some |= bool(batch["valid"].any())
        yield batch["clips"][batch["valid"]]
    if not some:
        raise UserError("no training video can be decoded: pca has no pixels to learn from")


def _kept(
    kept: Path, fit: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and matrix, which are made once and kept in a file."""
    if kept.exists():
        try:
            with np.load(kept) as found:
                return found["mean"], found["matrix"]
        except Exception as error:  # checksums are verified; damage has errors of many types
            log.warning("%s is made again: it cannot be read (%s)", kept, error)
    mean, matrix = fit()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with whole(kept) as partial, partial.open("wb") as file:
        np.savez(file, mean=mean, matrix=matrix)
    return mean, matrix


def _tubelets(clips: np.ndarray, tubelet: int) -> np.ndarray:
    """uint8 [B, T, H, W, C] -> grey values 0..1, float32 [B, T / tubelet, tubelet SIDE SIDE]."""
    batch, frames = clips.shape[:2]
    small = np.empty((batch * frames, SIDE, SIDE), np.float32)
    for i, image in enumerate(clips.reshape(-1, *clips.shape[2:])):
        grey = image.mean(axis=-1, dtype=np.float32) / 255
        small[i] = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return small.reshape(batch, frames // tubelet, -1)


def _patches(clips: np.ndarray, tubelet: int, patch: int) -> np.ndarray:
    """uint8 [B, T, H, W, C] -> grey values 0..1 of patches, float32 [B, N, tubelet patch patch]."""
    grey = clips.mean(axis=-1, dtype=np.float32) / 255
    return rearrange(grey, "b (t u) (h p) (w q) -> b (t h w) (u p q)", u=tubelet, p=patch, q=patch)


def encoded_patches(
    components: Components,
    samples: Sequence[Sample],
    clip: ClipSpec,
    shown: Shown,
    patch: int,
    workers: int,
) -> Iterator[EncodedClips]:
    """Tokens of the tubelets that start with the frames that are shown."""
    batches = evaluation_batches(
        samples, clip=clip, global_batch=BATCH, shown=shown, workers=workers
    )
    tubelets, times = tubelets_of(samples, clip, shown), clip.frames // components.tubelet
    for batch in batches:
        vectors = _patches(batch["clips"], components.tubelet, patch)
        tokens = (vectors - components.mean) @ components.matrix
        yield of_tubelets(_piece(batch, tokens), tubelets, times)


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
        vectors = _tubelets(batch["clips"], components.tubelet)
        tokens = (vectors - components.mean) @ components.matrix
        yield _piece(batch, np.array(pooled(tokens, tokens.shape[1], keep)))


def _piece(batch: Batch, tokens: np.ndarray) -> EncodedClips:
    """The clips of a batch with their tokens [B, N, D], zeros where a clip cannot be decoded."""
    there = batch["sample_ids"] >= 0
    tokens[~batch["valid"]] = 0.0
    return EncodedClips(
        batch["sample_ids"][there], batch["error"][there], batch["padded"][there], tokens[there]
    )
