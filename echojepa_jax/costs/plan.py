"""Plans: whether a config fits a machine, what a step sends, and the shortest time of a run.

Memory and collectives come from the compiled program of the real step. Times are estimates from
data sheets, and so is the memory of GPUs if their compiler is not installed; both are marked as
estimates.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from echojepa_jax.costs import account as accounts
from echojepa_jax.costs import account_table, flops, gpu
from echojepa_jax.costs.chips import Chip
from echojepa_jax.costs.collectives import Collective, by_kind, collectives
from echojepa_jax.costs.units import scaled
from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.masking.masks import Mask
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.config import clip_spec, image_mask, image_spec, mask_specs
from echojepa_jax.train.program import (
    COMPILER_OPTIONS,
    Program,
    attention_of,
    make_program,
    memory_of,
)
from echojepa_jax.train.state import make_networks
from echojepa_jax.utils.counts import counted

# Share of a chip's memory; the rest is for the runtime, for programs beside the step (health,
# probe), and for fragmentation.
USABLE = 0.92
# How many batches a sweep tries after the first two, and when a larger one is not worth trying.
SWEEPS, CLOSE = 4, 1.03
# Shares of the data sheet's peak that an ordinary step and a very good step reach.
REACHED = (0.3, 0.5)
_DUMPED = "*train_step*after_optimizations.txt"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip. state: parameters, optimizer, averages. batch: its clips and ids.

    temporaries: activations and everything else that exists only during a step. compiled: whether
    temporaries come from the compiler; otherwise they are an estimate.
    """

    state: int
    batch: int
    temporaries: int
    compiled: bool

    @property
    def peak(self) -> int:
        return self.state + self.batch + self.temporaries


@dataclasses.dataclass(frozen=True)
class Plan:
    """Memory, communication and FLOPs of a config's step on a number of chips.

    image: FLOPs of an image, if the config has images. account: of one TPU, if requested.
    """

    config: ConfigDict
    chip: Chip
    chips: int
    mesh: dict[str, int]
    memory: Memory
    sent: list[Collective]
    clip: flops.ClipFlops
    image: flops.ClipFlops | None = None
    account: accounts.Account | None = None

    @property
    def fits(self) -> bool:
        return self.memory.peak <= USABLE * self.chip.memory

    @property
    def step_flops(self) -> float:
        """The model's FLOPs on all chips, without recomputation."""
        return sum(one.total * count for one, count in self._inputs())

    def _inputs(self) -> list[tuple[flops.ClipFlops, int]]:
        """FLOPs of a clip and of an image, and how many of them a step has."""
        found = [(self.clip, self.config.optim.global_batch)]
        return found + ([(self.image, self.config.images.global_batch)] if self.image else [])

    def bounds(self) -> dict[str, float]:
        """Lower bounds of a step's seconds, by what limits it: estimates from data sheets."""
        # State is read and written once; gathered parameters are written and read.
        gathered = sum(one.bytes * one.runs for one in self.sent)
        return {
            "compute": self.step_flops / self.chips / self.chip.flops,
            "memory": (2 * self.memory.state + 2 * gathered) / self.chip.bandwidth,
            "links": sum(one.sent * one.runs / self.chip.send(one.devices) for one in self.sent),
        }

    def seconds(self) -> tuple[float, ...]:
        """Seconds of a step: the lower bound, and at each of the shares `REACHED`."""
        bounds = self.bounds()
        bound = max(bounds.values())
        return bound, *(max(bound, bounds["compute"] / share) for share in REACHED)

    def flops_by_part(self) -> dict[str, float]:
        """FLOPs of one chip in a step, by part of the account."""
        target, context, predictor, outside = (
            sum(getattr(one, part) * count for one, count in self._inputs()) / self.chips
            for part in ("target", "context", "predictor", "outside")
        )
        found = {accounts.TARGET: target, accounts.OUTSIDE: outside}
        for name, total in (("context encoder", context), ("predictor", predictor)):
            found[f"{name}, forward"] = total / flops.FORWARD_AND_BACKWARD
            found[f"{name}, backward"] = total - found[f"{name}, forward"]
        return found


