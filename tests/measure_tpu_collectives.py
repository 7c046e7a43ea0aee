"""What ViT-L's training step sends between sixteen TPU chips that are not there.

  python -m tests.measure_tpu_collectives

tests/train/test_sharded.py asserts the same of CPU devices. The TPU's compiler takes a minute on
two cores, too long for every run of the tests.
"""

import math
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from configs import vit_l
from echojepa_jax.costs import ahead
from echojepa_jax.costs import plan as plans
from echojepa_jax.costs.collectives import collectives
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.program import make_program
from tests.train.test_sharded import both_shapes, sizes_of


def main() -> None:
    config = vit_l.get_config()
    config.optim.global_batch = 256
    ahead.prepare_environment()
    program = make_program(config, meshes.make_mesh(ahead.tpu_devices("v5e:4x4"), 1, -1))
    leaves = jax.tree.leaves(program.state.params)
    whole = {math.prod(shape[-2:]) for leaf in leaves for shape in both_shapes(leaf)}
    whole |= {shape[-1] for leaf in leaves for shape in both_shapes(leaf)}
    text, memory = plans.compiled_program(program)
    assert memory.compiled
    found = collectives(text)
    assert {one.kind for one in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    # A layer's parameters are gathered for the target encoder, the context encoder, and its
    # backward pass; what is computed again shares the last one.
    gathered = sum(
        one.runs for one in found for shape in one.shapes if shape.endswith("[1,1024,4096]")
    )
    assert gathered == 3 * config.model.depth
    for shape in {shape for one in found for shape in one.shapes}:
        assert math.prod(sizes_of(shape)) in whole | {1}, shape
    runs = {one.kind: sum(o.runs for o in found if o.kind == one.kind) for one in found}
    print(f"nothing but parameters and gradients: {runs}")


if __name__ == "__main__":
    main()
