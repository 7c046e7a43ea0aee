"""The device mesh, and where the batch and every parameter live on it."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from echojepa_jax.utils.trees import by_rules

REPLICA, FSDP = "replica", "fsdp"

# Which axis of a parameter is split, by path: the first rule that matches decides. Optimizer and
# EMA state have the parameters' paths inside theirs, so one list serves the whole state. All is
# replicated today (data parallelism); sharding parameters is a matter of more rules here.
STATE_RULES = ((r".*", PartitionSpec()),)


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices on the axis `replica`: those of all hosts, unless some are named."""
    # Linen wants Auto axes; make_mesh would default to Explicit ones.
    return jax.make_mesh(
        (len(devices or jax.devices()), 1),
        (REPLICA, FSDP),
        axis_types=(AxisType.Auto,) * 2,
        devices=devices,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis of every array of a batch is split over all devices."""
    return NamedSharding(mesh, PartitionSpec((REPLICA, FSDP)))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """A sharding for every leaf of a training state (arrays or their shapes).

    Raises:
      ValueError: a leaf that no rule covers.
    """
    specs = by_rules(state, STATE_RULES)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
