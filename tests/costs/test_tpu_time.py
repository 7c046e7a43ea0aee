"""A guard: of a TPU's time in the layers, little may go into rotary and into moving data."""

import json

import pytest

from echojepa_jax.costs.account import MOVING, OPTIMIZER, OUTSIDE, ROTARY
from tests import programs

MOST = 0.15

# Two layers of the real widths and lengths, on few clips: it compiles sooner, with the same shares.
FEW = {
    "model.depth": 2,
    "predictor.depth": 2,
    "optim.global_batch": 8,
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


@pytest.mark.xfail(strict=True, reason="XLA rotates and rearranges for the attention kernel")
def test_rotary_and_moving_data_take_little_of_a_v5e():
    done = programs.run(
        "plan",
        "--config=configs/vit_l.py",
        "--topology=v5e:2x2",
        "--json",
        *programs.as_fields(FEW),
    )
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)["account"]
    share = share_in_layers(account, ROTARY, MOVING)
    assert share <= MOST, f"{share:.0%} of the time in the layers: {account['by_part_and_kind']}"
