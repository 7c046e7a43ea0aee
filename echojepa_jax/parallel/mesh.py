"""The device mesh, and the placement of the batch, parameters and activations on it.

The mesh has two axes. Clips are split over both. Parameters, optimizer state and moving averages
are split over `fsdp` (fully sharded data parallelism): a device keeps a part of each array, and the
parameters of a layer are gathered when it runs, in the type that it uses. Along `replica` they are
copied.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.trees import by_rules

log = logging.getLogger(__name__)

REPLICA, FSDP = "replica", "fsdp"
BATCH = PartitionSpec((REPLICA, FSDP))

# Axes of a parameter that may be split over `fsdp`, by path; the first rule that matches applies.
# The first of these axes whose size is a multiple of that of `fsdp` is split. Axes count from the
# end, because blocks are stacked on a leading axis, which a loop runs over and which is not split.
# The paths of optimizer and EMA state contain those of the parameters, so the rules serve them all.
KERNEL_AXES, VECTOR_AXES = (-2, -1), (-1,)
STATE_RULES: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"(^|/)(step|count)$", ()),
    (r"(^|/)kernel$", KERNEL_AXES),
    (r"(^|/)(bias|scale|q_bias|v_bias)$", VECTOR_AXES),
    (r"(^|/)(mask_tokens?|video_embed|image_embed)$", VECTOR_AXES),
)


def mesh_shape(devices: int, replica: int, fsdp: int) -> tuple[int, int]:
    """Sizes of the two axes for that many devices; one of them may be -1, which means the rest.

    Raises:
      UserError: their product is not the number of devices.
    """
    sizes = [replica, fsdp]
    if sizes.count(-1) == 1:
        known = max(sizes)
        sizes[sizes.index(-1)] = devices // known if known > 0 else 0
    if min(sizes) < 1 or sizes[0] * sizes[1] != devices:
        raise UserError(
            f"config fields mesh.replica={replica} x mesh.fsdp={fsdp} do not make {devices} "
            "devices: set one of them to -1, which means the rest"
        )
    return sizes[0], sizes[1]


def make_mesh(
    devices: Sequence[jax.Device] | None = None, replica: int = -1, fsdp: int = 1
) -> Mesh:
    """A mesh of the given devices, by default of those of all hosts; see `mesh_shape`.

    Raises:
      UserError: the connections between the devices do not allow this shape.
    """
    devices = list(devices or jax.devices())
    shape = mesh_shape(len(devices), replica, fsdp)
    try:
        # An axis of the mesh may split an axis of the slice, as 64 of the 8 x 16 chips of a v5p.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    # JAX raises these for a shape that it cannot place on the devices.
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"config fields mesh.replica={shape[0]} x mesh.fsdp={shape[1]} cannot be mapped to "
            f"these {len(devices)} devices: try other sizes, such as powers of 2"
        ) from error
    # Linen needs Auto axes; the default is Explicit.
    return Mesh(grid, (REPLICA, FSDP), axis_types=(AxisType.Auto,) * 2)


def platform_of(mesh: Mesh) -> str:
    """cpu, gpu or tpu."""
    platform = mesh.devices.flat[0].platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis of every array of a batch is split over all devices."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device has the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def to_global(whole: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A global array from a whole array that is the same on every host."""
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def global_batch(share: np.ndarray, mesh: Mesh) -> jax.Array:
    """This host's clips [b, ...] as a part of the global batch."""
    return jax.make_array_from_process_local_data(batch_sharding(mesh), share)


