"""Moving batches to devices in the background."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from echojepa_jax.data.clips.prefetch import DeviceBatches


@pytest.fixture
def sharding():
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


def make(step: int) -> dict:
    n = len(jax.devices())
    return {
        "clips": np.full((n, 2, 3, 3, 3), step, np.uint8),
        "context_ids": (np.full((n, 4), step, np.int32),),
        "valid": np.ones(n, bool),
        "sample_ids": np.arange(n, dtype=np.int64) + 2**40,
        "padded": np.zeros(n, np.int32),
        "error": np.full(n, ""),
    }


def live_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("device-prefetch")]


def test_batches_arrive_in_order_sharded_and_host_leaves_stay(sharding):
    batches = list(DeviceBatches(map(make, range(5)), sharding))
    assert [int(batch["clips"][0, 0, 0, 0, 0]) for batch in batches] == [0, 1, 2, 3, 4]
    batch = batches[0]
    assert batch["clips"].sharding == sharding
    assert batch["context_ids"][0].sharding == sharding
    assert batch["clips"].dtype == np.uint8
    assert len(batch["valid"].addressable_shards) == len(jax.devices())
    # 64-bit ids would lose their upper half on the device.
    assert isinstance(batch["sample_ids"], np.ndarray)
    assert batch["sample_ids"][0] == 2**40
    assert isinstance(batch["error"], np.ndarray)
    assert live_threads() == []


def test_it_loads_as_many_batches_ahead_as_requested(sharding):
    made = []

    def source():
        for step in range(10):
            made.append(step)
            yield make(step)

    with DeviceBatches(source(), sharding, ahead=2) as batches:
        next(batches)
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2]
    assert live_threads() == []


def test_f21_waiting_is_measured(sharding):
    def slow():
        for step in range(3):
            time.sleep(0.1)
            yield make(step)

    with DeviceBatches(slow(), sharding) as batches:
        for _ in batches:
            pass
        assert 0.25 < batches.wait_seconds < 2
    with DeviceBatches(map(make, range(3)), sharding) as ready:
        time.sleep(0.3)
        next(ready)
        assert ready.wait_seconds < 0.1


def test_errors_arrive_in_order_and_close_the_source(sharding):
    closed = []

    def failing():
        try:
            yield make(0)
            yield make(1)
            raise OSError("the disk is gone")
        finally:
            closed.append(True)

    with DeviceBatches(failing(), sharding) as batches:
        assert int(next(batches)["clips"][0, 0, 0, 0, 0]) == 0
        assert int(next(batches)["clips"][0, 0, 0, 0, 0]) == 1
        with pytest.raises(OSError, match="disk"):
            next(batches)
    assert closed
    assert live_threads() == []


def test_closing_early_closes_the_source(sharding):
    closed = []

    def endless():
        try:
            while True:
                yield make(0)
        finally:
            closed.append(True)

    batches = DeviceBatches(endless(), sharding)
    next(batches)
    batches.close()
    assert closed
    with pytest.raises(StopIteration):
        next(batches)
