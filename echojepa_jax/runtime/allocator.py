"""Memory that is freed is kept for the next use instead of going back to the system."""

import ctypes

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def share_one_heap() -> None:
    """Has threads that start from now on take memory from the heap of the first one.

    Comes before those of JAX start: heaps of their own are small, and large blocks are mapped
    beside them, whatever `keep_freed_memory` says. It cannot be taken back.
    """
    _mallopt(_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Tells glibc's allocator to grow its heap for large blocks, and never to shrink it.

    By default every block of more than 32 MiB is mapped anew, so that each training step on a CPU
    pays for the page faults of all its temporaries: 53 of the demo's 290 ms of processor time.
    """
    _mallopt(_MMAP_MAX, 0)
    _mallopt(_TRIM_THRESHOLD, -1)


def _mallopt(parameter: int, value: int) -> None:
    """Other C libraries have no such call and are left as they are."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(parameter, value)
