"""Moves batches to the devices ahead of the training step.

A background thread takes batches from the pipeline and starts their transfer, so that the next
batch is already on the device when a step ends. The time that the caller waits is measured: a
faster input pipeline would save it.
"""

import collections
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

HOST_KEYS = ("sample_ids", "padded", "error")
"""Arrays for logs and the file of rejected samples; they stay on the host, as NumPy arrays."""


class DeviceBatches(Iterator[dict[str, Any]]):
    """Iterator over batches whose clips, token ids and `valid` are global jax.Arrays.

    `next` raises an error of the pipeline in place of the batch that failed. Use the iterator as a
    context manager, or call `close`.

    Args:
      batches: this host's shares, from `pipeline.training_batches` or `evaluation_batches`.
      sharding: sharding of the batch axis, which is the first axis of every array; the shares of
        all hosts together form the global array.
      ahead: batches kept on the device besides the one in use.
    """

    def __init__(
        self, batches: Iterator[dict[str, Any]], sharding: jax.sharding.Sharding, ahead: int = 2
    ):
        self.wait_seconds = 0.0
        """Seconds spent waiting in `next` so far; a training loop logs the differences."""
        self._batches = batches
        self._sharding = sharding
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device-prefetch")
        self._pending: collections.deque[Future[dict[str, Any] | None]] = collections.deque(
            self._thread.submit(self._load) for _ in range(ahead)
        )

    def __next__(self) -> dict[str, Any]:
        if not self._pending:
            raise StopIteration
        started = time.perf_counter()
        try:
            batch = self._pending.popleft().result()
        finally:
            self.wait_seconds += time.perf_counter() - started
        if batch is None:
            self.close()
            raise StopIteration
        self._pending.append(self._thread.submit(self._load))
        return batch

    def close(self) -> None:
        """Stops the thread and the pipeline, after the batch that is being built."""
        for future in self._pending:
            future.cancel()
        self._pending.clear()
        self._thread.shutdown()
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> "DeviceBatches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _load(self) -> dict[str, Any] | None:
        """Starts the transfer of the next batch and returns it; None at the end."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        return self._on_devices(batch)

    def _on_devices(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {
            key: self._on_devices(value)
            if isinstance(value, dict)
            else value
            if key in HOST_KEYS
            else jax.tree.map(self._to_devices, value)
            for key, value in batch.items()
        }

    def _to_devices(self, local: Any) -> jax.Array:
        return jax.make_array_from_process_local_data(self._sharding, local)
