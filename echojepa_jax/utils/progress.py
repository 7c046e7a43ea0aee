"""Progress lines of long jobs, and durations as text."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger(__name__)


def duration(seconds: float) -> str:
    """Seconds as "42s", "3m05s" or "7h04m"."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def left(seconds: float) -> str:
    """Text for the end of a line, such as ", 1m02s left"."""
    return f", {duration(seconds) if seconds >= 1 else 'less than 1s'} left"


def with_progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yields `items`, and logs "`what`: 127 of 1000, 1m02s left" every ten seconds.

    The clock starts after the first item, which includes compilation.
    """
    started = last = 0.0
    for done, item in enumerate(items):
        yield item
        now = time.monotonic()
        if done == 0:
            started = last = now
        elif now - last >= SECONDS_BETWEEN_LINES:
            last = now
            more = total - done - 1
            rest = left((now - started) / done * more) if more else ""
            log.info("%s: %d of %d%s", what, done + 1, total, rest)
