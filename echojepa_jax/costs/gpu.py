"""Compiles for NVIDIA GPUs that this machine does not have, with the compiler in JAX's CUDA plugin.

The compiler needs no driver: XLA's text format `GpuTargetConfigProto` describes the card. On the
card itself, it would try kernels, and might choose others for the products.
"""

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding

from echojepa_jax.costs.chips import GPUS
from echojepa_jax.utils.errors import first_line

# The oldest cuDNN that JAX's CUDA plugin accepts.
CUDNN = (9, 12, 0)

# Products use cuBLAS: without a card to try tilings on, the compiler sometimes finds none, and
# fails. (It reserves some megabytes for cuBLAS to work in; cuDNN's are not known.)
OPTIONS = {"xla_gpu_enable_triton_gemm": False}


@dataclasses.dataclass(frozen=True)
class Card:
    """What the compiler must know about a GPU besides `chips.Chip`.

    capability: NVIDIA's number of the generation. own: whether code may use features that only
    this generation has. cores: streaming multiprocessors; units: of them, for float32. clock: the
    highest, in GHz. l2: bytes. shared: bytes that a core can share between its threads; a block
    gets 1 KiB less.
    """

    name: str
    capability: tuple[int, int]
    own: bool
    cores: int
    units: int
    clock: float
    l2: int
    shared: int


# Cores, clocks and caches: NVIDIA's architecture papers of the A100 and the H100 (the H200 differs
# only in its memory). Shared memory: the table of compute capabilities in its programming guide.
CARDS = {
    "a100": Card("NVIDIA A100-SXM4-80GB", (8, 0), False, 108, 64, 1.41, 40 * 2**20, 164 * 2**10),
    "h100": Card("NVIDIA H100 80GB HBM3", (9, 0), True, 132, 128, 1.98, 50 * 2**20, 228 * 2**10),
    "h200": Card("NVIDIA H200", (9, 0), True, 132, 128, 1.98, 50 * 2**20, 228 * 2**10),
}


class NoCompilerError(Exception):
    """The compiler for GPUs is missing; one sentence with the reason, and what to install."""


def target_config(gpu: str) -> str:
    """A GPU of `CARDS` as the text of a `GpuTargetConfigProto`."""
    card, chip = CARDS[gpu], GPUS[gpu]
    major, minor = card.capability
    version = ".".join(str(part) for part in CUDNN)
    # From threads to registers: the same for every generation since the A100's (programming guide).
    return f"""
gpu_device_info {{
  name: "{card.name}"
  cuda_compute_capability {{
    major: {major} minor: {minor}
    feature_extension: {"ACCELERATED_FEATURES" if card.own else "NONE"}
  }}
  core_count: {card.cores}
  fpus_per_core: {card.units}
  clock_rate_ghz: {card.clock}
  device_memory_size: {int(chip.memory)}
  memory_bandwidth: {int(chip.bandwidth)}
  l2_cache_size: {card.l2}
  shared_memory_per_core: {card.shared}
  shared_memory_per_block: {48 * 2**10}
  shared_memory_per_block_optin: {card.shared - 2**10}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
  dnn_version: "{version}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} patch: {CUDNN[2]} }}
device_description_str: "{card.name}"
"""


def gpu_devices(gpu: str, count: int) -> list[jax.Device]:
    """Descriptions of `count` GPUs in one machine, for which a step can be compiled.

    Raises:
      NoCompilerError: the compiler, or a tool that it runs, is not installed.
    """
    try:
        found = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            topology=f"1x1x{count}",  # partitions x hosts x devices
            target_config=target_config(gpu),
        )
        _try(found.devices[0])
    # Without the plugin, with another version of it, or without ptxas or libdevice.
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise NoCompilerError(_why(error)) from error
    return list(found.devices)


def _try(device: jax.Device) -> None:
    """Compiles a tiny function that needs each of the compiler's tools."""
    there = SingleDeviceSharding(device)
    jax.jit(jnp.tanh).lower(jax.ShapeDtypeStruct((8,), jnp.float32, sharding=there)).compile()


def _why(error: Exception) -> str:
    reason = first_line(error)
    if isinstance(error, NotImplementedError):
        reason = "JAX's CUDA plugin is not installed"
    elif "libdevice" in reason:
        reason = "the compiler does not find libdevice"
    elif "ptxas" in reason:
        reason = "the compiler does not find ptxas"
    version = importlib.metadata.version("jaxlib")
    return (
        f"{reason}; for the compiler's figures: "
        f"pip install jax-cuda13-plugin=={version} nvidia-cuda-nvcc"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@contextlib.contextmanager
def cudnn_is_there(mesh: Mesh) -> Iterator[None]:
    """Lets a step with cuDNN's attention be traced for a GPU that this machine does not have.

    JAX queries this machine's GPUs for their cuDNN and capability, without an option to set them;
    so this replaces its private functions.
    """
    from jax._src.cudnn import fused_attention_stablehlo as queries

    kind = mesh.devices.flat[0].device_kind
    (capability,) = {c.capability for c in CARDS.values() if c.name == kind}
    answers = {
        "check_cudnn_version": lambda: CUDNN[0] * 10_000 + CUDNN[1] * 100 + CUDNN[2],
        "check_compute_capability": lambda least: capability >= _numbers(least),
        "is_cuda_compute_capability_equal": lambda other: capability == _numbers(other),
    }
    kept = {name: getattr(queries, name) for name in answers}
    try:
        for name, answer in answers.items():
            setattr(queries, name, answer)
        yield
    finally:
        for name, function in kept.items():
            setattr(queries, name, function)