def local_rows(x: jax.Array) -> np.ndarray:
    """This host's rows of an array that is split over hosts along its first axis, in order."""
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def _spec(shape: Sequence[int], axes: Sequence[int], fsdp: int) -> PartitionSpec:
    """Splits the first of `axes` that `fsdp` divides; if there is none, nothing is split."""
    for axis in axes:
        if fsdp > 1 and len(shape) >= -axis and shape[axis] % fsdp == 0:
            names: list[str | None] = [None] * len(shape)
            names[axis] = FSDP
            return PartitionSpec(*names)
    return PartitionSpec()


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """A sharding for every leaf of a training state (arrays or their shapes).

    Raises:
      ValueError: no rule covers a leaf.
    """
    size = mesh.shape[FSDP]
    return jax.tree.map(
        lambda leaf, split: NamedSharding(mesh, _spec(leaf.shape, split, size)),
        state,
        by_rules(state, STATE_RULES),
    )


def warn_of_unsharded(mesh: Mesh, state: Any, shardings: Any) -> None:
    """Warns if much of a state is copied to every device although mesh.fsdp should split it."""
    size = mesh.shape[FSDP]
    total = sum(leaf.size for leaf in jax.tree.leaves(state))
    split = jax.tree.map(lambda leaf, place: leaf.size * (FSDP in place.spec), state, shardings)
    whole = total - sum(jax.tree.leaves(split))
    if size > 1 and whole > 0.1 * total / size:
        log.warning(
            "mesh.fsdp=%d does not divide all arrays of the state, so %.0f%% of it is copied to "
            "every device: to save memory, use a number that divides the model's widths, and more "
            "replicas",
            *(size, 100 * whole / total),
        )


def _fsdp_size() -> int:
    """Size of `fsdp` in the current mesh (`jax.set_mesh`); 0 without one and in `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    if FSDP not in mesh.axis_names or mesh.manual_axes:
        return 0
    return mesh.shape[FSDP]


def shard_by_clip(x: jax.Array) -> jax.Array:
    """Keeps activations [B, ...] sharded by clip; the compiler might choose otherwise."""
    return jax.lax.with_sharding_constraint(x, BATCH) if _fsdp_size() else x


def gathered(parameter: jax.Array) -> jax.Array:
    """A parameter, gathered on every device."""
    return (
        jax.lax.with_sharding_constraint(parameter, PartitionSpec()) if _fsdp_size() else parameter
    )


def sum_over_clips(
    part: Callable[..., jax.Array], axes: Sequence[int], *arrays: jax.Array
) -> jax.Array:
    """The gradient of a parameter: a sum over all clips, split like the parameter.

    Every device sums over its own clips; then the sums are added and scattered. The compiler by
    itself sometimes gathers the activations of the whole batch instead.

    Args:
      part: maps arrays [b, ...] to the sum over their clips, an array of the parameter's shape.
      axes: those that the parameter's rule allows to split, `KERNEL_AXES` or `VECTOR_AXES`.
      arrays: [B, ...].
    """
    size = _fsdp_size()
    if not size:
        return part(*arrays)
    spec = _spec(jax.eval_shape(part, *arrays).shape, axes, size)

    def summed(*mine: jax.Array) -> jax.Array:
        total = part(*mine)
        if FSDP in spec:
            axis = spec.index(FSDP)
            total = jax.lax.psum_scatter(total, FSDP, scatter_dimension=axis, tiled=True)
            return jax.lax.psum(total, REPLICA)
        return jax.lax.psum(total, (REPLICA, FSDP))

    return jax.shard_map(summed, in_specs=BATCH, out_specs=spec, check_vma=False)(*arrays)


def per_device(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Runs a kernel that the compiler cannot split, on every device with its own clips.

    Args:
      function: maps arrays [b, ...] to an array [b, ...].
      arrays: [B, ...]; all but the first may be [1, ...], the same for all clips.
    """
    if not _fsdp_size():
        return function(*arrays)
    clips, *others = arrays
    shared = PartitionSpec()
    specs = (BATCH, *(shared if len(x) < len(clips) else BATCH for x in others))
    # check_vma=False: JAX does not know over which mesh axes the result of a kernel varies.
    return jax.shard_map(function, in_specs=specs, out_specs=BATCH, check_vma=False)(*arrays)
