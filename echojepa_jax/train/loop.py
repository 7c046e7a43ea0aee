"""The training loop, in named stages."""

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data import manifest, mixing
from echojepa_jax.data.clips.pipeline import Batch, Images, channels_of, training_batches
from echojepa_jax.data.clips.prefetch import HOST_KEYS, DeviceBatches
from echojepa_jax.data.clips.sampling import NEED_RATE, ClipSpec, clip_frame_ids
from echojepa_jax.data.sample import Sample
from echojepa_jax.parallel import hosts
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.runtime.signals import Stopped, stop_signal
from echojepa_jax.train import health, provenance
from echojepa_jax.train.checkpoint import Checkpoints
from echojepa_jax.train.config import clip_spec, image_mask, image_spec, mask_specs
from echojepa_jax.train.examples import save_examples
from echojepa_jax.train.load_weights import load_weights, shapes_of
from echojepa_jax.train.monitor import Watch
from echojepa_jax.train.program import Program, make_program, memory_of
from echojepa_jax.train.state import Networks, TrainState
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.metrics_writer import FILE_NAME, MetricsWriter, Values, read_lines
from echojepa_jax.utils.progress import duration
from echojepa_jax.utils.trees import count_parameters
from echojepa_jax.weights.pretrained import Pretrained

log = logging.getLogger(__name__)

HEALTH_CLIPS = 64

