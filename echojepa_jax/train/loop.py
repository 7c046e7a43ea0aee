"""The training loop, in named stages."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from echojepa_jax.data.clips.pipeline import Batch
from echojepa_jax.data.clips.prefetch import DeviceBatches
from echojepa_jax.data.sample import Sample
from echojepa_jax.parallel import hosts
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.runtime.signals import Stopped, stop_signal
from echojepa_jax.train import provenance, training_data
from echojepa_jax.train.checkpoint import Checkpoints
from echojepa_jax.train.evaluators import Evaluator, Moment, health
from echojepa_jax.train.examples import save_examples
from echojepa_jax.train.monitor import Watch
from echojepa_jax.train.program import Program, make_program, memory_of
from echojepa_jax.train.start_from import start_from
from echojepa_jax.train.state import TrainState
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.metrics_writer import FILE_NAME, MetricsWriter, read_lines
from echojepa_jax.utils.progress import duration
from echojepa_jax.utils.trees import count_parameters

log = logging.getLogger(__name__)

# Makes the online probe, from the samples that are trained on.
MakeProbe = Callable[[Sequence[Sample]], Evaluator]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: `complete`, or stopped by a signal after `step` steps of `last_step`."""

    complete: bool
    step: int
    last_step: int


def run(config: ConfigDict, workdir: Workdir, make_probe: MakeProbe | None = None) -> Outcome:
    """Trains to the last step, or until a signal asks to stop; continues what is in `workdir`.

    Args:
      config: accepted by `config.check`.
      workdir: claimed for this config.
      make_probe: makes the online probe; None = there is none.

    Raises:
      UserError: the data, the weights or a checkpoint cannot be used, or the loss stays non-finite.
    """
    started = provenance.now()
    last_step = config.optim.epochs * config.optim.updates_per_epoch
    mesh = meshes.make_mesh(replica=config.mesh.replica, fsdp=config.mesh.fsdp)
    data = training_data.load(config, workdir)
    program = make_program(config, mesh, *data.channels)
    batches_from = training_data.batches_of(config, data, program.networks)
    facts = _facts(program, data)
    with ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        keep = config.checkpoint.keep_latest, config.checkpoint.keep_every
        checkpoints = stack.enter_context(Checkpoints(workdir.checkpoints, *keep))
        # Restored before the pipeline starts: the step says where the data continue.
        state = _first_state(program, checkpoints)
        step = first_step = int(state.step)

        # --- what to watch ----------------------------------------------------------------------
        fixed = training_data.fixed_batch(batches_from, health.clips_for(mesh.size))
        evaluators = [make_probe(data.samples)] if make_probe else []
        # Compiled once, ahead of the first step: it cannot be compiled again, and a batch of
        # another shape is an error. Until then a signal ends the program at once.
        compiled = _compiled(program) if first_step < last_step else None
        stop_asked = stack.enter_context(stop_signal())
        writer = MetricsWriter(workdir.path, first_step, config.log.tensorboard, hosts.is_first())
        stack.callback(writer.close)
        if hosts.is_first():
            provenance.record(workdir, facts, program="main", started=started)
            writer.write(first_step, save_examples(workdir.path, fixed, config, program.networks))
        watch = Watch(
            config, workdir.path, writer, data.samples, program.schedules, first_step, last_step
        )
        if config.log.health_every:
            on_devices = partial(meshes.to_global, sharding=meshes.batch_sharding(mesh))
            fixed = jax.tree.map(on_devices, fixed)
            evaluators.insert(0, health.evaluator(config.log.health_every, fixed, mesh.size))

        def measured(state: TrainState, step: int, known: Set[str] = frozenset()) -> bool:
            """Asks the evaluators that are due; returns False if a signal came before the end."""
            moment = Moment(step, state, program.networks, step == last_step, stop_asked)
            for evaluator in evaluators:
                if evaluator.name not in known and evaluator.is_due(moment):
                    try:
                        watch.measured(step, evaluator.measure(moment))
                    except Stopped:
                        return False
            return True

        def save(state: TrainState, step: int) -> None:
            watch.flush()
            # First: a checkpoint without its metrics and manifest could not be continued.
            workdir.publish()
            checkpoints.save(step, state.parts())

        # --- the loop ---------------------------------------------------------------------------
        batches = stack.enter_context(_batches(config, program, data, batches_from, first_step))
        flags = _stop_flags(config, mesh)
        # A run may have been killed after the checkpoint and before its measures.
        go_on = step == last_step or measured(state, step, _known(workdir, step))
        while step < last_step and go_on:
            batch = next(batches)
            on_host = training_data.take_host_part(batch, len(data.videos))
            assert compiled is not None, "there are steps to make"
            state, metrics = compiled(state, batch | {"stop": flags[stop_asked()]})
            step += 1
            go_on = not watch.step(step, metrics, on_host, batches.wait_seconds)
            if step % config.checkpoint.every == 0 or step == last_step:
                save(state, step)
            if step < last_step and go_on:
                go_on = measured(state, step)
        save(state, step)
        checkpoints.wait()
        complete = step == last_step and measured(state, step)
    return Outcome(complete, step, last_step)


