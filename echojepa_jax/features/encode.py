"""Encodes videos with a frozen encoder: every clip once, in order, equal on any number of devices.

A device encodes a fixed number of clips at a time, `CLIPS_PER_DEVICE` by default. With more
devices, batches are larger but each device's part is not, so that no sum changes its order.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh, PartitionSpec

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.data.clips.pipeline import Shown, evaluation_batches
from echojepa_jax.data.clips.prefetch import DeviceBatches
from echojepa_jax.data.clips.sampling import ClipSpec, clip_with_frame, repeated_clips
from echojepa_jax.data.sample import Sample
from echojepa_jax.models.pixels import Colour, normalise
from echojepa_jax.models.vit import Encoder
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.weights.pretrained import Pretrained

CLIPS_PER_DEVICE = 8
KEEP = ("all", "mean", "motion", "steps")


@dataclasses.dataclass(frozen=True)
class EncodedClips:
    """Some clips, in input order.

    rows: int [B], of the samples. errors: str [B], why a clip could not be decoded, or "".
    padded: int [B], frames that repeat the last frame of a short video.
    tokens: float32 [B, N, W], see `tokens_of`; zeros if there is an error.
    """

    rows: np.ndarray
    errors: np.ndarray
    padded: np.ndarray
    tokens: np.ndarray

    def cut(self, start: int, stop: int) -> "EncodedClips":
        """Clips `start` to `stop` (excluded) of these."""
        return self._map(lambda field: field[start:stop])

    def repeated(self, times: np.ndarray) -> "EncodedClips":
        """Every clip that many times: int [B]."""
        return self._map(lambda field: np.repeat(field, times, axis=0))

    def _map(self, function: Callable[[np.ndarray], np.ndarray]) -> "EncodedClips":
        return EncodedClips(*map(function, (self.rows, self.errors, self.padded, self.tokens)))


def tokens_of(
    encoder: Encoder,
    params: Any,
    clips: jax.Array,
    mean: Colour,
    std: Colour,
    keep: str,
    rngs: Any = None,
) -> jax.Array:
    """What is kept of the tokens of clips, uint8 [B, T, H, W, 3].

    Args:
      keep: see `pooled`.
    """
    tokens: Any = encoder.apply({"params": params}, normalise(clips, mean, std), rngs=rngs)
    return pooled(tokens, encoder.grid(*clips.shape[1:4])[0], keep)


def tokens_kept(keep: str, tokens: int, times: int) -> int:
    """How many tokens `pooled` gives of a clip's `tokens`."""
    return {"all": tokens, "steps": times}.get(keep, 1)


def pooled(tokens: jax.Array, times: int, keep: str) -> jax.Array:
    """What is kept of the tokens of clips, [B, N, D], which are of `times` time steps.

    Args:
      keep: "all": every token, [B, N, D]. "mean": their mean, [B, 1, D]. "motion": the mean, then
        the standard deviation over time and the mean absolute change from one time step to the
        next, both computed at each place and averaged over places, [B, 1, 3 D]. The mean alone
        hides the difference between systole and diastole, which determines the ejection fraction.
        "steps": for every
        time step the mean over places, the absolute difference from the mean over time and the
        absolute change since the step before, both at each place and averaged over places,
        [B, times, 3 D].
    """
    if keep == "all":
        return tokens
    if keep == "steps":
        by_place = rearrange(tokens, "b (t place) d -> b t place d", t=times)
        away = jnp.abs(by_place - jnp.mean(by_place, axis=1, keepdims=True))
        change = jnp.abs(jnp.diff(by_place, axis=1))
        # The first step has none before it: its change is that of the next one.
        change = jnp.concatenate([change[:, :1], change], axis=1) if times > 1 else away
        return jnp.concatenate([jnp.mean(x, axis=2) for x in (by_place, away, change)], axis=-1)
    average = jnp.mean(tokens, axis=1, keepdims=True)
    if keep == "mean":
        return average
    by_place = rearrange(tokens, "b (t place) d -> b t place d", t=times)
    # Without the small constant, the square root has no gradient where nothing moves.
    spread = jnp.mean(jnp.sqrt(jnp.var(by_place, axis=1) + 1e-12), axis=1)
    steps = jnp.abs(jnp.diff(by_place, axis=1))
    change = jnp.mean(jnp.sum(steps, axis=1) / max(1, times - 1), axis=1)
    return jnp.concatenate([average, spread[:, None], change[:, None]], axis=-1)


