"""Settings of JAX and of the process that depend on the platform; see also train/program.py."""

import os
from pathlib import Path

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from echojepa_jax.runtime.allocator import keep_freed_memory, share_one_heap
from echojepa_jax.utils.cache import cache_dir
from echojepa_jax.utils.errors import UserError, first_line

# Names of accelerators in /dev: NVIDIA, AMD and Google.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*")

COMPILED = "compiled"
"""Name of the folder with compiled programs."""

GPU_SHARE = 0.9
"""Share of a GPU's memory that JAX reserves; its own default is 0.75."""


def reserve_gpu_memory() -> None:
    """Lets JAX reserve GPU_SHARE of the memory; call it before JAX uses devices.

    It is for programs that have the GPU for themselves.
    """
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
    instead = "set JAX_PLATFORMS=cpu to use CPUs"
    try:
        found = jax.default_backend()
    # For a missing GPU, JAX raises an AssertionError.
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error) or "no such device"
        raise UserError(
            f"JAX cannot compute on {wanted or 'any device'} ({reason}); {instead}"
        ) from error
    # JAX uses CPUs without any message if it finds no GPU.
    if found == "cpu" and wanted not in ("", "cpu"):
        raise UserError(f"JAX cannot compute on {wanted} (no such device); {instead}")
    return found


def configure_jax() -> None:
    """Configures JAX and the process; every program that computes calls it first.

    On accelerators, compiled programs are cached between runs, so that a resumed run soon makes its
    first step. Programs for CPUs are not cached: they may fail on another machine that shares the
    home folder.

    Raises:
      UserError: see `default_backend`.
    """
    # JAX reports its platform only after it has started its threads, which is too late for this.
    if not any(any(Path("/dev").glob(name)) for name in _ACCELERATORS):
        share_one_heap()
    if default_backend() == "cpu":
        keep_freed_memory()
    else:
        _keep_programs(epath.Path(cache_dir()))


def share_programs(folder: epath.Path) -> None:
    """With several hosts, caches compiled programs in a folder that all hosts share.

    The first host writes them for all. A resumed run may use other machines.
    """
    if jax.process_count() > 1 and jax.default_backend() != "cpu":
        _keep_programs(folder)


def _keep_programs(folder: epath.Path) -> None:
    # A folder that the user has set for JAX stays in use.
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(folder / COMPILED))
        compilation_cache.reset_cache()  # else JAX continues with the previous folder, or none
