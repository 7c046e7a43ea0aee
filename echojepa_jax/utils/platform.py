"""Settings of JAX and of the process that depend on the platform; see also train/program.py."""

import jax

from echojepa_jax.utils.allocator import keep_freed_memory
from echojepa_jax.utils.cache import cache_dir


def prepare() -> None:
    """Comes first in every program that computes.

    On accelerators compiled programs are kept between runs, so that a run that is started again
    soon makes its first step. Those for CPUs are not: they may fail on another machine with the
    same home.
    """
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    else:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
