"""Settings of JAX and of the process that depend on the platform; see also train/program.py."""

import os
from pathlib import Path

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from echojepa_jax.runtime.allocator import keep_freed_memory, share_one_heap
from echojepa_jax.utils.cache import cache_dir
from echojepa_jax.utils.errors import UserError, first_line

# The names of accelerators in /dev: of NVIDIA's, AMD's and Google's.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*")

COMPILED = "compiled"
"""The folder of compiled programs."""

GPU_SHARE = 0.9
"""Share of a GPU's memory that JAX reserves; its own default is 0.75."""


def reserve_gpu_memory() -> None:
    """Call it before JAX looks for devices, in programs that have the GPU for themselves."""
    # JAX accepts only one of the two names of this variable.
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", str(GPU_SHARE))


def default_backend() -> str:
    """What JAX computes on: cpu, gpu or tpu.

    Raises:
      UserError: JAX_PLATFORMS names an accelerator first, and there is none that can be used.
    """
    asked = jax.config.values["jax_platforms"] or ""
    wanted = asked.partition(",")[0]
    instead = "with JAX_PLATFORMS=cpu, CPUs are used"
    try:
        found = jax.default_backend()
    # For a GPU that is not there, it is an assertion.
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error) or "it is not there"
        raise UserError(
            f"JAX cannot compute on {wanted or 'any device'} ({reason}); {instead}"
        ) from error
    # It goes on with CPUs where it sees no GPU, without a word.
    if found == "cpu" and wanted not in ("", "cpu"):
        raise UserError(f"JAX cannot compute on {wanted} (it is not there); {instead}")
    return found


def configure_jax() -> None:
    """Configures JAX and the process; every program that computes calls it first.

    On accelerators compiled programs are kept between runs, so that a run that is started again
    soon makes its first step. Those for CPUs are not: they may fail on another machine with the
    same home.

    Raises:
      UserError: see `default_backend`.
    """
    # JAX names its platform only after it has started its threads: too late for their memory.
    if not any(any(Path("/dev").glob(name)) for name in _ACCELERATORS):
        share_one_heap()
    if default_backend() == "cpu":
        keep_freed_memory()
    else:
        _keep_programs(epath.Path(cache_dir()))


def share_programs(folder: epath.Path) -> None:
    """Of several hosts, keeps compiled programs in a folder that all of them see.

    The first host writes them for all, and the next start may have other machines.
    """
    if jax.process_count() > 1 and jax.default_backend() != "cpu":
        _keep_programs(folder)


def _keep_programs(folder: epath.Path) -> None:
    # Whoever has named a folder to JAX keeps it.
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(folder / COMPILED))
        compilation_cache.reset_cache()  # or JAX goes on with the folder of before, or none
