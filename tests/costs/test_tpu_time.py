"""A guard: of a TPU's time in the layers, little may go into anything but products and attention.

Before there were kernels for it, rotary and moving data took 59 % of it, and nobody saw it.
"""

import json

import pytest

from echojepa_jax.costs.account import ELEMENTWISE, MOVING, OPTIMIZER, OUTSIDE, ROTARY
from tests import programs

pytestmark = pytest.mark.slow

MOST_MOVING, MOST_ELEMENTWISE = 0.1, 0.25

# Two layers of the real widths and lengths: they compile sooner, with nearly the same shares.
TWO_LAYERS = {
    "model.depth": 2,
    "predictor.depth": 2,
    "optim.global_batch": 64,
    "mesh.replica": 1,
    "mesh.fsdp": 4,
}


def share_in_layers(account, *kinds):
    """What these kinds take of the time in the layers, by the JSON of `plan`."""
    layers = [
        times
        for part, times in account["by_part_and_kind"].items()
        if part not in (OUTSIDE, OPTIMIZER)
    ]
    whole = sum(sum(times.values()) for times in layers)
    return sum(times.get(kind, 0.0) for times in layers for kind in kinds) / whole


def test_what_a_share_is():
    nested = {
        "target encoder": {"rotary": 1.0, "moving data": 2.0, "matrix products": 5.0},
        "predictor, forward": {"matrix products": 2.0},
        "outside the layers": {"moving data": 100.0},
        "optimizer and EMA": {"elementwise": 100.0},
    }
    account = {"by_part_and_kind": nested}
    assert share_in_layers(account, "rotary", "moving data") == pytest.approx(0.3)


def test_rotary_and_moving_data_take_little_of_a_v5e():
    done = programs.run(
        "plan",
        "--config=configs/vit_l.py",
        "--topology=v5e:2x2",
        "--json",
        *programs.as_fields(TWO_LAYERS),
    )
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)["account"]
    shares = share_in_layers(account, ROTARY, MOVING), share_in_layers(account, ELEMENTWISE)
    assert shares[0] <= MOST_MOVING, account["by_part_and_kind"]
    # Such as a GELU that the compiler cannot make a part of the products.
    assert shares[1] <= MOST_ELEMENTWISE, account["by_part_and_kind"]
