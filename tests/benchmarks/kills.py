"""Kills a run on two hosts at random times, repeatedly, and checks that nothing is lost.

  python -m tests.benchmarks.kills --times=30

Each time, SIGKILL or SIGTERM goes to one or both of the two processes at a random moment between
start-up and saving. A run that reaches its end must have the same bits as an uninterrupted one, and
no checkpoint may be damaged; then the next run starts. Each time takes about half a minute on two
cores.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from echojepa_jax.train.load_weights import weights_of_run
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.metrics_writer import read_lines
from tests import programs
from tests.makers.configs import SHRINK

FIELDS = SHRINK | {"checkpoint.every": 5, "log.health_every": 0}
DEVICES = 2  # of each host


def start(workdir: Path) -> list:
    """Starts both processes of the run."""
    address = f"127.0.0.1:{programs.free_port()}"
    return [
        programs.start(
            "main",
            "--config=configs/demo.py",
            f"--workdir={workdir}",
            *programs.as_fields(FIELDS),
            *("--hosts=2", f"--host={host}", f"--coordinator={address}"),
            devices=DEVICES,
        )
        for host in range(2)
    ]


def last_step(workdir: Path) -> int:
    return max((line["step"] for line in read_lines(workdir / "metrics.jsonl")), default=0)


def last_checkpoint(workdir: Path) -> int:
    """The step of the newest complete checkpoint; 0 = none."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def disturb(workdir: Path, rng: random.Random) -> str:
    """Starts the run, stops it at random, and returns a line about it."""
    kept = last_checkpoint(workdir)
    processes, before = start(workdir), last_step(workdir)
    steps = rng.random() < 0.9
    if steps:  # wait until it makes steps; otherwise stop it at any time
        while last_step(workdir) <= before and all(p.poll() is None for p in processes):
            time.sleep(0.05)
    time.sleep(rng.uniform(0, 4))
    victims = rng.choice([[0], [1], [0, 1]])
    kind = rng.choice([signal.SIGKILL, signal.SIGTERM])
    for victim in victims:
        processes[victim].send_signal(kind)
    done = [programs.finish(process) for process in processes]
    codes = [process.returncode for process in done]
    saved = last_checkpoint(workdir)
    if saved < kept:
        raise SystemExit(f"the checkpoint of step {kept} was lost: the last one is {saved} now")
    if kind == signal.SIGKILL and 0 in codes and "complete" not in done[0].stdout:
        raise SystemExit(f"a host ended with code 0 although another was killed: {codes}")
    if kind == signal.SIGTERM and steps:  # before the steps, Python may not have started
        lines = done[0].stdout.strip().splitlines()
        last = [line for line in lines if not line.startswith("[Gloo]")][-1:]
        if any(codes) or not last or not last[0].startswith(("stopped by a signal", "complete")):
            end = done[0].stderr[-900:]
            raise SystemExit(f"SIGTERM did not end it in order: {codes}, {last}; {end}")
    if (workdir / "damaged").exists():
        raise SystemExit(f"a checkpoint was damaged: {list((workdir / 'damaged').iterdir())}")
    return f"{kind.name} to {victims}: codes {codes}, at step {last_step(workdir)}"


def finish(workdir: Path) -> None:
    done = [programs.finish(process) for process in start(workdir)]
    if any(process.returncode for process in done):
        raise SystemExit(done[0].stderr + done[1].stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--steps", type=int, default=300, help="steps of the whole run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    FIELDS["optim.updates_per_epoch"] = options.steps // FIELDS["optim.epochs"]
    folder = Path(tempfile.mkdtemp())
    for name in ("ECHOJEPA_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        os.environ.setdefault(name, str(folder / name.lower()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    whole, broken = folder / "whole", folder / "broken-0"
    finish(whole)
    rng, runs = random.Random(options.seed), 1
    for time_ in range(options.times):
        print(f"{time_ + 1}/{options.times}: {disturb(broken, rng)}", flush=True)
        if (broken / "done.json").exists():
            compare(whole, broken)
            broken, runs = folder / f"broken-{runs}", runs + 1
    finish(broken)
    compare(whole, broken)
    print(f"{options.times} kills of {runs} runs: nothing damaged, all of them bit-identical")
    shutil.rmtree(folder)


def compare(whole: Path, broken: Path) -> None:
    """Checks that all parameters of both runs have the same bits."""
    trees = [jax.tree.leaves(dict(weights_of_run(Workdir(run)).params)) for run in (whole, broken)]
    for mine, wanted in zip(*trees, strict=True):
        np.testing.assert_array_equal(mine, wanted)
    print(f"{broken.name} is complete: all {len(trees[0])} arrays bit-identical", flush=True)


if __name__ == "__main__":
    main()
