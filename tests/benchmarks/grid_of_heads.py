"""What six heads of a grid cost over one, on features that are stored already.

  python -m tests.benchmarks.grid_of_heads --tokens=512 --width=64 --updates=30

Prints, for each kind of head, processor seconds for one head and for six, and their ratio. The
first update, which compiles, is not counted. Linear and MLP heads get the mean token of each clip.
"""

import argparse
import time

import jax
import numpy as np

from echojepa_jax.evaluation.fit import HowToFit, _batches, head_choice
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
    if choice.averages:
        features = features.averaged()
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
    tokens = rng.standard_normal((count, given.tokens, given.width)).astype(np.float32)
    place, clip = np.arange(count), np.zeros((count, 1), bool)
    features = Features(place, tokens, place[:, None], np.ones(count, bool), clip, {})
    examples = [
        Example(str(i), "", str(i), "", "train", "", ((i,),), float(rng.normal(55, 12)))
        for i in range(count)
    ]
    print(f"{jax.devices()[0].device_kind}: {given.tokens} tokens of {given.width}, batch {BATCH}")
    for name in given.heads.split(","):
        one, six = (seconds(name, features, examples, n, given.updates) for n in (1, 6))
        print(f"{name:12} one {one:7.3f} s   six {six:7.3f} s   ratio {six / one:5.2f}")


if __name__ == "__main__":
    main()
