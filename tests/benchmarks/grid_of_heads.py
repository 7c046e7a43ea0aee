"""What six heads of a grid cost over one, on features that are stored on disk already.

  python -m tests.benchmarks.grid_of_heads --tokens=512 --width=64 --updates=30
  python -m tests.benchmarks.grid_of_heads --videos=96 --tokens=1568 --width=1024 --attention=16 \
    --clips=2 --batch=8 --heads=linear,mlp,attentive-1 --topology=v5e:2x2

The first form prints processor seconds for one head and for six, and their ratio. Features are read
as the suite reads them, from files of float16. The first update, which compiles, is not counted.
Linear and MLP heads get the mean token of each clip, which is stored beside the tokens.

With --topology, an update is not run but compiled for one chip of a TPU that need not be there:
its time is that of the compiler's account. The ratio is that of reading, which is measured here,
and the update, one after the other.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from echojepa_jax.costs import account as accounts
from echojepa_jax.costs import ahead
from echojepa_jax.costs.chips import TPUS
from echojepa_jax.evaluation.fit import HowToFit, _batches, fit_look, head_choice
from echojepa_jax.evaluation.stored import PART, Rows
from echojepa_jax.models.heads import Head
from echojepa_jax.probes import grid as grids
from echojepa_jax.probes.examples import Example
from echojepa_jax.probes.predict import Features
from echojepa_jax.probes.task import fit_task

RATES, DECAYS = (1e-4, 5e-5), (0.01, 0.1, 0.4)  # the paper's grid

parser = argparse.ArgumentParser()
for name, value in (("videos", 500), ("tokens", 8), ("width", 192), ("updates", 100)):
    parser.add_argument(f"--{name}", type=int, default=value)
for name, value in (("clips", 1), ("batch", 32), ("attention", 4), ("hidden", 256)):
    parser.add_argument(f"--{name}", type=int, default=value)
parser.add_argument("--heads", default="linear,mlp,attentive-1,attentive-4")
parser.add_argument("--topology", default="")
given = parser.parse_args()


def batches_of(name: str, features: Features, examples: list[Example]):
    """Batches without an end, as the suite makes them, and the head."""
    task, choice = fit_task("regression", "ef", examples, "%"), head_choice(name)
    rows = list(range(len(examples)))
    features = fit_look(features, rows, choice, standardise=False).of(features)
    sizes = dict(heads=given.attention, hidden=given.hidden, clips=given.clips)
    head = Head(kind=choice.kind, outputs=1, depth=choice.depth, **sizes)
    return _batches(features, examples, task, given.batch, HowToFit(name), 0), head


def measured(name: str, features: Features, examples: list[Example], heads: int) -> float:
    """Processor seconds of the updates of so many heads, with reading."""
    batches, head = batches_of(name, features, examples)
    cells = grids.cells(RATES, DECAYS)[:heads]
    state = grids.init_grid(head, jax.random.key(0), given.width, heads)
    for update in range(1, given.updates + 2):
        tokens, batch = next(batches)
        rates = grids.rates(cells, update, given.updates + 1)
        state, _ = grids.grid_step(state, tokens, batch, *rates, head, "regression")
        if update == 1:
            jax.block_until_ready(state)
            started = time.process_time()
    jax.block_until_ready(state)
    return time.process_time() - started


def reading(name: str, features: Features, examples: list[Example]) -> float:
    """Seconds that a batch takes on this machine."""
    batches, _ = batches_of(name, features, examples)
    next(batches)
    started = time.perf_counter()
    for _ in range(given.updates):
        next(batches)
    return (time.perf_counter() - started) / given.updates


def compiled(name: str, features: Features, examples: list[Example], heads: int) -> float:
    """Seconds of an update of so many heads on one chip, by the compiler's account."""
    place = SingleDeviceSharding(ahead.tpu_devices(given.topology)[0])
    batches, head = batches_of(name, features, examples)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: grids.init_grid(head, key, given.width, heads), key)
    rates = grids.rates(grids.cells(RATES, DECAYS)[:heads], 1, 2)
    inputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, jax.dtypes.canonicalize_dtype(x.dtype), sharding=place
        ),
        (state, *next(batches), *rates),
    )
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        lowered = grids.grid_step.lower(*inputs, head, "regression")
        lowered.compile(compiler_options=options)
        chip = TPUS[given.topology.partition(":")[0]]
        found = accounts.of_dump(Path(folder), chip, None)
    if not found:
        raise SystemExit(accounts.NO_ESTIMATES)
    return found.seconds


def main() -> None:
    if given.topology:
        ahead.prepare_environment()
    rng, count = np.random.default_rng(0), given.videos * given.clips
    at = np.arange(count).reshape(given.videos, given.clips)
    examples = [
        Example(str(i), "", str(i), "", "train", "", ((i,),), float(rng.normal(55, 12)))
        for i in range(given.videos)
    ]
    where = given.topology or jax.devices()[0].device_kind
    sizes = f"{given.clips} x {given.tokens} tokens of {given.width}, batch {given.batch}"
    print(f"{where}: {sizes}")
    with tempfile.TemporaryDirectory() as folder:
        parts, means = [], []
        for start in range(0, count, PART):
            size = min(PART, count - start), given.tokens, given.width
            tokens, path = rng.standard_normal(size, np.float32), Path(folder) / f"{start}.npy"
            np.save(path, tokens.astype(np.float16))
            parts.append(np.load(path, mmap_mode="r"))
            means.append(tokens.mean(axis=1))
        there, repeats = np.ones(count, bool), np.zeros(at.shape, bool)
        stored = Features(
            np.arange(given.videos), Rows(parts), at, there, repeats, {}, np.concatenate(means)
        )
        for name in given.heads.split(","):
            seconds = compiled if given.topology else measured
            one, six = (seconds(name, stored, examples, n) for n in (1, 6))
            read = reading(name, stored, examples) if given.topology else 0.0
            beside = f"   reading {read:.4f} s" if read else ""
            ratio = (read + six) / (read + one)
            print(f"{name:12}{beside}   one {one:.4f} s   six {six:.4f} s   ratio {ratio:5.2f}")


if __name__ == "__main__":
    main()
