"""The training step of a config on a mesh: networks, optimizer, shardings and compiled programs.

It is built from shapes alone, so that the exact program of a run can be compiled ahead of time for
devices that are not attached (plan), or run on random clips (bench).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from echojepa_jax.data.clips.sampling import MASKED, ClipSpec
from echojepa_jax.masking.masks import Mask
from echojepa_jax.ops.attention import choose_backend
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.config import clip_spec, image_mask, image_spec, mask_specs
from echojepa_jax.train.state import (
    Networks,
    Schedules,
    TrainState,
    init_params,
    make_networks,
    make_optimizer,
    make_schedules,
    new_state,
)
from echojepa_jax.train.step import Batch, train_step

# Compiler settings of this step, by platform. Add new ones here, with a measurement.
COMPILER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "cpu": {},
    # Collectives overlap with computation.
    "gpu": {"xla_gpu_enable_latency_hiding_scheduler": True},
    # The TPU compiler overlaps them by default.
    "tpu": {},
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A training step that is ready to be compiled.

    state, batch: shapes, types and shardings of the step's two arguments.
    """

    config: ConfigDict
    mesh: Mesh
    networks: Networks
    schedules: Schedules
    state: TrainState
    batch: Batch
    _fresh: Any
    _step: Any

    def init(self) -> TrainState:
        """The state before the first step; every device creates only its own part."""
        return self.compile_init()(jax.random.key(self.config.seed))

    def compile_init(self) -> jax.stages.Compiled:
        """Compiles the function that creates this state from a random key."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        with jax.set_mesh(self.mesh):
            key = jax.eval_shape(lambda: jax.random.key(0))
            return jax.jit(self._fresh, out_shardings=shardings).lower(key).compile()

    def lower(self) -> jax.stages.Lowered:
        """The traced step, (state, batch) -> (state, metrics); it donates the given state."""
        with jax.set_mesh(self.mesh):
            return self._step.lower(self.state, self.batch)

    def compile(self) -> jax.stages.Compiled:
        """The compiled step; a batch of another shape is an error."""
        options = COMPILER_OPTIONS[meshes.platform_of(self.mesh)]
        with jax.set_mesh(self.mesh):
            return self.lower().compile(compiler_options=dict(options))


def make_program(
    config: ConfigDict, mesh: Mesh, channels: int = 3, image_channels: int = 3
) -> Program:
    """The step of a config that `config.check` has accepted.

    Args:
      channels, image_channels: of clips and images, see `pipeline.channels_of`.

    Raises:
      UserError: the attention backend does not run on this platform.
    """
    # Parameters are initialised with a single clip, which kernels cannot split over many devices.
    plain = make_networks(config)
    networks = make_networks(config, attention_of(config, plain, meshes.platform_of(mesh)))
    schedules = make_schedules(config)
    init = partial(init_params, plain, frames=config.data.frames, size=config.data.size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(mesh):  # as in `compile_init`, which would trace it again otherwise
        optimizer = make_optimizer(config, jax.eval_shape(init, key), schedules)

        def fresh(key: jax.Array) -> TrainState:
            return new_state(init(key), optimizer)

        shapes = jax.eval_shape(fresh, key)
    shardings = meshes.state_shardings(mesh, shapes)
    meshes.warn_of_unsharded(mesh, shapes, shardings)
    step = jax.jit(
        partial(
            train_step,
            networks=networks,
            optimizer=optimizer,
            microbatches=config.optim.microbatches,
        ),
        donate_argnums=0,
        out_shardings=(shardings, meshes.replicated(mesh)),
    )
    state = jax.tree.map(_placed, shapes, shardings)
    on_devices = partial(_placed, sharding=meshes.batch_sharding(mesh))
    batch = jax.tree.map(on_devices, shapes_of(config, channels, image_channels))
    return Program(config, mesh, networks, schedules, state, batch, fresh, step)


def initial_params(config: ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """Only the parameters before the first step; every device creates its own part."""
    networks, data = make_networks(config), config.data
    init = partial(init_params, networks, frames=data.frames, size=data.size)
    key = jax.random.key(config.seed)
    shardings = meshes.state_shardings(mesh, jax.eval_shape(init, key))
    with jax.set_mesh(mesh):
        return jax.jit(init, out_shardings=shardings)(key)


def attention_of(config: ConfigDict, networks: Networks, platform: str) -> str:
    """The attention backend of a config on a platform.

    Raises:
      UserError: it does not run there.
    """
    parts = (networks.encoder, networks.predictor)
    head_dims = [network.width // network.heads for network in parts]
    return choose_backend(config.model.attention, platform, config.model.dtype, head_dims)


def _placed(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def memory_of(compiled: jax.stages.Compiled) -> int:
    """Bytes that a compiled step needs on one device: state, batch and temporaries."""
    memory: Any = compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs


def shapes_of(config: ConfigDict, channels: int = 3, image_channels: int = 3) -> Batch:
    """Shapes of the arrays of a global batch on the devices; see data/pipeline.py."""
    count = config.optim.global_batch
    specs = tuple(mask_specs(config).values())
    batch = _shapes(count, clip_spec(config), specs, channels)
    batch["stop"] = batch["valid"]
    if config.data.padded == MASKED:
        batch["frames"] = jax.ShapeDtypeStruct((count,), jnp.int32)
    if "images" in config:
        clip, specs = image_spec(config), (image_mask(config),)
        batch["images"] = _shapes(config.images.global_batch, clip, specs, image_channels)
    return batch


def _shapes(count: int, clip: ClipSpec, masks: Sequence[Mask], channels: int) -> Batch:
    def ids(lengths: Iterable[int]) -> tuple[jax.ShapeDtypeStruct, ...]:
        return tuple(jax.ShapeDtypeStruct((count, length), jnp.int32) for length in lengths)

    pixels = (count, clip.frames, clip.size, clip.size, channels)
    return {
        "clips": jax.ShapeDtypeStruct(pixels, jnp.uint8),
        "context_ids": ids(mask.context_tokens for mask in masks),
        "target_ids": ids(mask.target_tokens for mask in masks),
        "valid": jax.ShapeDtypeStruct((count,), jnp.bool_),
    }
