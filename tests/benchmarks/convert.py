"""Measures the time and memory of converting a PyTorch checkpoint.

  python -m tests.benchmarks.convert vit_giant

Writes a random checkpoint of that size to a temporary folder, converts it to Orbax in a separate
process, and prints JSON: bytes of the checkpoint, and the time and peak memory of that process.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from echojepa_jax.models.vit import SIZES
from echojepa_jax.weights.pretrained import Pretrained
from echojepa_jax.weights.write import write_weights
from tests.makers.weights import TINY, random_weights

# Linux also counts the memory of the parent process: so a small program starts the conversion.
_WATCHER = """
import resource, subprocess, sys
quiet = subprocess.DEVNULL
status = subprocess.call(sys.argv[1:], stdout=quiet, stderr=quiet)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(status, used.ru_maxrss, round(used.ru_utime + used.ru_stime))
"""


def measure(weights: Pretrained, folder: Path) -> dict[str, float]:
    """Converts an encoder."""
    write_weights(weights, folder / "torch", "torch")
    checkpoint = folder / "torch" / "model.pt"
    command = [sys.executable, "-m", "echojepa_jax.convert", f"--from={checkpoint}"]
    command += [f"--to={folder / 'ours'}", f"--heads={weights.shape.heads}"]
    started = time.perf_counter()
    watched = [sys.executable, "-c", _WATCHER, *command]
    output = subprocess.run(watched, capture_output=True, text=True, check=True).stdout
    seconds = time.perf_counter() - started
    status, kilobytes, cpu_seconds = map(int, output.split())
    assert status == 0, f"the conversion failed with {status}"
    return {
        "checkpoint_bytes": checkpoint.stat().st_size,
        "seconds": round(seconds, 1),
        "cpu_seconds": cpu_seconds,
        "peak_bytes": kilobytes * 1024,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        torch.set_num_threads(1)
        shape = SIZES.get(sys.argv[1], TINY)  # "tiny" or a row of the table of sizes
        print(json.dumps(measure(random_weights(shape, None, ("encoder",)), Path(scratch))))