# (step, networks, the encoder's parameters, last step?, asked to stop?) -> what to log, or
# Stopped.
Evaluate = Callable[[int, Networks, Any, bool, Callable[[], bool]], Values]
# Gets ready to evaluate, once the samples to train on are known.
MakeEvaluate = Callable[[Sequence[Sample]], Evaluate]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: `complete`, or stopped by a signal after `step` steps of `last_step`."""

    complete: bool
    step: int
    last_step: int


def run(config: ConfigDict, workdir: Workdir, make_evaluate: MakeEvaluate | None = None) -> Outcome:
    """Trains to the last step, or until a signal asks to stop; continues what is in `workdir`.

    Args:
      config: accepted by `config.check`.
      workdir: claimed for this config.
      make_evaluate: its result is called every `probe.every` steps and after the last one.

    Raises:
      UserError: the data, the weights or a checkpoint cannot be used, or the loss stays non-finite.
    """
    started = provenance.now()
    last_step = config.optim.epochs * config.optim.updates_per_epoch
    mesh = meshes.make_mesh(replica=config.mesh.replica, fsdp=config.mesh.fsdp)
    clip, masks = clip_spec(config), mask_specs(config)

    # --- data ---------------------------------------------------------------------------------
    samples, data_facts = _load_data(config, workdir, clip)
    weights = mixing.weights(config.data, samples)
    for line in mixing.describe_mix(samples, weights, last_step * config.optim.global_batch):
        log.info("%s", line)
    stills = _load_stills(config, workdir)
    everything = [*samples, *stills]
    data_facts |= _facts_of(samples, stills)
    program = make_program(config, mesh, channels_of(samples), channels_of(stills))
    networks = program.networks
    grid = networks.encoder.grid(clip.frames, clip.size, clip.size)
    images = _images(config, stills, networks) if stills else None
    log.info(
        "mesh: %d x %d %s devices (replica x fsdp), attention by %s",
        *mesh.devices.shape,
        meshes.platform_of(mesh),
        networks.encoder.attention,
    )
    batches_from = partial(
        training_batches,
        samples,
        clip=clip,
        masks=tuple(masks.values()),
        grid=grid,
        seed=config.seed,
        weights=weights,
        padded=config.data.padded,
    )

    # --- state, initialised where it will live --------------------------------------------------
    parameters = {name: count_parameters(tree) for name, tree in program.state.params.items()}
    log.info("parameters: %s", ", ".join(f"{k} {v:,}" for k, v in parameters.items()))

    with ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir.checkpoints,
                config.checkpoint.keep_latest,
                config.checkpoint.keep_every,
            )
        )
        # Restored before the pipeline starts: the step says where the data continue.
        restored = checkpoints.restore_latest(program.state.parts())
        if restored is not None:
            state = TrainState.of(restored)
            log.info("continuing after step %d", state.step)
        else:
            state = program.init()
            if config.init["from"]:
                state = _start_from(config, networks, state)
        first_step = int(state.step)

        # --- what to watch ----------------------------------------------------------------------
        fixed = _fixed_batch(batches_from, _health_clips(mesh.size))
        evaluate = make_evaluate(everything) if make_evaluate else None
        # Compiled once, ahead of the first step: it cannot be compiled again, and a batch of
        # another shape is an error. Until then a signal ends the program at once.
        compiled = _compiled(program) if first_step < last_step else None
        stop_asked = stack.enter_context(stop_signal())
        if hosts.is_first():
            facts = {"data": data_facts, "parameters": parameters, "mesh": dict(mesh.shape)}
            provenance.record(workdir, facts, program="main", started=started)
        writer = MetricsWriter(workdir.path, first_step, config.log.tensorboard, hosts.is_first())
        stack.callback(writer.close)
        if hosts.is_first():
            writer.write(first_step, save_examples(workdir.path, fixed, grid, masks, config.seed))
        schedules = program.schedules
        watch = Watch(config, workdir.path, writer, everything, schedules, first_step, last_step)
        fixed = jax.tree.map(partial(meshes.to_global, sharding=meshes.batch_sharding(mesh)), fixed)
        batches = stack.enter_context(
            DeviceBatches(
                batches_from(
                    global_batch=config.optim.global_batch,
                    process_index=jax.process_index(),
                    process_count=jax.process_count(),
                    workers=config.data.workers,
                    first_step=first_step,
                    last_step=last_step,
                    images=images,
                ),
                meshes.batch_sharding(mesh),
            )
        )
        # Whether this host, or another, is asked to stop travels with the batch, so that all of
        # them know it after the same step.
        share = config.optim.global_batch // jax.process_count()
        stop_flags = {
            asked: meshes.global_batch(np.full(share, asked), mesh) for asked in (False, True)
        }

        def look(step: int, last: bool, known: Set[str] = frozenset()) -> bool:
            """Measures that need the encoder: at the start, every so often, and at the end.

            Returns whether a signal asked to stop before they were made.
            """
            every = config.log.health_every
            if every and "health" not in known and (last or step % every == 0):
                # One clip a device at a time: ViT-g would need 70 GB for the scores of 64.
                parts = len(fixed["clips"]) // mesh.size
                watch.health(step, health.measure(state, fixed, networks=networks, parts=parts))
            every = config.probe.every
            due = last or (every and step and step % every == 0)
            if evaluate and "probe" not in known and due:
                try:
                    scores = evaluate(step, networks, state.encoder, last, stop_asked)
                except Stopped:
                    return True
                writer.write(step, scores)
            return False

        # --- the loop ---------------------------------------------------------------------------
        step, stopped = first_step, False
        if step < last_step:
            # A run may have been killed after the checkpoint and before its measures.
            lines = read_lines(workdir.path / FILE_NAME)
            known = {name.split("/")[0] for line in lines if line["step"] == step for name in line}
            stopped = look(step, last=False, known=known)
        while step < last_step and not stopped:
            batch = next(batches)
            on_host = _on_host(batch, len(samples))
            assert compiled is not None, "there are steps to make"
            state, metrics = compiled(state, batch | {"stop": stop_flags[stop_asked()]})
            step += 1
            stopped = watch.step(step, metrics, on_host, batches.wait_seconds)
            if step % config.checkpoint.every == 0 or step == last_step:
                watch.flush()
                # First: a checkpoint without its metrics and manifest could not be continued.
                workdir.publish()
                checkpoints.save(step, state.parts())
            if step < last_step and not stopped:
                stopped = look(step, last=False)
        watch.flush()
        workdir.publish()
        checkpoints.save(step, state.parts())
        checkpoints.wait()
        if step < last_step:
            return Outcome(False, step, last_step)

        # --- the end ----------------------------------------------------------------------------
        stopped = look(step, last=True)
    return Outcome(not stopped, step, last_step)


def _compiled(program: Program) -> Any:
    """The step for its devices; says how much memory it needs before anything is lost (F24)."""
    log.info("compiling the step")
    started = time.perf_counter()
    compiled = program.compile()
    took = duration(time.perf_counter() - started)
    log.info("compiled in %s; a device needs %.3g GB", took, memory_of(compiled) / 1e9)
    return compiled


def _load_data(config: ConfigDict, workdir: Workdir, clip: ClipSpec) -> tuple[Any, dict[str, Any]]:
    """The samples to train on and facts about them; too many short videos are an error (F03)."""
    data = config.data
    samples = manifest.load(
        data.sources,
        split=data.split,
        quarantine=workdir.quarantine,
        max_bad_share=data.max_bad_share,
        expect_stills=data.expect_stills,
        need_rate=clip.by in NEED_RATE,
        workers=max(1, data.workers),
    )
    short = sum(
        clip_frame_ids(s.frames, s.fps, None, length=clip.frames, by=clip.by, value=clip.value)[1]
        > 0
        for s in samples
    )
    log.info("%d videos, %d of them shorter than a clip's window", len(samples), short)
    if short > data.max_padded_share * len(samples):
        raise UserError(
            f"{short} of {len(samples)} videos are shorter than the window that a clip of "
            f"{clip.frames} frames spans, and would end in frozen frames: sample more densely "
            "(data.sample_by, data.sample_value), or raise data.max_padded_share"
        )
    return samples, {"videos": len(samples), "short": short}


def _load_stills(config: ConfigDict, workdir: Workdir) -> list[Sample]:
    """The still pictures to train on; none without `images` in the config."""
    if "images" not in config:
        return []
    stills = manifest.load_stills(
        config.images.sources,
        split=config.data.split,
        quarantine=workdir.quarantine,
        max_bad_share=config.data.max_bad_share,
        workers=max(1, config.data.workers),
    )
    log.info("%d images", len(stills))
    return stills


def _images(config: ConfigDict, stills: Sequence[Sample], networks: Networks) -> Images:
    """What every batch holds of the stills."""
    clip = image_spec(config)
    grid = networks.encoder.grid(clip.frames, clip.size, clip.size)
    return Images(stills, clip, image_mask(config), grid, config.images.global_batch)


def _facts_of(videos: Sequence[Sample], stills: Sequence[Sample]) -> dict[str, Any]:
    """What the data are, for the manifest.

    Raises:
      UserError: another host has others.
    """

    def by_source(samples: Sequence[Sample]) -> dict[str, int]:
        return dict(sorted(Counter(sample.source for sample in samples).items()))

    fingerprint = manifest.fingerprint([*videos, *stills])
    if not hosts.same_everywhere(fingerprint):
        raise UserError(
            "the hosts do not see the same files under data.sources or images.sources: every host "
            "must find the same ones, with the same content"
        )
    facts: dict[str, Any] = {"fingerprint": fingerprint, "sources": by_source(videos)}
    if stills:
        facts |= {"images": len(stills), "image_sources": by_source(stills)}
    return facts


def _on_host(batch: Batch, videos: int) -> dict[str, np.ndarray]:
    """Takes out of a batch what stays on the host, for logs and quarantine; see `Watch.step`.

    videos: samples that are no stills; the numbers of the stills count on from there.
    """
    on_host = {name: batch.pop(name) for name in HOST_KEYS}
    if "images" in batch:
        of_images = {name: batch["images"].pop(name) for name in HOST_KEYS}
        of_images["sample_ids"] = of_images["sample_ids"] + videos
        for name in ("sample_ids", "error"):
            on_host[name] = np.concatenate([on_host[name], of_images[name]])
    return on_host


def _start_from(config: ConfigDict, networks: Networks, state: TrainState) -> TrainState:
    """Other weights under a fresh step, optimizer and schedules (cooldown, or a new data set).

    The encoder goes to both context and target encoder, where `init.from` does not tell two.

    Raises:
      UserError: there are no such weights, or they are of another architecture.
    """
    path = config.init["from"]
    shape, predictor = shapes_of(networks)
    weights = load_weights(
        path, config.init.step, heads=shape.heads, predictor_heads=predictor.heads
    )
    _check_shapes(path, weights, networks)
    encoder = weights.params["encoder"]
    found = {"encoder": weights.params.get("context_encoder", encoder)}
    said = f"all {count_parameters(encoder):,} parameters of the encoder"
    if "context_encoder" in weights.params:
        said += "s, context and target,"
    if "predictor" in weights.params:
        loaded, fresh = dict(weights.params["predictor"]), {}
        if weights.predictor_shape and weights.predictor_shape.out_width:
            for name in ("proj", "proj_context"):
                del loaded[name]
                fresh[name] = state.params["predictor"][name]
            log.info(
                "the predictor of %s predicts %d channels, like the larger encoder that it "
                "was distilled from: its last layers start from random weights",
                path,
                weights.predictor_shape.out_width,
            )
        found["predictor"] = loaded | fresh
        said += f" and {count_parameters(loaded):,} of the predictor"
    else:
        said += "; the predictor starts from random weights, as there is none"
    training = f" ({weights.origin['training']})" if "training" in weights.origin else ""
    log.info("started from %s%s: %s", path, training, said)
    # To where the fresh ones live, on any mesh; every host has read them all.
    params, target = jax.tree.map(
        lambda new, fresh: (
            new if new is fresh else meshes.to_global(np.asarray(new), fresh.sharding)
        ),
        (state.params | found, encoder if networks.objective.has_target else {}),
        (state.params, state.target.ema),
    )
    return dataclasses.replace(state, params=params, target=state.target._replace(ema=target))


def _check_shapes(path: str, weights: Pretrained, networks: Networks) -> None:
    """Raises UserError, naming the fields, unless the weights are of this architecture."""
    if "encoder" not in weights.params:
        raise UserError(f"{path} holds no encoder, which 'init.from' needs")
    shape, predictor = shapes_of(networks)
    pairs: list[tuple[str, Any, Any]] = [("model", weights.shape, shape)]
    if "predictor" in weights.params:
        pairs.append(("predictor", weights.predictor_shape, predictor))
    named = {"predictor.levels": "objective.levels"}  # where a config says it
    differ = [
        f"{named.get(f'{section}.{field}', f'{section}.{field}')} is {mine} here and "
        f"{vars(theirs)[field]} there"
        for section, theirs, ours in pairs
        for field, mine in vars(ours).items()
        # The last layers of a distilled model's predictor are made anew.
        if mine != vars(theirs)[field] and field != "out_width"
    ]
    if weights.shape.family != shape.family:
        raise UserError(
            f"{path} (config field 'init.from') is of family {weights.shape.family}, and this "
            f"config of family {shape.family}: set model.family, or choose other weights"
        )
    if differ:
        raise UserError(
            f"{path} (config field 'init.from') does not fit this config's model: "
            f"{', '.join(differ)}"
        )


def _health_clips(devices: int) -> int:
    """About HEALTH_CLIPS, the same number for every device."""
    return devices * max(1, HEALTH_CLIPS // devices)


def _fixed_batch(batches_from: Callable[..., Iterator[Batch]], clips: int) -> Batch:
    """The clips that health is measured on: the same ones for the whole run, on every host.

    Raises:
      UserError: the clips are one flat grey, so that something in front of them went wrong (F02).
    """
    (batch,) = batches_from(global_batch=clips, first_step=0, last_step=1)
    low, high = int(batch["clips"].min()), int(batch["clips"].max())
    log.info("pixels of the first clips lie in %d..%d", low, high)
    if low == high:
        raise UserError(
            f"every pixel of the first {clips} clips is {low}: look at the files of data.sources"
        )
    return {name: value for name, value in batch.items() if name not in HOST_KEYS}
