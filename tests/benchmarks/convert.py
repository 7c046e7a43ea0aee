"""How long converting a PyTorch checkpoint takes, and how much memory.

  python -m tests.benchmarks.convert vit_giant

Makes a random checkpoint of that size in a temporary folder, converts it to Orbax in a process of
its own, and prints JSON: bytes of the checkpoint, seconds, and the peak of that process.
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

# Linux counts for a program the memory of the one that started it: so a small one does.
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
    said = subprocess.run(watched, capture_output=True, text=True, check=True).stdout
    seconds = time.perf_counter() - started
    status, kilobytes = map(int, said.split())
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