def make_plan(
    config: ConfigDict,
    devices: list[jax.Device],
    chip: Chip,
    say: Callable[[str], None] = lambda _: None,
    schedules: Path | None = None,
) -> Plan:
    """Compiles the step for devices, which this machine need not have.

    Args:
      schedules: the folder of `ahead.prepare_environment`, for an account; None = no account.

    Raises:
      UserError: the attention backend does not run on these devices.
    """
    mesh = meshes.make_mesh(devices, config.mesh.replica, config.mesh.fsdp)
    on_gpus, compiled_for = "", config
    if meshes.platform_of(mesh) == "cpu":
        on_gpus = attention_of(config, make_networks(config), "gpu")
        compiled_for = config.copy_and_resolve_references()
        compiled_for.model.attention = "auto"  # simulated devices cannot run GPU kernels
    program = make_program(compiled_for, mesh)
    say(f"compiling for {len(devices)} x {chip.name}, global batch {config.optim.global_batch}")
    with tempfile.TemporaryDirectory() as folder:
        text, memory = compiled_program(program, Path(folder), on_gpus)
        account = accounts.of_dump(Path(folder), chip, schedules) if schedules else None
    if schedules and not account:
        say(accounts.NO_ESTIMATES)
    costs = flops.of_clip(config), flops.of_image(config), account
    return Plan(config, chip, len(devices), dict(mesh.shape), memory, collectives(text), *costs)


