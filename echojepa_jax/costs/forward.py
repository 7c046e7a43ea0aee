"""Memory and time of the encoder's forward pass on one TPU, as in `embed`."""

import dataclasses
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from echojepa_jax.costs import account as accounts
from echojepa_jax.costs import account_table, flops
from echojepa_jax.costs.chips import Chip
from echojepa_jax.costs.units import scaled
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.program import COMPILER_OPTIONS, attention_of
from echojepa_jax.train.state import init_params, make_networks

# Share of a chip's memory; the rest is for the runtime and for the next batch.
USABLE = 0.92


@dataclasses.dataclass(frozen=True)
class Forward:
    """A forward pass on a number of clips. memory: peak, in bytes. flops: of the model."""

    chip: Chip
    clips: int
    memory: int
    flops: float
    account: accounts.Account | None

    @property
    def fits(self) -> bool:
        return self.memory <= USABLE * self.chip.memory


def make_forward(
    encode: Any,
    config: ConfigDict,
    device: jax.Device,
    chip: Chip,
    clips: int,
    schedules: Path,
    say: Callable[[str], None] = lambda _: None,
) -> Forward:
    """Compiles a config's encoder in bfloat16 for a TPU, which this machine need not have.

    Args:
      encode: the function of `embed`, `features.encode.encode_clips`.
      schedules: the folder of `ahead.prepare_environment`.
    """
    config = config.copy_and_resolve_references()
    config.model.dtype, config.model.remat = "bfloat16", "none"
    attention = attention_of(config, make_networks(config), "tpu")
    networks, data = make_networks(config, attention), config.data
    mesh = meshes.make_mesh([device])
    key = jax.eval_shape(lambda: jax.random.key(0))
    made = make_networks(config)  # one clip, which makes the parameters, needs no kernels
    shapes = jax.eval_shape(partial(init_params, made, frames=data.frames, size=data.size), key)

    def placed(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    params = jax.tree.map(lambda leaf: placed(leaf, PartitionSpec()), shapes["encoder"])
    pixels = jax.ShapeDtypeStruct((clips, data.frames, data.size, data.size, 3), jnp.uint8)
    say(f"compiling a forward pass on {clips} clips for a {chip.name}")
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = dict(COMPILER_OPTIONS["tpu"])
        options |= {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        with jax.set_mesh(mesh):
            inputs = params, placed(pixels, PartitionSpec(mesh.axis_names))
            how = networks.encoder, networks.mean, networks.std, "mean", mesh
            compiled = encode.lower(*inputs, *how).compile(compiler_options=options)
        account = accounts.of_dump(Path(folder), chip, schedules)
    if not account:
        say(accounts.NO_ESTIMATES)
    memory = compiled.memory_analysis().peak_memory_in_bytes
    return Forward(chip, clips, memory, clips * flops.of_encoder(config), account)


def table(forward: Forward, dearest: int = 0) -> str:
    """The plan of a forward pass as text."""
    chip = forward.chip
    least = forward.flops / chip.flops
    lines = [
        f"1 x {chip.name}, a forward pass of the encoder on {forward.clips} clips, bfloat16",
        "",
        f"  {'memory at its peak (compiled)':<32}{scaled(forward.memory, 'B'):>12}",
        f"  {'of':<32}{scaled(chip.memory, 'B'):>12}",
        f"  {'model FLOPs (counted)':<32}{scaled(forward.flops, 'FLOP'):>12}",
        f"  {'time, by data sheets, at least':<32}{scaled(least, 's'):>12}",
        "",
    ]
    if forward.account:
        per_clip = forward.clips / forward.account.seconds
        parts = {accounts.ENCODER: forward.flops}
        lines += [
            *account_table.lines(forward.account, parts, chip, 0.0, dearest, "a forward pass"),
            f"  By this account, a chip encodes {per_clip:.0f} clips per second.",
            "",
        ]
    return "\n".join([*lines, verdict(forward)])


def verdict(forward: Forward) -> str:
    """A sentence about whether it fits."""
    used = f"{forward.memory / forward.chip.memory:.0%} of a chip's memory"
    return f"fits: {used}" if forward.fits else f"does not fit: {used}; try fewer clips at a time"


def as_json(forward: Forward, dearest: int = 0) -> dict[str, Any]:
    """The same as numbers: bytes, FLOPs and seconds."""
    found: dict[str, Any] = {
        "chip": forward.chip.name,
        "clips": forward.clips,
        "memory": {"peak": forward.memory, "of": forward.chip.memory},
        "flops": forward.flops,
        "seconds": {"at_least": forward.flops / forward.chip.flops},
        "fits": forward.fits,
        "verdict": verdict(forward),
    }
    if forward.account:
        parts = {accounts.ENCODER: forward.flops}
        found["account"] = account_table.as_json(forward.account, parts, forward.chip, 0.0, dearest)
    return found