@partial(jax.jit, static_argnames=("encoder", "mean", "std", "keep", "mesh"))
def encode_clips(
    params: Any,
    clips: jax.Array,
    encoder: Encoder,
    mean: Colour,
    std: Colour,
    keep: str,
    mesh: Mesh,
) -> jax.Array:
    """`tokens_of` of clips that are split over the devices of a mesh."""
    # Mapped over devices rather than partitioned by the compiler, so that every device runs the
    # same program that a single device would run on this part.
    batch = PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        lambda params, clips: tokens_of(encoder, params, clips, mean, std, keep),
        mesh=mesh,
        in_specs=(PartitionSpec(), batch),
        out_specs=batch,
        check_vma=False,  # kernels do not declare over which axes their results vary
    )(params, clips)


@dataclasses.dataclass(frozen=True)
class FrozenEncoder:
    """An encoder with its parameters, the shape of its clips, and the tokens that are kept.

    params: of the network. clip: how videos are cut. clips: of every video. mean,
    std: of pixels in 0..1, per colour. keep: which tokens of a clip are kept, see `tokens_of`.
    """

    network: Encoder
    params: Any = dataclasses.field(repr=False)
    clip: ClipSpec
    mean: Colour
    std: Colour
    clips: int = 1
    keep: str = "all"

    @classmethod
    def of(
        cls, weights: Pretrained, dtype: str, clip: ClipSpec, clips: int = 1, keep: str = "all"
    ) -> "FrozenEncoder":
        """The encoder of these weights on all devices of this host, computing in `dtype`."""
        mesh = meshes.make_mesh(jax.local_devices())
        params = jax.device_put(weights.params["encoder"], meshes.replicated(mesh))
        mean, std = weights.clip.mean, weights.clip.std
        return cls(weights.make_fast_encoder(dtype), params, clip, mean, std, clips, keep)

    @property
    def tokens(self) -> int:
        """Tokens of a clip that are kept."""
        frames, height, width = self.network.grid(self.clip.frames, self.clip.size, self.clip.size)
        return {"all": frames * height * width, "steps": frames}.get(self.keep, 1)

    @property
    def width(self) -> int:
        """Numbers per token that is kept."""
        return self.network.width * (3 if self.keep in ("motion", "steps") else 1)

    def bytes_per_video(self) -> int:
        """Memory that the features of one video take."""
        return self.clips * self.tokens * self.width * 4

    def repeats(self, samples: Sequence[Sample]) -> np.ndarray:
        """Which clips equal the clip before and need no encoding: bool [samples, clips]."""
        return repeats_of(samples, self.clip, self.clips)

    def encode(
        self,
        samples: Sequence[Sample],
        only: np.ndarray | None = None,
        clips_per_device: int = CLIPS_PER_DEVICE,
        workers: int = 0,
        perturbation: Perturbation | None = None,
        shown: Shown | None = None,
    ) -> Iterator[EncodedClips]:
        """Encodes the clips of every sample, on all devices of this host.

        Args:
          only: bool [samples, clips], which of them; None = all.
          clips_per_device: clips that a device encodes at a time.
          workers: processes that decode; 0 = threads of this process.
          perturbation: degrades the videos; None = does not.
          shown: a frame that the clip of each sample has; None = clips wherever `clip` says.
        """
        mesh = meshes.make_mesh(jax.local_devices())
        batches = evaluation_batches(
            samples,
            clip=self.clip,
            global_batch=clips_per_device * mesh.size,
            clips_per_sample=self.clips,
            only=only,
            perturbation=perturbation,
            shown=shown,
            workers=workers,
        )
        waiting: tuple[dict[str, Any], jax.Array] | None = None
        with DeviceBatches(batches, meshes.batch_sharding(mesh)) as on_device:
            for batch in on_device:
                tokens = self._tokens(batch["clips"], mesh)
                # Results are fetched after the next batch was started, so no device waits.
                if waiting is not None:
                    yield _fetched(*waiting)
                waiting = (batch, tokens)
            if waiting is not None:
                yield _fetched(*waiting)

    def encode_arrays(self, clips: np.ndarray) -> np.ndarray:
        """Encodes clips that are in memory, on all devices of this host.

        Args:
          clips: uint8 [B, T, H, W, C].

        Returns:
          float32 [B, N, W].
        """
        mesh = meshes.make_mesh(jax.local_devices())
        size = min(CLIPS_PER_DEVICE, -(-len(clips) // mesh.size)) * mesh.size
        found = []
        for start in range(0, len(clips), size):
            part = clips[start : start + size]
            # All parts are padded to one shape, so that there is one program.
            full = np.pad(part, [(0, size - len(part)), *[(0, 0)] * (clips.ndim - 1)])
            tokens = self._tokens(jax.device_put(full, meshes.batch_sharding(mesh)), mesh)
            found.append(np.asarray(tokens)[: len(part)])
        return np.concatenate(found)

    def _tokens(self, clips: jax.Array, mesh: Mesh) -> jax.Array:
        mean_std = self.mean, self.std
        return encode_clips(self.params, clips, self.network, *mean_std, self.keep, mesh)


def tubelets_of(samples: Sequence[Sample], clip: ClipSpec, shown: Shown) -> np.ndarray:
    """The tubelet of each sample's clip that starts with the frame that is shown: int [samples]."""
    return np.array(
        [
            clip_with_frame(s.frames, s.fps, int(frame), tubelet=shown.tubelet, **clip.rule)[2]
            for s, frame in zip(samples, shown.frames, strict=True)
        ],
        int,
    )


def of_tubelets(piece: EncodedClips, tubelets: np.ndarray, times: int) -> EncodedClips:
    """Only the tokens of one tubelet of every clip.

    Args:
      piece: with all tokens of its clips, which are of `times` time steps.
      tubelets: of every sample, int [samples].
    """
    tokens = rearrange(piece.tokens, "b (t place) d -> b t place d", t=times)
    chosen = tokens[np.arange(len(tokens)), tubelets[piece.rows]]
    return dataclasses.replace(piece, tokens=chosen)


def repeats_of(samples: Sequence[Sample], clip: ClipSpec, clips: int) -> np.ndarray:
    """Which clips equal the clip before and need no encoding: bool [samples, clips]."""
    return repeated_clips([(s.frames, s.fps) for s in samples], clip, clips)


def times_of(repeats: np.ndarray) -> np.ndarray:
    """How many equal clips each encoded clip represents: int [B], for bool [samples, clips]."""
    return np.diff(np.append(np.flatnonzero(~repeats), repeats.size))


def with_repeats(stream: Iterable[EncodedClips], repeats: np.ndarray) -> Iterator[EncodedClips]:
    """Adds the repeats, bool [samples, clips], to a stream that contains only the other clips."""
    times, done = times_of(repeats), 0
    for batch in stream:
        yield batch.repeated(times[done : done + len(batch.rows)])
        done += len(batch.rows)


def divided(
    stream: Iterable[EncodedClips], sizes: Sequence[int]
) -> Iterator[tuple[int, EncodedClips]]:
    """Divides a stream into parts of given sizes; yields pieces with the number of their part.

    Args:
      sizes: clips of each part, at least 1; their sum is the number of clips in the stream.
    """
    ends = np.cumsum(sizes)
    part = done = 0
    for batch in stream:
        start = 0
        while start < len(batch.rows):
            stop = min(len(batch.rows), start + int(ends[part]) - done)
            yield part, batch.cut(start, stop)
            done += stop - start
            start = stop
            if done == ends[part]:
                part += 1


def _fetched(batch: dict[str, Any], tokens: jax.Array) -> EncodedClips:
    there = batch["sample_ids"] >= 0
    values = np.array(tokens)
    values[~np.asarray(batch["valid"])] = 0.0
    return EncodedClips(
        batch["sample_ids"][there], batch["error"][there], batch["padded"][there], values[there]
    )
