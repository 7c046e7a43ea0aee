"""The training data of a run: its videos and stills, and batches of clips from them."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data import manifest, mixing
from echojepa_jax.data.clips.pipeline import Batch, Images, channels_of, training_batches
from echojepa_jax.data.clips.prefetch import HOST_KEYS
from echojepa_jax.data.clips.sampling import NEED_RATE, clip_frame_ids
from echojepa_jax.data.sample import Sample
from echojepa_jax.parallel import hosts
from echojepa_jax.train.config import clip_spec, image_mask, image_spec, mask_specs
from echojepa_jax.train.state import Networks
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError

log = logging.getLogger(__name__)


class TrainingData(NamedTuple):
    """Samples to train on. facts: their description in manifest.json."""

    videos: list[Sample]
    stills: list[Sample]
    facts: dict[str, Any]

    @property
    def samples(self) -> list[Sample]:
        """Videos, then stills: the numbers of the stills follow those of the videos."""
        return [*self.videos, *self.stills]

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the clips and of the images: 1 if all are grey, else 3."""
        return channels_of(self.videos), channels_of(self.stills)


def load(config: ConfigDict, workdir: Workdir) -> TrainingData:
    """Lists and scans the sources of a config.

    Raises:
      UserError: a source cannot be used, too many videos are too short (F03), or the hosts do not
        see the same files.
    """
    videos, counts = _load_videos(config, workdir)
    stills = _load_stills(config, workdir)
    return TrainingData(videos, stills, counts | _facts_of(videos, stills))


def batches_of(
    config: ConfigDict, data: TrainingData, networks: Networks
) -> Callable[..., Iterator[Batch]]:
    """The function that creates a run's batches: `training_batches` with the fixed arguments set.

    They contain clips only; for a training step with images, add the argument `images` from
    `images_of`.
    """
    clip = clip_spec(config)
    clips = config.optim.epochs * config.optim.updates_per_epoch * config.optim.global_batch
    weights = mixing.weights(config.data, data.videos)
    for line in mixing.describe_mix(data.videos, weights, clips):
        log.info("%s", line)
    return partial(
        training_batches,
        data.videos,
        clip=clip,
        masks=tuple(mask_specs(config).values()),
        grid=networks.encoder.grid(clip.frames, clip.size, clip.size),
        seed=config.seed,
        weights=weights,
        padded=config.data.padded,
    )


def images_of(config: ConfigDict, data: TrainingData, networks: Networks) -> Images | None:
    """The images of the batches of training steps; None without stills."""
    if not data.stills:
        return None
    clip = image_spec(config)
    grid = networks.encoder.grid(clip.frames, clip.size, clip.size)
    return Images(data.stills, clip, image_mask(config), grid, config.images.global_batch)


def fixed_batch(batches_from: Callable[..., Iterator[Batch]], clips: int) -> Batch:
    """The clips on which health is measured, the same for the whole run and on every host.

    Raises:
      UserError: all pixels have the same value, so that decoding must have gone wrong (F02).
    """
    (batch,) = batches_from(global_batch=clips, first_step=0, last_step=1)
    low, high = int(batch["clips"].min()), int(batch["clips"].max())
    log.info("pixels of the first clips are between %d and %d", low, high)
    if low == high:
        raise UserError(
            f"every pixel of the first {clips} clips is {low}: check the files of data.sources"
        )
    return {name: value for name, value in batch.items() if name not in HOST_KEYS}


def take_host_part(batch: Batch, videos: int) -> dict[str, np.ndarray]:
    """Removes from a batch the arrays for logs that stay on the host; see `Watch.step`.

    videos: number of videos; the numbers of the stills follow.
    """
    on_host = {name: batch.pop(name) for name in HOST_KEYS}
    if "images" in batch:
        of_images = {name: batch["images"].pop(name) for name in HOST_KEYS}
        of_images["sample_ids"] = of_images["sample_ids"] + videos
        for name in ("sample_ids", "error"):
            on_host[name] = np.concatenate([on_host[name], of_images[name]])
    return on_host


def _load_videos(config: ConfigDict, workdir: Workdir) -> tuple[list[Sample], dict[str, int]]:
    """The videos and their counts; too many short videos are an error (F03)."""
    data, clip = config.data, clip_spec(config)
    samples = manifest.load(
        data.sources,
        split=data.split,
        quarantine=workdir.quarantine,
        max_bad_share=data.max_bad_share,
        expect_stills=data.expect_stills,
        need_rate=clip.by in NEED_RATE,
        workers=max(1, data.workers),
    )
    short = sum(clip_frame_ids(s.frames, s.fps, None, **clip.rule)[1] > 0 for s in samples)
    log.info("%s, %d shorter than a clip's window", counted(len(samples), "video"), short)
    if short > data.max_padded_share * len(samples):
        raise UserError(
            f"{short} of {len(samples)} videos are shorter than the window that a clip of "
            f"{clip.frames} frames spans, so their clips would end in repeated frames: sample more "
            "densely (data.sample_by, data.sample_value), or raise data.max_padded_share"
        )
    return samples, {"videos": len(samples), "short": short}


def _load_stills(config: ConfigDict, workdir: Workdir) -> list[Sample]:
    """The stills to train on; none without `images` in the config."""
    if "images" not in config:
        return []
    stills = manifest.load(
        config.images.sources,
        split=config.data.split,
        quarantine=workdir.quarantine,
        max_bad_share=config.data.max_bad_share,
        workers=max(1, config.data.workers),
        stills=True,
    )
    log.info("%s", counted(len(stills), "image"))
    return stills


def _facts_of(videos: Sequence[Sample], stills: Sequence[Sample]) -> dict[str, Any]:
    """A description of the data for the manifest.

    Raises:
      UserError: the hosts do not have the same data.
    """

    def by_source(samples: Sequence[Sample]) -> dict[str, int]:
        return dict(sorted(Counter(sample.source for sample in samples).items()))

    fingerprint = manifest.fingerprint([*videos, *stills])
    if not hosts.same_everywhere(fingerprint):
        raise UserError(
            "the hosts do not see the same files under data.sources or images.sources: use a "
            "shared disk, or copy the same files to every host"
        )
    facts: dict[str, Any] = {"fingerprint": fingerprint, "sources": by_source(videos)}
    if stills:
        facts |= {"images": len(stills), "image_sources": by_source(stills)}
    return facts
