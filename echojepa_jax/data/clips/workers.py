"""Builds batches in worker processes (Grain), in order, and checks that none is missing.

A host's share of a batch is divided into parts of at most 8 clips. Workers build whole parts, and
the main process joins the parts of a batch. So no worker holds a large batch, and the first batch
is as fast as the others. The content does not depend on which worker builds a part.
"""

import functools
import signal
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from echojepa_jax.runtime.allocator import keep_freed_memory
from echojepa_jax.runtime.children import end_with_parent
from echojepa_jax.utils.errors import UserError

PART_CLIPS = 8

Batch = dict[str, Any]
"""By name: a NumPy array, a tuple of arrays, or another batch; the first axis is the clip."""


class MakePart(Protocol):
    """Builds the `count` clips of a step that start at `offset` in this host's share."""

    def __call__(self, step: int, offset: int, count: int) -> Batch: ...


def build(
    make: MakePart, first_step: int, last_step: int, share: int, *, workers: int, threads: int
) -> Iterator[Batch]:
    """Yields the batches, of `share` clips each, of steps `first_step` to `last_step` (excluded).

    Close the generator to end the workers before the last step.

    Args:
      workers: worker processes, each of which gets a pickled copy of `make`; 0 builds the batches
        in this process.
      threads: read threads in each process.

    Raises:
      UserError: a worker dies.
      RuntimeError: batches are missing at the end.
      Exception: whatever `make` raises.
    """
    missing = last_step - first_step
    if missing <= 0:
        return
    if workers and not flags.FLAGS.is_parsed():
        # Grain reads its settings from absl flags, which a program without absl has not parsed.
        flags.FLAGS.mark_as_parsed()
    count = max(n for n in range(1, min(share, PART_CLIPS) + 1) if share % n == 0)
    parts = share // count
    batches = (
        grain.MapDataset.range(first_step * parts, last_step * parts)
        .map(functools.partial(_make_part, make=make, parts=parts, count=count))
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
        .mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _start_worker)
        .batch(parts, batch_fn=_join)
    )
    iterator = iter(batches)
    try:
        for batch in iterator:
            missing -= 1
            yield batch
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        raise UserError(
            f"a data worker died ({error}): exit code -9 usually means that memory ran out, -7 "
            "that /dev/shm is full; use fewer workers, or free some space"
        ) from error
    finally:
        iterator.close()
    if missing:
        raise RuntimeError(f"the input pipeline ended {missing} batches early")


def _make_part(index: int, make: MakePart, parts: int, count: int) -> Batch:
    step, part = divmod(index, parts)
    return make(step, part * count, count)


def _join(parts: Sequence[Batch]) -> Batch:
    """Concatenates the parts of a batch into ordinary arrays, which frees the shared memory."""
    return {key: _joined([part[key] for part in parts]) for key in parts[0]}


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return _join(values)
    if isinstance(values[0], tuple):
        return tuple(map(np.concatenate, zip(*values, strict=True)))
    return np.concatenate(values)


def _start_worker(index: int, count: int) -> None:
    """Ignores signals, because only the main process decides when a worker ends; keeps memory."""
    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
