"""The same steps on any mesh, and nothing on the wire but parameters and gradients."""

import dataclasses

import jax
import numpy as np
import pytest

from echojepa_jax.costs.bench import random_batch
from echojepa_jax.costs.collectives import collectives
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.program import make_program

STEPS = 5


@pytest.fixture
def config(tiny):
    """Two layers of everything, a width that 8 devices can share, and a batch of 16."""
    return tiny(
        model__width=64,
        model__mlp_hidden=128,
        predictor__width=32,
        predictor__mlp_hidden=64,
        optim__global_batch=16,
        model__scan_layers=True,
        model__remat="attention",
    )


def trained(config, devices, replica, fsdp):
    """Losses and the state after a few steps on that mesh."""
    mesh = meshes.make_mesh(jax.devices()[:devices], replica, fsdp)
    program = make_program(config, mesh)
    step, state = program.compile(), program.init()
    losses = []
    for seed in range(STEPS):
        batch = jax.device_put(random_batch(config, seed), meshes.batch_sharding(mesh))
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(dataclasses.astuple(state)), state


def test_every_mesh_gives_the_same_parameters(config):
    wanted_losses, wanted, _ = trained(config, 1, 1, 1)
    for replica, fsdp in ((8, 1), (2, 4), (1, 8)):
        losses, found, state = trained(config, 8, replica, fsdp)
        np.testing.assert_allclose(losses, wanted_losses, atol=1e-5)
        for mine, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-5)
        kernel = state.target.ema["stack"]["blocks"]["mlp"]["fc1"]["kernel"]
        assert kernel.addressable_shards[0].data.shape == (2, 64 // fsdp, 128)
        assert state.opt_state[1].nu["encoder"]["norm"]["scale"].addressable_shards[
            0
        ].data.shape == (64 // fsdp,)


@pytest.mark.parametrize(("scan", "microbatches"), [(True, 1), (False, 2)])
def test_only_parameters_and_gradients_are_sent(config, scan, microbatches):
    config.model.scan_layers = scan
    config.optim.microbatches = microbatches
    program = make_program(config, meshes.make_mesh(jax.devices(), 2, 4))
    leaves = jax.tree.leaves(program.state.params)
    # Whole, and as a device has them; blocks without the axis they are stacked on.
    shapes = {shape[-2:] for leaf in leaves for shape in both_shapes(leaf)}
    shapes |= {shape[-1:] for shape in shapes}
    found = collectives(program.compile().as_text())
    kinds = {one.kind for one in found}
    assert "all-gather" in kinds
    assert kinds <= {"all-gather", "all-reduce", "reduce-scatter"}
    for one in found:
        sizes = tuple(int(n) for n in one.shape.partition("[")[2].rstrip("]").split(",") if n)
        # Never tokens x width of a whole batch.
        assert tuple(n for n in sizes if n != 1) in shapes | {()}, one


def both_shapes(leaf):
    return leaf.shape, leaf.sharding.shard_shape(leaf.shape)
