"""What six heads of a grid cost over one, on features that are stored on disk already.

  python -m tests.benchmarks.grid_of_heads --tokens=512 --width=64 --updates=30

Prints, for each kind of head, processor seconds for one head and for six, and their ratio. Features
are read as the suite reads them, from files of float16. The first update, which compiles, is not
counted. Linear and MLP heads get the mean token of each clip, which is stored beside the tokens.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from echojepa_jax.evaluation.fit import HowToFit, _batches, fit_look, head_choice
from echojepa_jax.evaluation.stored import PART, Rows
from echojepa_jax.models.heads import Head
from echojepa_jax.probes import grid as grids
from echojepa_jax.probes.examples import Example
from echojepa_jax.probes.predict import Features
from echojepa_jax.probes.task import fit_task

RATES, DECAYS = (1e-4, 5e-5), (0.01, 0.1, 0.4)  # the paper's grid
BATCH = 32


def seconds(name: str, features: Features, examples: list[Example], heads: int, updates: int):
    """Of `updates` updates of so many heads."""
    task = fit_task("regression", "ef", examples, "%")
    choice = head_choice(name)
    rows = list(range(len(examples)))
    features = fit_look(features, rows, choice, standardise=False).of(features)
    head = Head(kind=choice.kind, outputs=1, depth=choice.depth, heads=4)
    cells = grids.cells(RATES, DECAYS)[:heads]
    state = grids.init_grid(head, jax.random.key(0), features.tokens.shape[-1], heads)
    batches = _batches(features, examples, task, BATCH, HowToFit(name), 0)
    for update in range(1, updates + 2):
        tokens, batch = next(batches)
        rates = grids.rates(cells, update, updates + 1)
        state, _ = grids.grid_step(state, tokens, batch, *rates, head, "regression")
        if update == 1:
            jax.block_until_ready(state)
            started = time.process_time()
    jax.block_until_ready(state)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("videos", 500), ("tokens", 8), ("width", 192), ("updates", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--heads", default="linear,mlp,attentive-1,attentive-4")
    given = parser.parse_args()
    rng, count = np.random.default_rng(0), given.videos
    place, clip = np.arange(count), np.zeros((count, 1), bool)
    examples = [
        Example(str(i), "", str(i), "", "train", "", ((i,),), float(rng.normal(55, 12)))
        for i in range(count)
    ]
    print(f"{jax.devices()[0].device_kind}: {given.tokens} tokens of {given.width}, batch {BATCH}")
    with tempfile.TemporaryDirectory() as folder:
        parts, means = [], []
        for start in range(0, count, PART):
            size = min(PART, count - start), given.tokens, given.width
            tokens, path = rng.standard_normal(size, np.float32), Path(folder) / f"{start}.npy"
            np.save(path, tokens.astype(np.float16))
            parts.append(np.load(path, mmap_mode="r"))
            means.append(tokens.mean(axis=1))
        there = np.ones(count, bool)
        stored = place, Rows(parts), place[:, None], there, clip, {}, np.concatenate(means)
        for name in given.heads.split(","):
            one, six = (
                seconds(name, Features(*stored), examples, n, given.updates) for n in (1, 6)
            )
            print(f"{name:12} one {one:7.3f} s   six {six:7.3f} s   ratio {six / one:5.2f}")


if __name__ == "__main__":
    main()
