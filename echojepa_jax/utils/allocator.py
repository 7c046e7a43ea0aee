"""Memory that is freed is kept for the next use instead of going back to the system."""

import ctypes

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Tells glibc's allocator to grow its heap for large blocks, and never to shrink it.

    By default every block of more than 32 MiB is mapped anew, so that each training step on a CPU
    pays for the page faults of all its temporaries. Other C libraries have no such call and are
    left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
