"""The same steps on any mesh, and nothing on the wire but parameters and gradients."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from echojepa_jax.costs.bench import random_batch
from echojepa_jax.costs.collectives import collectives
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.program import initial_params, make_program
from tests.makers.shapes import both_shapes, sizes_of

pytestmark = pytest.mark.slow

STEPS = 5


# Two layers of everything, a width that 8 devices can share, and a batch of 16.
SHARED = {
    "model__width": 64,
    "model__mlp_hidden": 128,
    "predictor__width": 32,
    "predictor__mlp_hidden": 64,
    "optim__global_batch": 16,
    "model__scan_layers": True,
    "model__remat": "attention",
}


@pytest.fixture
def config(tiny):
    return tiny(**SHARED)


@pytest.fixture
def levels_and_images(tiny_images):
    """V-JEPA 2.1 with all it has."""
    objective = {"levels": 4, "by_distance": True, "context_ramp": (0, STEPS)}
    objective = {f"objective__{name}": value for name, value in objective.items()}
    more = {"model__depth": 4, "data__padded": "masked", "optim__microbatches": 2}
    # AdamW divides a gradient by its size: with a small eps, one that is 0 but for rounding moves
    # a parameter as far as any other.
    more["optim__eps"] = 1e-6
    return tiny_images(**SHARED, **objective, **more)


@pytest.fixture(scope="module")
def compiled():
    """The program of a config on a mesh, and its compiled step; tests share them."""
    made = {}

    def make(config, devices, replica, fsdp):
        key = repr(config), devices, replica, fsdp
        if key not in made:
            mesh = meshes.make_mesh(jax.devices()[:devices], replica, fsdp)
            program = make_program(config, mesh)
            made[key] = program, program.compile()
        return made[key]

    return make


def trained(config, program, step):
    """Losses and the state after a few steps of a program."""
    state, losses = program.init(), []
    for seed in range(STEPS):
        batch = jax.device_put(random_batch(config, seed), meshes.batch_sharding(program.mesh))
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(dataclasses.astuple(state)), state


@pytest.mark.parametrize(
    ("which", "shapes"),
    [
        ("config", ((8, 1), (2, 4), (1, 8))),
        # It is laid out by the same rules; compiling it takes three times as long.
        ("levels_and_images", ((2, 4),)),
    ],
)
def test_every_mesh_gives_the_same_parameters(which, shapes, compiled, request):
    config = request.getfixturevalue(which)
    wanted_losses, wanted, _ = trained(config, *compiled(config, 1, 1, 1))
    for replica, fsdp in shapes:
        losses, found, state = trained(config, *compiled(config, 8, replica, fsdp))
        np.testing.assert_allclose(losses, wanted_losses, atol=1e-5)
        for mine, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-5)
        kernel = state.target.ema["stack"]["blocks"]["mlp"]["fc1"]["kernel"]
        depth = config.model.depth
        assert kernel.addressable_shards[0].data.shape == (depth, 64 // fsdp, 128)
        norms = state.opt_state[1].nu["encoder"]
        scale = norms["norm" if which == "config" else "norm3"]["scale"]
        assert scale.addressable_shards[0].data.shape == (64 // fsdp,)


def bytes_on_a_device(program):
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(program.state)
    )


def test_the_state_is_never_whole_on_a_device_and_never_twice(config, compiled):
    # A step writes the new state where the old one was.
    program, step = compiled(config, 8, 1, 8)
    mine = bytes_on_a_device(program)
    assert step.memory_analysis().alias_size_in_bytes == pytest.approx(mine, rel=0.01)
    config.model.width = 512  # so that parameters outweigh what they are drawn with
    config.model.mlp_hidden = 1024
    program = make_program(config, program.mesh)
    largest = max(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.state))
    making = program.compile_init().memory_analysis()
    assert making.output_size_in_bytes == pytest.approx(bytes_on_a_device(program), rel=0.01)
    assert making.temp_size_in_bytes < largest
    # The yardstick of the online probe is made in the same way.
    for leaf in jax.tree.leaves(initial_params(config, program.mesh)):
        assert leaf.addressable_shards[0].data.size <= max(leaf.size // 8, 512)


@pytest.mark.parametrize(
    ("which", "scan", "microbatches"),
    [("config", True, 1), ("config", False, 2), ("levels_and_images", True, 2)],
)
def test_only_parameters_and_gradients_are_sent(which, scan, microbatches, compiled, request):
    config = request.getfixturevalue(which)
    config.model.scan_layers = scan
    config.optim.microbatches = microbatches
    program, step = compiled(config, 8, 2, 4)
    leaves = jax.tree.leaves(program.state.params)
    # Whole, and as a device has them; blocks without the axis they are stacked on.
    shapes = {shape[-2:] for leaf in leaves for shape in both_shapes(leaf)}
    shapes |= {shape[-1:] for shape in shapes}
    found = collectives(step.as_text())
    kinds = {one.kind for one in found}
    assert "all-gather" in kinds
    assert kinds <= {"all-gather", "all-reduce", "reduce-scatter"}
    for shape in {shape for one in found for shape in one.shapes}:
        # Never tokens x width of a whole batch.
        assert tuple(n for n in sizes_of(shape) if n != 1) in shapes | {()}, shape
