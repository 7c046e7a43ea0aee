"""Runs a function on many items in processes that may hang, crash, or run out of memory.

Decoders are C code and files may be malicious or damaged: a bad file must not affect the others.
"""

import collections
import dataclasses
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, TimeoutError
from typing import Any, TypeVar

import pebble

from echojepa_jax.runtime.children import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4  # items per worker that are submitted before their results are read


@dataclasses.dataclass(frozen=True)
class Failed:
    """An item without a result, and the reason."""

    reason: str


class Guard:
    """Processes that run functions on items. Use it as a context manager, which ends them on exit.

    Args:
      seconds: time limit for one item.
      gigabytes: memory limit of a process, in addition to what it starts with; 0 = no limit.
    """

    def __init__(self, workers: int, seconds: float, gigabytes: float = 0.0) -> None:
        self._workers, self._seconds, self._gigabytes = workers, seconds, gigabytes
        self._pool = pebble.ProcessPool(
            workers,
            context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=[gigabytes],
        )

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.stop()
        self._pool.join()

    def over(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        refusals: tuple[type[Exception], ...] = (),
        otherwise: str = "",
    ) -> Iterator[Result | Failed]:
        """The result of every item, in order.

        Args:
          function: must be picklable.
          refusals: types of errors of the function whose text is the reason of a `Failed`.
          otherwise: start of the reason for any other error; "" = such an error is raised.
        """
        pending: collections.deque[Any] = collections.deque()
        for item in items:
            pending.append(self._pool.schedule(function, [item], timeout=self._seconds))
            if len(pending) >= _AHEAD * self._workers:
                yield self._result(pending.popleft(), refusals, otherwise)
        while pending:
            yield self._result(pending.popleft(), refusals, otherwise)

    def _result(self, future: Any, refusals: tuple[type[Exception], ...], otherwise: str) -> Any:
        try:
            return future.result()
        except TimeoutError:
            return Failed(f"too slow: not finished after {self._seconds:g} s")
        except MemoryError:
            return Failed(f"too large: needs more than {self._gigabytes:g} GB of memory")
        except (pebble.ProcessExpired, CancelledError) as error:
            code = getattr(error, "exitcode", "unknown")
            return Failed(f"crashed: the decoder ended its process (exit code {code})")
        except refusals as error:
            return Failed(str(error))
        except Exception as error:  # decoders raise errors of their own types
            if not otherwise:
                raise
            # Only the type is reported: the text may quote the file, and with it a patient's name.
            return Failed(f"{otherwise}: {type(error).__name__}")


def _start(gigabytes: float) -> None:
    """Leaves Ctrl-C to the main process, and limits the memory of this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if not gigabytes:
        return
    try:
        import resource

        # Limits writable memory, not the address space: every thread reserves a large part of the
        # latter, and array_record, which starts 64 threads, waits forever if it cannot get it.
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[5]) * resource.getpagesize()
        limit, most = now + int(gigabytes * 1e9), resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    except (ImportError, OSError):
        pass  # a system without such limits
