"""Checks that a step compiled for TPU chips sends only parameters and gradients between them.

  python -m tests.benchmarks.tpu_collectives
  python -m tests.benchmarks.tpu_collectives --config=vit_g --topology=v5p:4x4x4

tests/train/test_sharded.py checks the same for CPU devices. The TPU compiler takes more than a
minute on two cores, too long for every run of the tests. No TPU is needed.
"""

import argparse
import importlib
import math
import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from echojepa_jax.costs import ahead
from echojepa_jax.costs import plan as plans
from echojepa_jax.costs.collectives import collectives
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.program import make_program
from tests.makers.shapes import both_shapes, sizes_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="vit_l")
    parser.add_argument("--topology", default="v5e:4x4")
    options = parser.parse_args()
    config = importlib.import_module(f"configs.{options.config}").get_config()
    ahead.prepare_environment()
    devices = ahead.tpu_devices(options.topology)
    config.optim.global_batch = 16 * len(devices)
    mesh = meshes.make_mesh(devices, config.mesh.replica, config.mesh.fsdp)
    program = make_program(config, mesh)
    leaves = jax.tree.leaves(program.state.params)
    whole = {math.prod(shape[-2:]) for leaf in leaves for shape in both_shapes(leaf)}
    whole |= {shape[-1] for leaf in leaves for shape in both_shapes(leaf)}
    with tempfile.TemporaryDirectory() as folder:
        text, memory = plans.compiled_program(program, Path(folder))
    assert memory.compiled
    found = collectives(text)
    assert {one.kind for one in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    # A layer's parameters are gathered for the target encoder, the context encoder, and its
    # backward pass; recomputed blocks use the last gathering.
    encoder = program.networks.encoder
    kernel = [encoder.width, encoder.mlp_hidden]
    gathered = sum(
        one.runs
        for one in found
        for shape in one.shapes
        if shape.startswith("bf16") and [n for n in sizes_of(shape) if n != 1] == kernel
    )
    assert gathered == 3 * encoder.depth, gathered
    for shape in {shape for one in found for shape in one.shapes}:
        assert math.prod(sizes_of(shape)) in whole | {1}, shape
    runs = {one.kind: sum(o.runs for o in found if o.kind == one.kind) for one in found}
    print(f"only parameters and gradients are sent: {runs}")


if __name__ == "__main__":
    main()