def _facts(program: Program, data: training_data.TrainingData) -> dict[str, Any]:
    """What manifest.json says of a run; the log says it as well."""
    mesh = program.mesh
    parameters = {name: count_parameters(tree) for name, tree in program.state.params.items()}
    log.info(
        "mesh: %d x %d %s devices (replica x fsdp), attention by %s",
        *mesh.devices.shape,
        meshes.platform_of(mesh),
        program.networks.encoder.attention,
    )
    log.info("parameters: %s", ", ".join(f"{k} {v:,}" for k, v in parameters.items()))
    return {"data": data.facts, "parameters": parameters, "mesh": dict(mesh.shape)}


def _first_state(program: Program, checkpoints: Checkpoints) -> TrainState:
    """The state of the latest checkpoint, or a new one, made where it will live."""
    restored = checkpoints.restore_latest(program.state.parts())
    if restored is not None:
        state = TrainState.of(restored)
        log.info("continuing after step %d", state.step)
        return state
    state = program.init()
    if program.config.init["from"]:
        state = start_from(program.config, program.networks, state)
    return state


def _compiled(program: Program) -> Any:
    """The step for its devices; says how much memory it needs before anything is lost (F24)."""
    log.info("compiling the step")
    started = time.perf_counter()
    compiled = program.compile()
    took = duration(time.perf_counter() - started)
    log.info("compiled in %s; a device needs %.3g GB", took, memory_of(compiled) / 1e9)
    return compiled


def _batches(
    config: ConfigDict,
    program: Program,
    data: training_data.TrainingData,
    batches_from: Callable[..., Iterator[Batch]],
    first_step: int,
) -> DeviceBatches:
    """The batches of the steps after `first_step`, moved to the devices ahead of them."""
    return DeviceBatches(
        batches_from(
            global_batch=config.optim.global_batch,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=config.data.workers,
            first_step=first_step,
            last_step=config.optim.epochs * config.optim.updates_per_epoch,
            images=training_data.images_of(config, data, program.networks),
        ),
        meshes.batch_sharding(program.mesh),
    )


def _stop_flags(config: ConfigDict, mesh: Mesh) -> dict[bool, jax.Array]:
    """By whether this host is asked to stop: what its part of a batch says.

    It travels with the batch, so that all hosts know it after the same step.
    """
    share = config.optim.global_batch // jax.process_count()
    return {asked: meshes.global_batch(np.full(share, asked), mesh) for asked in (False, True)}


def _known(workdir: Workdir, step: int) -> set[str]:
    """The evaluators whose measures of this step are in the metrics already."""
    lines = read_lines(workdir.path / FILE_NAME)
    return {name.split("/")[0] for line in lines if line["step"] == step for name in line}
