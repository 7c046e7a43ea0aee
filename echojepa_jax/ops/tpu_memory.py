"""How much vector memory a TPU's core has, for kernels that keep their data in it."""

from jax.experimental.pallas import tpu as pltpu

_LIKELY = 64 * 2**20  # of v5p and v7x; v5e and v6e have twice as much, v4 a quarter
_DEFAULT = 16 * 2**20  # what the compiler gives a kernel that asks for nothing
_SPARE = 2 * 2**20  # for what the compiler keeps there for itself


def vector_memory() -> int:
    """Bytes of a core of the TPUs that are compiled for."""
    try:
        return pltpu.get_tpu_info().vmem_capacity_bytes
    except (ValueError, NotImplementedError, RuntimeError):
        return _LIKELY  # a TPU that is not there, and no mesh that tells which one


def fits(needed: int) -> bool:
    """Whether a kernel may keep so many bytes there."""
    return needed + _SPARE <= vector_memory()


def limit(needed: int) -> int:
    """What to ask the compiler for: no more, for what a kernel may use, others may not."""
    return max(_DEFAULT, needed + _SPARE)
