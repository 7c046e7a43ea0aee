"""Measures the training step on random clips, after a warm-up, until its results are computed."""

import dataclasses
import itertools
import json
import math
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from echojepa_jax.costs import flops
from echojepa_jax.data.clips.prefetch import DeviceBatches
from echojepa_jax.models.family import V2
from echojepa_jax.ops.rotary import Grid
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.program import make_program, memory_of, shapes_of
from echojepa_jax.train.state import make_networks
from echojepa_jax.utils.errors import UserError

_COMPILED = "/jax/core/compile/backend_compile_duration"


def random_batch(config: ConfigDict, seed: int = 0) -> dict[str, Any]:
    """A global batch of noise, and masks of the config's lengths, as in training."""
    rng = np.random.default_rng(seed)
    shapes, grid = shapes_of(config), make_networks(config).encoder.grid
    batch = _noise(shapes, grid, rng)
    batch["stop"] = np.zeros(len(batch["valid"]), bool)
    if "frames" in shapes:
        batch["frames"] = np.full(len(batch["valid"]), config.data.frames, np.int32)
    if "images" in shapes:
        batch["images"] = _noise(shapes["images"], grid, rng)
    return batch


def _noise(
    shapes: dict[str, Any], grid_of: Callable[..., Grid], rng: np.random.Generator
) -> dict[str, Any]:
    """Valid clips or images of these shapes, with masks."""
    clips = rng.integers(0, 256, shapes["clips"].shape, np.uint8)
    tokens, ids = math.prod(grid_of(*clips.shape[1:4])), []
    for context, target in zip(shapes["context_ids"], shapes["target_ids"], strict=True):
        seen, hidden = context.shape[1], target.shape[1]
        drawn = np.argsort(rng.random((len(clips), tokens)), axis=1).astype(np.int32)
        parts = drawn[:, :seen], drawn[:, seen : seen + hidden]
        ids.append([np.sort(part, axis=1) for part in parts])
    context_ids, target_ids = zip(*ids, strict=True)
    valid = np.ones(len(clips), bool)
    return {"clips": clips, "context_ids": context_ids, "target_ids": target_ids, "valid": valid}


