"""Starts programs as a user does: in their own processes, with simulated devices."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent

# Seconds; no program of a test needs longer, even on the slowest machine.
TIMEOUT = 400


# Tests spend most of their time compiling small programs: skip the costly optimisations.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

# The compiler for TPUs ends a process that has these flags of CPUs, and so does JAX from 0.11 on,
# which no longer has the first. It halves the rest; the second, one module for LLVM instead of
# many, saves another tenth.
OLD_JAX = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)
_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
QUICK_ON_CPU = _FLAGS if OLD_JAX else ""


def simulated(devices: int) -> str:
    """The flag that makes JAX simulate this many devices on one CPU."""
    return f"--xla_force_host_platform_device_count={devices}"


def xla_flags(devices: int = 1, for_tpus: bool = False) -> str:
    """XLA's flags of a program that compiles quickly, for simulated devices or for TPUs."""
    return " ".join((QUICK, "" if for_tpus else QUICK_ON_CPU, simulated(devices)))


def start(
    program: str,
    *arguments: str,
    devices: int = 1,
    environment: Mapping[str, str] | None = None,
    preexec: Callable[[], Any] | None = None,
) -> subprocess.Popen:
    """Starts `python -m echojepa_jax.<program>`; its outputs are pipes of text."""
    for_tpus = any(argument.startswith("--topology") for argument in arguments)
    flags = {"XLA_FLAGS": xla_flags(devices, for_tpus)}
    return subprocess.Popen(
        [sys.executable, "-m", f"echojepa_jax.{program}", *arguments],
        cwd=REPOSITORY,
        env=os.environ | flags | (environment or {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=preexec,
    )


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Waits for a process to end; returns its exit code and outputs."""
    out, err = process.communicate(timeout=TIMEOUT)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(program: str, *arguments: str, **settings: Any) -> subprocess.CompletedProcess:
    """`start`, then `finish`."""
    return finish(start(program, *arguments, **settings))


def run_code(
    code: str, *arguments: str, cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Runs Python code in a process of its own."""
    words = [sys.executable, "-c", code, *arguments]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)


def error_of(done: subprocess.CompletedProcess) -> str:
    """The line with which a program has refused to work: one sentence, and no traceback."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return error


def succeed(program: str, *arguments: str, **settings: Any) -> subprocess.CompletedProcess:
    """`run`, of a program that must end well."""
    done = run(program, *arguments, **settings)
    assert done.returncode == 0, done.stderr
    return done


def as_fields(fields: Mapping[str, Any]) -> list[str]:
    """Flags that set these fields of a config."""
    return [f"--config.{name}={value}" for name, value in fields.items()]


def free_port() -> int:
    """A port that is not in use."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
