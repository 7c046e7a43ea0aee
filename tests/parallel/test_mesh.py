"""Meshes, and where every array of a training state lies on them."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from echojepa_jax.costs import ahead
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.program import make_program
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.trees import path_text

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.py") if not path.stem.startswith("_"))
GOLDEN = Path(__file__).parents[1] / "golden" / "shardings"


def program_of(name, fsdp):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.optim.global_batch = 8
    config.model.attention = "xla"
    return make_program(config, meshes.make_mesh(jax.devices()[:fsdp], 1, fsdp))


def bytes_per_device(tree):
    leaves = jax.tree.leaves(tree)
    return sum(
        np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_shardings_of_shipped_configs_are_the_golden_ones(name):
    """After a change that is meant: delete tests/golden/shardings, run this test, and look."""
    state = program_of(name, 8).state
    lines = [
        f"{path_text(path)} {leaf.shape} {tuple(leaf.sharding.spec)}\n"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]
    golden = GOLDEN / f"{name}.txt"
    if not golden.exists():
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text("".join(lines))
        pytest.fail(f"{golden} was not there: it is now, and waits to be read and committed")
    assert "".join(lines) == golden.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "shapes"),
    [
        ("v4:2x2x4", [(1, 16), (2, 8), (8, 2)]),
        ("v5e:4x4", [(1, 16), (2, 8), (4, 4)]),
        ("v5p:4x4x4", [(1, 64), (2, 32), (8, 8)]),
        ("v6e:8x8", [(1, 64), (2, 32), (32, 2)]),
    ],
)
def test_any_mesh_can_be_laid_over_a_slice(topology, shapes):
    ahead.prepare_environment()
    devices = ahead.tpu_devices(topology)
    for shape in shapes:
        mesh = meshes.make_mesh(devices, *shape)
        assert tuple(mesh.shape.values()) == shape
        assert set(mesh.devices.flat) == set(devices)


@pytest.mark.parametrize("name", ["vit_l", "vit_g"])
def test_bytes_of_the_state_fall_with_the_devices_that_share_it(name):
    state = program_of(name, 1).state
    whole = bytes_per_device(state)
    for fsdp in (2, 4, 8, 16, 32, 64):
        # Shapes alone are looked at: for these no device is needed.
        mesh = AbstractMesh((1, fsdp), (meshes.REPLICA, meshes.FSDP))
        shardings = jax.tree.leaves(meshes.state_shardings(mesh, state))
        share = sum(
            np.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf, sharding in zip(jax.tree.leaves(state), shardings, strict=True)
        )
        assert share == pytest.approx(whole / fsdp, rel=0.02)


@pytest.mark.slow
def test_the_state_of_a_tpu_slice_is_made_part_by_part():
    """Parameters come from one clip, which kernels cannot share between devices."""
    config = importlib.import_module("configs.vit_l").get_config()
    ahead.prepare_environment()
    program = make_program(config, meshes.make_mesh(ahead.tpu_devices("v5e:2x2"), 1, -1))
    assert program.networks.encoder.attention == "fused"
    with jax.set_mesh(program.mesh):
        places = jax.tree.map(lambda leaf: leaf.sharding, program.state)
        key = jax.eval_shape(lambda: jax.random.key(0))
        made = jax.jit(program._fresh, out_shardings=places).lower(key)
    assert "num_partitions = 4" in made.as_text()


def test_a_state_that_hardly_divides_is_said(caplog):
    state = {"kernel": np.zeros((6, 10)), "bias": np.zeros(8)}
    mesh = meshes.make_mesh(replica=1, fsdp=8)
    meshes.warn_of_unsharded(mesh, state, meshes.state_shardings(mesh, state))
    said = "mesh.fsdp=8 does not divide all arrays of the state, so 88% of it is copied"
    assert said in caplog.text


def test_a_parameter_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match="no rule covers the parameter encoder/gate"):
        meshes.state_shardings(meshes.make_mesh(), {"encoder": {"gate": np.zeros(8)}})


@given(st.integers(1, 64), st.integers(1, 64))
def test_minus_one_is_the_rest(replica, fsdp):
    devices = replica * fsdp
    assert meshes.mesh_shape(devices, replica, fsdp) == (replica, fsdp)
    assert meshes.mesh_shape(devices, -1, fsdp) == (replica, fsdp)
    assert meshes.mesh_shape(devices, replica, -1) == (replica, fsdp)


@pytest.mark.parametrize("sizes", [(3, 2), (-1, 3), (3, -1), (-1, -1), (0, -1), (1, 1)])
def test_a_mesh_that_is_not_all_devices_is_an_error(sizes):
    with pytest.raises(UserError, match=r"do not make 8 devices: set one of them to -1"):
        meshes.mesh_shape(8, *sizes)
