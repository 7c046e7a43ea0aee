"""Runs a function on many items in processes that may hang, crash, or run out of memory.

Decoders are C code, and files come from anywhere: what one file does must cost that file only.
"""

import collections
import dataclasses
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, TimeoutError
from typing import Any, Generic, TypeVar

import pebble

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4  # items per worker that are handed out before their results are taken


@dataclasses.dataclass(frozen=True)
class Failed:
    """An item without a result, and why."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Guard(Generic[Item, Result]):
    """A function that is run in processes of its own. Picklable, as its function must be.

    seconds: that one item may take.
    gigabytes: of memory that a process may take beyond what it starts with; 0 = any.
    refusals: errors of `function` whose text is the reason why an item has no result; all others
        are mistakes of the program and are raised.
    """

    function: Callable[[Item], Result]
    seconds: float
    refusals: tuple[type[Exception], ...] = ()
    gigabytes: float = 0.0

    def over(self, items: Iterable[Item], workers: int) -> Generator[Result | Failed, None, None]:
        """The result of every item, in order. Close the iterator to end the processes early."""
        pool = pebble.ProcessPool(
            workers,
            context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=[self.gigabytes],
        )
        pending: collections.deque[Any] = collections.deque()
        try:
            for item in items:
                pending.append(pool.schedule(self.function, [item], timeout=self.seconds))
                if len(pending) >= _AHEAD * workers:
                    yield self._result(pending.popleft())
            while pending:
                yield self._result(pending.popleft())
        finally:
            pool.stop()
            pool.join()

    def _result(self, future: Any) -> Result | Failed:
        try:
            result: Result = future.result()
        except TimeoutError:
            return Failed(f"too slow: not done after {self.seconds:g} s")
        except MemoryError:
            return Failed(f"too large: needs more than {self.gigabytes:g} GB of memory")
        except (pebble.ProcessExpired, CancelledError) as error:
            code = getattr(error, "exitcode", "unknown")
            return Failed(f"crashed: the decoder ended its process (exit code {code})")
        except self.refusals as error:
            return Failed(str(error))
        return result


def _start(gigabytes: float) -> None:
    """Leaves Ctrl-C to the main process, and bounds this one's memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not gigabytes:
        return
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        limit = now + int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError):
        pass  # a system without such limits
