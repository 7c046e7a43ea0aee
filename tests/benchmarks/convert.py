"""Measures the time and memory of converting a PyTorch checkpoint.

  python -m tests.benchmarks.convert vit_giant

Writes a random checkpoint of that size to a temporary folder, converts it to Orbax in a separate
process, and prints JSON: bytes of the checkpoint, seconds, and peak memory of that process.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from echojepa_jax.models.vit import SIZES
from echojepa_jax.weights.write import write_weights
from tests.makers.weights import TINY, random_weights

# Linux also counts the memory of the parent process: so a small program starts the conversion.
_WATCHER = """
import resource, subprocess, sys
quiet = subprocess.DEVNULL
status = subprocess.call(sys.argv[1:], stdout=quiet, stderr=quiet)
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measure(name: str, folder: Path) -> dict[str, float]:
    """Converts a random encoder of that size ("tiny" or a row of the table of sizes)."""
    shape = SIZES.get(name, TINY)
    write_weights(random_weights(shape, None, ("encoder",)), folder / "torch", "torch")
    checkpoint = folder / "torch" / "model.pt"
    command = [sys.executable, "-m", "echojepa_jax.convert", f"--from={checkpoint}"]
    command += [f"--to={folder / 'ours'}", f"--heads={shape.heads}"]
    started = time.perf_counter()
    watched = [sys.executable, "-c", _WATCHER, *command]
    output = subprocess.run(watched, capture_output=True, text=True, check=True).stdout
    seconds = time.perf_counter() - started
    status, kilobytes = map(int, output.split())
    assert status == 0, f"the conversion failed with {status}"
    return {
        "checkpoint_bytes": checkpoint.stat().st_size,
        "seconds": round(seconds, 1),
        "peak_bytes": kilobytes * 1024,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        torch.set_num_threads(1)
        print(json.dumps(measure(sys.argv[1], Path(scratch))))
