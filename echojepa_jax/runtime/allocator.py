"""Settings of glibc's allocator, so that freed memory is reused and not returned to the system."""

import ctypes

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def share_one_heap() -> None:
    """Makes threads that start from now on use the heap of the main thread. It cannot be undone.

    Call it before JAX starts its threads. The heaps of threads are small, so that large blocks are
    mapped separately, which `keep_freed_memory` does not change.
    """
    _mallopt(_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Makes glibc's allocator grow its heap for large blocks and never shrink it.

    By default every block above 32 MiB is mapped anew. Each training step on a CPU then has page
    faults for all its temporaries: 53 of the demo's 290 ms of processor time.
    """
    _mallopt(_MMAP_MAX, 0)
    _mallopt(_TRIM_THRESHOLD, -1)


def _mallopt(parameter: int, value: int) -> None:
    """Calls glibc's mallopt; does nothing with other C libraries, which lack it."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(parameter, value)
