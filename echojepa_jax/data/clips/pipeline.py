"""The input pipeline: from a list of samples to batches of uint8 clips and token ids (Grain).

The content of a batch is a pure function of (seed, step, position in the global batch). Worker
processes, read threads and hosts only divide the work, so a run resumes from its step number alone,
on any number of hosts.

Order. Each epoch of a source visits every sample of the source exactly once, in a new random order.
Grain's `mix` interleaves the sources in fixed proportions. The result is one endless sequence of
samples: position p of step s is its element `s * global_batch + p`, and host h of H builds the
positions from `h * B / H` to `(h + 1) * B / H`, where B is the global batch.

Batch, for a host's share of B clips and M mask specifications:
    clips        uint8 [B, T, size, size, 3]; [B, T, size, size, 1] if all samples are known to be
                 grey, and the device then repeats the channel three times
    context_ids  M arrays int32 [B, Kc]
    target_ids   M arrays int32 [B, Kt]
    sample_ids   int64 [B], row in `samples`; -1 for the empty places in an evaluation's last batch
    valid        bool [B]; False = no sample, or it cannot be decoded; the clip is then zeros
    padded       int32 [B], number of frames that repeat the last frame of a too short video
    error        str [B], the reason why a sample cannot be decoded, else ""
    frames       int32 [B], number of frames that are not padded; only on request
    images       a batch of images (clips of one frame) in the same form; only on request
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import grain
import numpy as np

from echojepa_jax.data.clips import original, recoded, transforms
from echojepa_jax.data.clips.perturbations import RECODED, Perturbation
from echojepa_jax.data.clips.sampling import (
    CROPS,
    KEPT,
    MASKED,
    NEED_RATE,
    NONE,
    ORIGINAL,
    ClipSpec,
    clip_with_frame,
)
from echojepa_jax.data.clips.workers import Batch, MakePart, build
from echojepa_jax.data.formats import decode
from echojepa_jax.data.sample import Sample
from echojepa_jax.masking.masks import Mask, check_mask, sample_mask
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.rng import generator

ERROR_CHARACTERS = 200


class Images(NamedTuple):
    """Stills that every batch contains beside its clips.

    clip: specification of clips of one frame. grid: tokens of an image, (1, Hp, Wp).
    global_batch: images in each batch, over all hosts.
    """

    samples: Sequence[Sample]
    clip: ClipSpec
    mask: Mask
    grid: tuple[int, int, int]
    global_batch: int


class Shown(NamedTuple):
    """A frame of each sample that its clip has, as the first one of a tubelet.

    frames: int [samples]. tubelet: frames of a tubelet.
    """

    frames: np.ndarray
    tubelet: int


def training_batches(
    samples: Sequence[Sample],
    *,
    clip: ClipSpec,
    masks: Sequence[Mask],
    grid: tuple[int, int, int],
    seed: int,
    global_batch: int,
    first_step: int,
    last_step: int,
    weights: Mapping[str, float] | None = None,
    padded: str = KEPT,
    images: Images | None = None,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = 1,
) -> Iterator[Batch]:
    """Yields this host's share of the batches of steps `first_step` to `last_step` (excluded).

    Args:
      grid: tokens of a clip, (T', Hp, Wp).
      weights: share of each source (keys are `Sample.source`); None shuffles all samples together.
      padded: "masked" adds `frames` to the batch. images: adds `images` to the batch.
      workers: worker processes; 0 builds the batches in this process. threads: read threads per
        process.

    Raises:
      UserError: samples, weights or masks are impossible (raised at once), or a worker dies (raised
        while iterating).
    """
    share = _share(global_batch, process_count)
    first = process_index * share
    make = _training_parts(samples, clip, masks, grid, seed, global_batch, first, weights, padded)
    if images is not None:
        # Images have their own seed, so that their random numbers do not repeat those of the clips.
        image_seed = int(generator(seed, "images").integers(2**32))
        image_share = _share(images.global_batch, process_count)
        first = process_index * image_share
        make_images = _training_parts(
            *images[:2], (images.mask,), images.grid, image_seed, images.global_batch, first
        )
        make = _with_images(make, make_images, share, image_share)
    return build(make, first_step, last_step, share, workers=workers, threads=threads)


def evaluation_batches(
    samples: Sequence[Sample],
    *,
    clip: ClipSpec,
    global_batch: int,
    clips_per_sample: int = 1,
    only: np.ndarray | None = None,
    perturbation: Perturbation | None = None,
    shown: Shown | None = None,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = 1,
) -> Iterator[Batch]:
    """Yields this host's share of batches that contain every sample once, in order.

    Each sample gives `clips_per_sample` consecutive clips: centred in equal parts of the video, or
    contiguous (`ClipSpec.place`).
    Frames are resized and cropped at the centre. Empty rows of the last batch have the sample id -1
    and valid False. A sample that cannot be decoded keeps its place, with valid False and the
    reason in `error`. There are no masks: the tuples of ids are empty.

    Args:
      only: bool [samples, clips_per_sample], the wanted clips; None = all.
      perturbation: degrades the videos, before frames are resized and cropped; None = does not.
      shown: a frame that the clip of each sample has, for one clip per sample; None = any.

    Raises:
      UserError: samples are impossible (raised at once), or a worker dies (raised while iterating).
    """
    share = _share(global_batch, process_count)
    wanted = np.ones((len(samples), clips_per_sample), bool) if only is None else only
    first_position = process_index * share
    videos = _Videos.of(samples, clip)
    clips = np.argwhere(wanted).astype(np.int32)  # the sample of each clip, and the clip's number
    names = [sample.name for sample in samples] if perturbation else []

    def make(step: int, offset: int, count: int) -> Batch:
        batch = _blank(count, clip, videos.channels)
        first = step * global_batch + first_position + offset
        for i, (row, part) in enumerate(clips[first : first + count].tolist()):
            degraded = (perturbation, names[row]) if perturbation else None
            frame = (int(shown.frames[row]), shown.tubelet) if shown else None
            _fill(batch, i, videos, row, clip, None, (part, clips_per_sample), degraded, frame)
        return batch

    steps = -(-int(np.count_nonzero(wanted)) // global_batch)
    return build(make, 0, steps, share, workers=workers, threads=threads)


def example_batches(
    samples: Sequence[Sample],
    rows: np.ndarray,
    *,
    clip: ClipSpec,
    clips_per_sample: int,
    global_batch: int,
    seed: int,
    first_step: int,
    last_step: int,
    augment: str,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = 1,
) -> Iterator[Batch]:
    """Yields this host's share of batches of examples, each with the clips of several samples.

    The arrays of a batch have a second axis of S = V * clips_per_sample slots, view by view: clips
    uint8 [B, S, T, size, size, 3 or 1]; valid, padded, error [B, S]. There are no masks.

    Args:
      rows: int [steps * global_batch, V], the samples of every example; -1 = no sample (the clip is
        zeros).
      augment: "none": the clips of `evaluation_batches`. "crops": random windows and crops as in
        pretraining. "original": random windows and the transform of `original`, always in colour.

    Raises:
      UserError: samples are impossible (raised at once), or a worker dies (raised while iterating).
    """
    share = _share(global_batch, process_count)
    first_position = process_index * share
    videos = _Videos.of(samples, clip)
    if augment == ORIGINAL:  # erasing adds colour
        videos = dataclasses.replace(videos, channels=3)
    slots = rows.shape[1] * clips_per_sample
    rows = rows.astype(np.int32)

    def make(step: int, offset: int, count: int) -> Batch:
        flat = _blank(count * slots, clip, videos.channels)
        first = first_position + offset
        for i in range(count * slots):
            position, slot = divmod(i, slots)
            view, part = divmod(slot, clips_per_sample)
            row = int(rows[step * global_batch + first + position, view])
            if row < 0:
                continue
            rng = None
            if augment != NONE:
                rng = generator(seed, "example", step, first + position, slot)
            _fill(flat, i, videos, row, clip, rng, (part, clips_per_sample), augment=augment)
        return {
            name: flat[name].reshape(count, slots, *flat[name].shape[1:])
            for name in ("clips", "valid", "padded", "error", "sample_ids")
        }

    return build(make, first_step, last_step, share, workers=workers, threads=threads)


def _share(global_batch: int, process_count: int) -> int:
    if global_batch < 1 or global_batch % process_count:
        raise UserError(
            f"a global batch of {global_batch} is not a multiple of the {process_count} hosts: "
            "choose a batch size that is"
        )
    return global_batch // process_count


@dataclasses.dataclass(frozen=True)
class _Videos:
    """The facts of the samples that workers need, as arrays: 50 MB for half a million samples."""

    paths: np.ndarray  # bytes [n]
    frames: np.ndarray  # int32 [n]
    fps: np.ndarray  # float64 [n]
    channels: int  # 1 or 3, the same for all clips

    @classmethod
    def of(cls, samples: Sequence[Sample], clip: ClipSpec) -> "_Videos":
        if not samples:
            raise UserError("there are no samples to read: check the sources and the splits")
        for sample in samples:
            if sample.frames < 1:
                raise UserError(
                    f"{sample.path} has an unknown number of frames: scan the samples first"
                )
            if clip.by in NEED_RATE and not sample.fps > 0:
                raise UserError(
                    f"{sample.path} has no frame rate, which data.sample_by={clip.by} needs: "
                    "use stride"
                )
        return cls(
            np.array([os.fsencode(sample.path) for sample in samples]),
            np.array([sample.frames for sample in samples], np.int32),
            np.array([sample.fps for sample in samples], np.float64),
            channels_of(samples),
        )


def channels_of(samples: Sequence[Sample]) -> int:
    """Channels of the clips of these samples: 1 if all are known to be grey, else 3."""
    return 1 if all(sample.grey for sample in samples) else 3


def _order(
    samples: Sequence[Sample], weights: Mapping[str, float] | None, seed: int
) -> grain.MapDataset[int]:
    """The endless sequence of sample rows, with random access."""
    rows_of: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        rows_of.setdefault(sample.source if weights else "", []).append(row)
    if weights:
        if set(weights) != set(rows_of):
            raise UserError(
                f"'data.weights' names the sources {sorted(weights)}: name those with samples, "
                f"{sorted(rows_of)}"
            )
        if min(weights.values()) <= 0:
            raise UserError(
                "'data.weights' must be positive: remove sources that you do not want to use"
            )
    # The seed depends on the position of a source, not on its name, so moving a data set does not
    # change the order.
    sources = [
        grain.MapDataset.source(np.array(rows))
        .shuffle(seed=int(generator(seed, "order", place).integers(2**32)))
        .repeat()
        for place, rows in enumerate(rows_of.values())
    ]
    return grain.MapDataset.mix(sources, [weights[name] for name in rows_of] if weights else None)


def _training_parts(
    samples: Sequence[Sample],
    clip: ClipSpec,
    masks: Sequence[Mask],
    grid: tuple[int, int, int],
    seed: int,
    global_batch: int,
    first_position: int,
    weights: Mapping[str, float] | None = None,
    padded: str = KEPT,
) -> MakePart:
    """Makes a host's clips with masks; its share begins at `first_position` of a batch."""
    for spec in masks:
        check_mask(spec, grid)
    videos, order = _Videos.of(samples, clip), _order(samples, weights, seed)

    def make(step: int, offset: int, count: int) -> Batch:
        positions = range(first_position + offset, first_position + offset + count)
        batch = _blank(count, clip, videos.channels)
        for i, position in enumerate(positions):
            row = int(order[step * global_batch + position])
            rng = generator(seed, "clip", step, position)
            _fill(batch, i, videos, row, clip, rng, (0, 1))
        context = tuple(np.empty((count, spec.context_tokens), np.int32) for spec in masks)
        targets = tuple(np.empty((count, spec.target_tokens), np.int32) for spec in masks)
        for m, spec in enumerate(masks):
            for i, position in enumerate(positions):
                context[m][i], targets[m][i] = sample_mask(spec, grid, seed, m, step, position)
        batch["context_ids"], batch["target_ids"] = context, targets
        if padded == MASKED:
            batch["frames"] = clip.frames - batch["padded"]
        return batch

    return make


def _with_images(
    make_videos: MakePart, make_images: MakePart, videos: int, images: int
) -> MakePart:
    """Makes clips as `make_videos` does, and the same fraction of this host's images.

    videos, images: numbers of clips and images that this host builds in a step.
    """

    def make(step: int, offset: int, count: int) -> Batch:
        first, last = (place * images // videos for place in (offset, offset + count))
        return make_videos(step, offset, count) | {"images": make_images(step, first, last - first)}

    return make


def _blank(count: int, clip: ClipSpec, channels: int) -> Batch:
    return {
        "clips": np.zeros((count, clip.frames, clip.size, clip.size, channels), np.uint8),
        "context_ids": (),
        "target_ids": (),
        "sample_ids": np.full(count, -1, np.int64),
        "valid": np.zeros(count, bool),
        "padded": np.zeros(count, np.int32),
        "error": np.full(count, "", f"<U{ERROR_CHARACTERS}"),
    }


def _fill(
    batch: Batch,
    i: int,
    videos: _Videos,
    row: int,
    clip: ClipSpec,
    rng: np.random.Generator | None,
    part: tuple[int, int],
    degraded: tuple[Perturbation, str] | None = None,
    shown: tuple[int, int] | None = None,
    augment: str = CROPS,
) -> None:
    """Write the clip of sample `row` to place i of the batch; rng = None makes evaluation clips.

    degraded: a perturbation, and the name of the video. shown: a frame, and the length of the
    tubelet that it is the first one of. augment: see `example_batches`.
    """
    batch["sample_ids"][i] = row
    facts = int(videos.frames[row]), float(videos.fps[row])
    if shown:
        ids, padded, _ = clip_with_frame(*facts, shown[0], tubelet=shown[1], **clip.rule)
    else:
        ids, padded = clip.frame_ids(*facts, rng, part)
    if degraded:
        perturbation, name = degraded
        ids = perturbation.frames(ids, int(videos.frames[row]), name)
    try:
        path, grey = os.fsdecode(videos.paths[row]), videos.channels == 1
        if degraded and perturbation.kind == RECODED:
            video = recoded.clip(path, ids, *facts, grey=grey)
        else:
            video = decode.decode(path, ids, grey=grey)
    except decode.UnreadableVideo as error:
        batch["error"][i] = str(error)[:ERROR_CHARACTERS]
        return
    if degraded:
        video = perturbation.pixels(video, name)
    if rng is not None and augment == ORIGINAL:
        video = original.rand_augment(video, rng)
    height, width = video.shape[1:3]
    if rng is None:
        box = transforms.centre_box(height, width, clip.centre)
    else:
        box = transforms.random_box(height, width, rng, area=clip.area, aspect=clip.aspect)
    transforms.cut(video, box, batch["clips"][i])
    if rng is not None and augment == ORIGINAL:
        original.erase(batch["clips"][i], rng)
    batch["padded"][i] = padded
    batch["valid"][i] = True