class OurStep:
    """The compiled step of a config, with random clips from the host."""

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        started = time.perf_counter()
        self.program = make_program(config, mesh)
        self._compiled = self.program.compile()
        self.compile_seconds = time.perf_counter() - started
        self._state = self.program.init()
        pool = [random_batch(config, seed) for seed in range(2)]
        self._batches = DeviceBatches(itertools.cycle(pool), meshes.batch_sharding(mesh))
        self.waited = 0.0

    def run(self) -> float:
        """Makes one step; returns its seconds, including the wait for its batch."""
        started = time.perf_counter()
        before = self._batches.wait_seconds
        batch = next(self._batches)
        self.waited += self._batches.wait_seconds - before
        self._state, metrics = self._compiled(self._state, batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - started

    def peak_memory(self) -> int:
        """Peak memory of a step on one device, in bytes."""
        stats = self.program.mesh.local_devices[0].memory_stats()
        if stats and "peak_bytes_in_use" in stats:
            return stats["peak_bytes_in_use"]
        return memory_of(self._compiled)

    def close(self) -> None:
        self._batches.close()


class CountCompilations:
    """Counts the programs that JAX compiles from now on."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event == _COMPILED


def matmul_peak(dtype: str, repeats: int = 10) -> tuple[float, str]:
    """FLOP/s of a large matrix product, the median of `repeats`, and what was multiplied."""
    # Several at a time, so that the host's delay counts only once; a CPU has none.
    size, together = (2048, 1) if jax.default_backend() == "cpu" else (8192, 5)
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(jnp.matmul)
    for _ in range(3):
        product(a, a).block_until_ready()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready([product(a, a) for _ in range(together)])
        seconds.append(time.perf_counter() - started)
    return together * 2 * size**3 / statistics.median(seconds), f"{size}^3 {dtype}"


def _torch_device() -> str:
    """PyTorch's name for the device that JAX computes on."""
    import torch

    mine = jax.default_backend()
    if mine not in ("cpu", "gpu"):
        raise UserError(
            f"--compare=torch needs a GPU or the CPU, but JAX computes on {mine}: leave it out"
        )
    if mine == "gpu" and not torch.cuda.is_available():
        raise UserError(
            "--compare=torch: JAX uses a GPU, but PyTorch finds none: install PyTorch with CUDA"
        )
    return "cuda" if mine == "gpu" else "cpu"


@dataclasses.dataclass(frozen=True)
class Result:
    """Seconds of each step, and facts; facts without "torch" in their name are about our step."""

    ours: list[float]
    torch: list[float]
    facts: dict[str, Any]

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def measure(
    config: ConfigDict,
    steps: int,
    compare_torch: bool = False,
    warm_up: int = 3,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Times `steps` steps, with `compare_torch` in alternation with PyTorch's steps.

    Raises:
      ImportError: `compare_torch` is set, but PyTorch or transformers is not installed.
      UserError: PyTorch cannot compute on the same device, or does not have this model.
    """
    if compare_torch and config.model.family != V2:
        raise UserError(
            f"--compare=torch needs model.family={V2}, because the transformers library has no "
            f"PyTorch model of family {config.model.family}: leave it out"
        )
    device = _torch_device() if compare_torch else ""
    mesh = meshes.make_mesh(replica=config.mesh.replica, fsdp=config.mesh.fsdp)
    peak, multiplied = matmul_peak(config.model.dtype)
    say(f"matrix products reach {peak / 1e12:.3g} TFLOP/s on a device ({multiplied})")
    ours = OurStep(config, mesh)
    say(f"compiled in {ours.compile_seconds:.0f} s")
    theirs: Any = None
    if compare_torch:
        from echojepa_jax.costs.torch_step import TorchStep

        ours.run()  # so that JAX gets its memory before PyTorch takes the rest
        say("compiling PyTorch's step")
        theirs = TorchStep.fitting(config, random_batch(config), device)
        say(theirs.note or "PyTorch is ready")
    for _ in range(warm_up):
        ours.run()
        if theirs:
            theirs.run()
    compilations, ours.waited = CountCompilations(), 0.0
    mine, other = [], []
    for step in range(steps):
        mine.append(ours.run())
        if theirs:
            other.append(theirs.run())
        if step == 0 or (step + 1) % max(1, steps // 4) == 0:
            left = (steps - step - 1) * (mine[-1] + (other[-1] if other else 0))
            say(f"step {step + 1}/{steps}, {left:.0f} s left")
    ours.close()
    seconds = statistics.median(mine)
    used = flops.of_step(config) / seconds
    facts = {
        "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "host": f"{platform.machine()}, {_processor()}",
        "jax": jax.__version__,
        "mesh": dict(mesh.shape),
        "attention": ours.program.networks.encoder.attention,
        "remat": config.model.remat,
        "dtype": config.model.dtype,
        "global_batch": config.optim.global_batch,
        "step_seconds": seconds,
        "clips_per_second": config.optim.global_batch / seconds,
        "tflop_per_clip": flops.of_clip(config).total / 1e12,
        "model_tflops": used / 1e12,
        "matmul_peak_tflops": peak * mesh.size / 1e12,
        "mfu": used / (peak * mesh.size),
        "peak_memory_gb": ours.peak_memory() / 1e9,
        "host_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "recompilations": compilations.count,
        "transfer_wait_share": ours.waited / sum(mine),
        "compile_seconds": ours.compile_seconds,
    }
    if theirs:
        import torch

        facts |= {
            "torch": f"{torch.__version__}, {device}",
            "torch_step_seconds": statistics.median(other),
            "torch_clips_per_second": config.optim.global_batch / statistics.median(other),
            "torch_peak_memory_gb": theirs.peak_memory() / 1e9,
            "torch_note": theirs.note,
            # Of neighbouring steps, because a busy machine slows both.
            "times_torch": statistics.median(b / a for a, b in zip(mine, other, strict=True)),
        }
    return Result(mine, other, facts)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def table(result: Result) -> str:
    """The facts as text."""
    width = max(map(len, result.facts)) + 2
    lines = []
    for name, value in result.facts.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        if name == "mfu":
            shown = f"{value:.1%} of the measured matrix products"
        lines.append(f"{name:<{width}}{shown}")
    return "\n".join(lines)
