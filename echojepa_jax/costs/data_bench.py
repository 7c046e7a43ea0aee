"""Measuring the input pipeline alone: each stage on one core, then all of it as in training."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data import manifest
from echojepa_jax.data.clips import transforms
from echojepa_jax.data.clips.pipeline import channels_of, training_batches
from echojepa_jax.data.clips.prefetch import DeviceBatches
from echojepa_jax.data.clips.sampling import NEED_RATE, clip_frame_ids
from echojepa_jax.data.formats import decode, video_record
from echojepa_jax.data.formats.video_info import wanted_frames
from echojepa_jax.masking.masks import sample_mask
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.config import clip_spec, mask_specs
from echojepa_jax.train.state import make_networks
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.rng import generator

_STAGE_BATCH = 8  # clips that go to the device together, when stages are measured


def measure(
    config: ConfigDict, clips: int, say: Callable[[str], None], decord: bool = False
) -> dict[str, Any]:
    """Clips per second of the config's input pipeline, and of its stages on one core.

    Args:
      clips: to make at least, for the stages and for the whole.
      decord: read the same frames with decord as well, in turn.

    Raises:
      UserError: the source cannot be read, or decord is not there or cannot read it.
    """
    spec, masks = clip_spec(config), mask_specs(config)
    grid = make_networks(config).encoder.grid(spec.frames, spec.size, spec.size)
    samples = manifest.load(
        config.data.sources,
        split=config.data.split,
        quarantine=None,
        max_bad_share=config.data.max_bad_share,
        expect_stills=config.data.expect_stills,
        need_rate=spec.by in NEED_RATE,
        workers=max(1, config.data.workers),
    )
    say(f"{counted(len(samples), 'video')}; {counted(clips, 'clip')}, stage by stage")
    # A shard gives the bytes of a record; any other file is read while it is decoded.
    shards = all(video_record.is_record(sample.path) for sample in samples)
    reading = ("read", "JPEG") if shards else ("read and decode",)
    seconds = dict.fromkeys((*reading, "crop and resize", "masks", "batch", "to the device"), 0.0)
    channels = channels_of(samples)
    read_with_decord = _decord(shards) if decord else None
    theirs = 0.0

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[stage] += time.perf_counter() - started

    clip = np.zeros((spec.frames, spec.size, spec.size, channels), np.uint8)
    batch_of = np.zeros((_STAGE_BATCH, *clip.shape), np.uint8)
    for i in range(clips):
        sample = samples[i % len(samples)]
        rng = generator(config.seed, "bench", i)
        ids, _ = clip_frame_ids(sample.frames, sample.fps, rng, **spec.rule)
        if shards:
            with timed("read"):
                record = video_record.fetch(sample.path)
            with timed("JPEG"):
                wanted, rows = wanted_frames(ids)
                frames = list(video_record.decode_frames(record, wanted.tolist()))
                video = decode.stacked(frames, rows, grey=channels == 1)
        else:
            with timed("read and decode"):
                video = decode.decode(sample.path, ids, grey=channels == 1)
        if read_with_decord:
            started = time.perf_counter()
            read_with_decord(sample.path, ids)
            theirs += time.perf_counter() - started
        with timed("crop and resize"):
            height, width = video.shape[1:3]
            box = transforms.random_box(height, width, rng, area=spec.area, aspect=spec.aspect)
            transforms.cut(video, box, clip)
        with timed("masks"):
            for m, mask in enumerate(masks.values()):
                sample_mask(mask, grid, config.seed, m, 0, i)
        with timed("batch"):
            batch_of[i % _STAGE_BATCH] = clip
        if i % _STAGE_BATCH == _STAGE_BATCH - 1:
            with timed("to the device"):
                jax.device_put(batch_of).block_until_ready()

    mesh = meshes.make_mesh(jax.local_devices())
    batch = config.optim.global_batch
    # The first batches are made while the workers start, and some are made ahead: those are let
    # pass before the clock starts.
    ahead = 3
    steps = ahead + max(3, -(-clips // batch))
    batches = training_batches(
        samples,
        clip=spec,
        masks=tuple(masks.values()),
        grid=grid,
        seed=config.seed,
        global_batch=batch,
        first_step=0,
        last_step=steps,
        workers=config.data.workers,
    )
    workers = counted(config.data.workers, "worker")
    say(f"{counted(steps, 'batch')} of {counted(batch, 'clip')} by {workers}")
    with DeviceBatches(batches, meshes.batch_sharding(mesh), ahead=1) as on_device:
        for made, on_its_way in enumerate(on_device, start=1):
            jax.block_until_ready(on_its_way["clips"])
            if made == ahead:
                started = time.perf_counter()
        rate = (steps - ahead) * batch / (time.perf_counter() - started)
    reads = sum(seconds[stage] for stage in reading)
    compared = {}
    if read_with_decord:
        compared = {
            "decord_clips_per_second": clips / theirs,
            # The other stages cost the same with both readers.
            "decord_stages_together": clips / (sum(seconds.values()) - reads + theirs),
        }
    cores = max(1, min(config.data.workers, os.cpu_count() or 1))
    return {
        "videos": len(samples),
        "clip": f"{spec.frames} x {spec.size} x {spec.size} x {channels}",
        "stages_clips_per_second": {n: clips / spent for n, spent in seconds.items() if spent},
        "stages_together": clips / sum(seconds.values()),
        **compared,
        "clips_per_second": rate,
        "workers": config.data.workers,
        "cores": cores,
        "clips_per_second_per_core": rate / cores,
    }


def _decord(shards: bool) -> Callable[[str, np.ndarray], np.ndarray]:
    """What reads frames as the original code does: a reader for each clip, all frames at once."""
    if shards:
        raise UserError("--compare=decord reads video files: name a source of them, no shards")
    try:
        import decord
    except ImportError as error:
        raise UserError(f"--compare=decord: {error}; pip install decord") from error

    def read(path: str, ids: np.ndarray) -> np.ndarray:
        try:
            reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            return np.asarray(reader.get_batch(ids).asnumpy())
        except decord.DECORDError as error:
            raise UserError(f"--compare=decord: decord cannot read {path}") from error

    return read


def table(found: dict[str, Any]) -> str:
    """The measurements as text."""
    stages = found["stages_clips_per_second"]
    videos, workers = counted(found["videos"], "video"), counted(found["workers"], "worker")
    lines = [f"{videos}, clips of {found['clip']}", "", "on one core, clips/s"]
    lines += [f"  {name:<18}{rate:12.1f}" for name, rate in stages.items()]
    lines += [f"  {'together':<18}{found['stages_together']:12.1f}", ""]
    if "decord_clips_per_second" in found:
        lines += [
            f"  {'decord, reading':<18}{found['decord_clips_per_second']:12.1f}",
            f"  {'with all stages':<18}{found['decord_stages_together']:12.1f}",
            "",
        ]
    lines.append(
        f"the pipeline with {workers}: {found['clips_per_second']:.1f} clips/s, "
        f"{found['clips_per_second_per_core']:.1f} a core"
    )
    return "\n".join(lines)


def as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2) + "\n"