def compiled_program(program: Program, folder: Path, on_gpus: str = "") -> tuple[str, Memory]:
    """The compiled program's text, and the memory of a device.

    Args:
      folder: an empty one, for files of the TPU compiler.
      on_gpus: the attention backend of the GPUs that the devices simulate.
    """
    platform = meshes.platform_of(program.mesh)
    options: dict[str, Any] = dict(COMPILER_OPTIONS[platform])
    state, batch = (_bytes_per_device(tree) for tree in (program.state, program.batch))
    if platform == "gpu":
        options |= gpu.OPTIONS
    if platform == "tpu":
        # JAX cannot return the text of a program for a v5p, because a check in it fails.
        options |= {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
    with jax.set_mesh(program.mesh):
        with gpu.cudnn_is_there(program.mesh) if platform == "gpu" else nullcontext():
            lowered = program.lower()
        compiled = lowered.compile(compiler_options=options)
    if platform == "gpu":
        temporaries = max(0, memory_of(compiled) - state - batch)
        return compiled.as_text() or "", Memory(state, batch, temporaries, compiled=True)
    if platform == "cpu":
        temporaries = _estimated_temporaries(program, on_gpus)
        return compiled.as_text() or "", Memory(state, batch, temporaries, compiled=False)
    (file,) = folder.glob(_DUMPED)
    text = file.read_text()
    analysis: Any = compiled.memory_analysis()
    temporaries = analysis.peak_memory_in_bytes - state - batch
    return text, Memory(state, batch, max(0, temporaries), compiled=True)


def _bytes_per_device(tree: Any) -> int:
    """Bytes of arrays with shardings on one device."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def _estimated_temporaries(program: Program, backend: str) -> int:
    """Activations of a step with that attention backend, in bytes per device: an estimate.

    Blocks keep for the backward pass what the remat policy names; one block at a time is computed,
    with its gradients. Attention by XLA then has all its scores in memory.
    """
    config, networks = program.config, program.networks
    masks: list[Mask] = list(mask_specs(config).values())
    total = _kept_and_worked(program, backend, config.optim.global_batch, clip_spec(config), masks)
    if networks.images:
        count, masks = config.images.global_batch, [image_mask(config)]
        more = _kept_and_worked(program, backend, count, image_spec(config), masks)
        total = (total[0] + more[0], max(total[1], more[1]))
    return int(sum(total) + _bytes_per_device(program.state.params))


def _kept_and_worked(
    program: Program, backend: str, global_batch: int, clip: ClipSpec, masks: list[Mask]
) -> tuple[float, float]:
    """Bytes per device that clips of one kind keep for the backward pass, and that a block uses."""
    config, networks = program.config, program.networks
    encoder, predictor = networks.encoder, networks.predictor
    clips = global_batch / program.mesh.size / config.optim.microbatches
    size = 2 if config.model.dtype == "bfloat16" else 4
    everything = math.prod(encoder.grid(clip.frames, clip.size, clip.size))
    # Each mask specification is a separate sequence.
    contexts = [mask.context_tokens for mask in masks]
    targets = sum(mask.target_tokens for mask in masks)
    both = [mask.context_tokens + mask.target_tokens for mask in masks]

    def scores(network: Any, lengths: list[int]) -> float:
        squares = 0 if backend == "cudnn" else sum(length**2 for length in lengths)
        return clips * network.heads * squares

    def kept(network: Any, lengths: list[int]) -> float:
        hidden = network.mlp_hidden / network.width
        wide = {"none": 10 + 3 * hidden, "dots": 6 + hidden, "attention": 2, "full": 1}
        tokens = size * clips * sum(lengths) * wide[config.model.remat] * network.width
        softmax = (4 + size) * scores(network, lengths) if config.model.remat == "none" else 0
        return (tokens + softmax) * network.depth

    def working(network: Any, lengths: list[int]) -> float:
        wide = 2 * (8 * network.width + 2 * network.mlp_hidden)
        # Scores, their softmax and their gradient, in float32.
        return size * clips * sum(lengths) * wide + 3 * 4 * scores(network, lengths)

    # Target embeddings in float32, before and after their norm, and the predictions.
    encoded = everything if networks.objective.has_target else 0
    outputs = 4 * clips * (2 * encoded * encoder.width + 3 * targets * predictor.out_width)
    pixels = 4 * clips * clip.frames * clip.size**2 * 3
    return (
        kept(encoder, contexts) + kept(predictor, both) + outputs + pixels,
        max(working(encoder, [encoded or contexts[0]]), working(predictor, both)),
    )


def largest_batch(
    config: ConfigDict,
    devices: list[jax.Device],
    chip: Chip,
    say: Callable[[str], None] = lambda _: None,
) -> Plan | None:
    """The plan with the largest global batch that fits; None if one clip per chip does not fit.

    Memory grows almost linearly with the batch: two compilations give a first guess of the limit,
    and a few more come closer. The returned plan was compiled.
    """
    unit = len(devices) * config.optim.microbatches
    limit = USABLE * chip.memory

    def plan(clips: int) -> Plan:
        changed = config.copy_and_resolve_references()
        changed.optim.global_batch = clips * unit
        return make_plan(changed, devices, chip, say)

    known = {1: plan(1)}
    if not known[1].fits:
        return None
    known[4] = plan(4)
    for _ in range(SWEEPS):
        fitting = max(clips for clips, found in known.items() if found.fits)
        too_large = min((clips for clips, found in known.items() if not found.fits), default=0)
        (few, less), (many, more) = sorted(known.items())[-2:]
        per_clip = max(1.0, (more.memory.peak - less.memory.peak) / (many - few))
        clips = fitting + int((limit - known[fitting].memory.peak) / per_clip)
        clips = min(clips, too_large - 1) if too_large else clips
        if clips <= CLOSE * fitting:
            break
        known[clips] = plan(clips)
    return known[max(clips for clips, found in known.items() if found.fits)]


def table(plan: Plan, videos: int = 0, dearest: int = 0) -> str:
    """A plan as text.

    Args:
      videos: of the data set, for the number of passes; 0 = unknown.
      dearest: number of the slowest instructions to list.
    """
    memory, optim = plan.memory, plan.config.optim
    origin = "compiled" if memory.compiled else "ESTIMATED"
    sent_by = "compiled" if memory.compiled else "compiled for simulated devices"
    lines = [
        f"{plan.chips} x {plan.chip.name}, mesh "
        + " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
        + f", global batch {optim.global_batch} ({optim.global_batch // plan.chips} a chip), "
        + (f"and {plan.config.images.global_batch} images, " if plan.image else "")
        + f"remat {plan.config.model.remat}",
        "",
        f"memory of a chip ({origin})",
        *(
            f"  {name:<28}{scaled(value, 'B'):>12}"
            for name, value in (
                ("parameters, optimizer, EMA", memory.state),
                ("batch", memory.batch),
                ("temporaries", memory.temporaries),
                ("peak", memory.peak),
                ("of", plan.chip.memory),
            )
        ),
        "",
        f"collectives of a step on a chip ({sent_by})",
        *(
            f"  {kind:<20}{runs:6d} {'run ' if runs == 1 else 'runs'} "
            f"{scaled(size, 'B'):>10} of results, {scaled(sent, 'B')} sent"
            for kind, (runs, size, sent) in by_kind(plan.sent).items()
        ),
        "",
        "model FLOPs (counted)",
        _flops_line("a clip", plan.clip),
        *([_flops_line("an image", plan.image)] if plan.image else []),
        f"  a step {scaled(plan.step_flops, 'FLOP')}",
        "",
        "time (ESTIMATED from data sheets)",
        *(
            f"  {name:<10}{scaled(value, 's'):>12} at least"
            for name, value in plan.bounds().items()
        ),
    ]
    bound, *expected = plan.seconds()
    steps = optim.epochs * optim.updates_per_epoch
    clips = steps * optim.global_batch

    def at_shares(text: Callable[[float], str]) -> str:
        """The times that a step and a very good step take, as texts."""
        pairs = zip(REACHED, expected, strict=True)
        return " and ".join(f"{text(value)} at {share:.0%}" for share, value in pairs)

    passes = f" = {clips / videos:.1f} passes over {videos:,} videos" if videos else ""
    lines += [
        f"  a step takes at least {scaled(bound, 's')}; "
        f"{at_shares(lambda value: scaled(value, 's'))} of the peak",
        f"  {counted(steps, 'step')}: at least {_time(bound * steps)}; "
        f"{at_shares(lambda value: _time(value * steps))} of the peak; {clips:,} clips{passes}",
        "",
    ]
    if plan.account:
        sent = plan.bounds()["links"]
        account = account_table.lines(
            plan.account, plan.flops_by_part(), plan.chip, sent, dearest, "a step"
        )
        lines += [*account, ""]
    lines.append(verdict(plan))
    return "\n".join(lines)


def _time(seconds: float) -> str:
    """A time as "42 s", "12.3 min" or "37.5 h"."""
    if seconds < 60:
        return scaled(seconds, "s")
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _flops_line(what: str, one: flops.ClipFlops) -> str:
    return (
        f"  {what} {scaled(one.total, 'FLOP')}: "
        f"target {scaled(one.target, 'FLOP')}, "
        f"context {scaled(one.context, 'FLOP')}, "
        f"predictor {scaled(one.predictor, 'FLOP')}, "
        f"outside the blocks {scaled(one.outside, 'FLOP')}"
    )


def as_json(plan: Plan, videos: int = 0, dearest: int = 0) -> dict[str, Any]:
    """The same as numbers: bytes, FLOPs and seconds."""
    optim = plan.config.optim
    bound, *expected = plan.seconds()
    steps = optim.epochs * optim.updates_per_epoch
    found: dict[str, Any] = {
        "chip": plan.chip.name,
        "chips": plan.chips,
        "mesh": plan.mesh,
        "global_batch": optim.global_batch,
        "remat": plan.config.model.remat,
        "memory": dataclasses.asdict(plan.memory)
        | {"peak": plan.memory.peak, "of": plan.chip.memory},
        "collectives": {
            kind: {"runs": runs, "bytes": size, "sent": sent}
            for kind, (runs, size, sent) in by_kind(plan.sent).items()
        },
        "flops": {
            "clip": {**dataclasses.asdict(plan.clip), "total": plan.clip.total},
            "step": plan.step_flops,
        },
        "seconds": {
            "bounds": plan.bounds(),
            "at_least": bound,
            "at_share_of_peak": dict(zip(map(str, REACHED), expected, strict=True)),
        },
        "steps": steps,
        "clips": steps * optim.global_batch,
        "fits": plan.fits,
        "verdict": verdict(plan),
    }
    if plan.image:
        found["images"] = steps * plan.config.images.global_batch
        found["flops"]["image"] = {**dataclasses.asdict(plan.image), "total": plan.image.total}
    if videos:
        found["passes"] = found["clips"] / videos
    if plan.account:
        sent = plan.bounds()["links"]
        found["account"] = account_table.as_json(
            plan.account, plan.flops_by_part(), plan.chip, sent, dearest
        )
    return found


def verdict(plan: Plan) -> str:
    """A sentence about whether it fits, and what to try if not."""
    used = plan.memory.peak / plan.chip.memory
    if plan.fits:
        return f"fits: {used:.0%} of a chip's memory"
    ways = []
    remat = plan.config.model.remat
    if remat in ("none", "attention", "dots"):
        ways.append("model.remat=" + ("attention" if remat == "none" else "full"))
    if plan.mesh[meshes.FSDP] < plan.chips:
        ways.append("mesh.replica=1 mesh.fsdp=-1")
    per_chip = plan.config.optim.global_batch // plan.chips
    if per_chip > 1:
        ways.append(f"optim.microbatches={2 * plan.config.optim.microbatches}")
        ways.append("a smaller optim.global_batch (--sweep finds the largest)")
    ways.append("more chips")
    return f"does not fit: {used:.0%} of a chip's memory; try {', or '.join(ways)}"
