"""The size of a TPU core's vector memory, for kernels that keep their data in it."""

_LIKELY = 64 * 2**20  # that of v5p and v7x; v5e and v6e have twice as much, v4 a quarter
_DEFAULT = 16 * 2**20  # the compiler's limit for a kernel that does not set one
_SPARE = 2 * 2**20  # for the compiler's own use


def vector_memory() -> int:
    """Bytes of vector memory per core of the TPU that the program is compiled for."""
    from jax.experimental.pallas import tpu as pltpu  # takes long, see ops/tpu_tubelets.py

    try:
        return pltpu.get_tpu_info().vmem_capacity_bytes
    except (ValueError, NotImplementedError, RuntimeError):
        return _LIKELY  # no TPU is attached, and no mesh describes its kind


def fits(needed: int) -> bool:
    """Whether a kernel may keep this many bytes in vector memory."""
    return needed + _SPARE <= vector_memory()


def limit(needed: int) -> int:
    """The limit to set for a kernel; not more than needed, because it reduces that of others."""
    return max(_DEFAULT, needed + _SPARE)
