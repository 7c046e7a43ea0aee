"""Measure the training step on this machine, or the input pipeline alone.

  python -m echojepa_jax.bench --config=configs/demo.py --steps=20 --compare=torch
  python -m echojepa_jax.bench --config=configs/vit_l.py --config.optim.global_batch=64 \\
      --out=h100.json
  python -m echojepa_jax.bench --data --config=configs/vit_l.py --source=videos:/data/clips \\
      --compare=decord

Steps are timed on random clips, after some steps that are not timed. --compare=torch runs our step
and PyTorch's step of the same sizes in turn (it needs the extra [torch]). With --data,
--compare=decord reads the same frames of the same files with decord (pip install decord). Set any
field of the config as in training. To measure the step, only JAX, the model's own libraries and
ml_collections need to be installed.
"""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from echojepa_jax import command_line
from echojepa_jax.command_line import say

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "config to measure: a file, or the name of a shipped config, such as demo",
    sys_argv=command_line.for_config_flags(sys.argv),
)
STEPS = flags.DEFINE_integer("steps", 20, "number of steps to time", lower_bound=1)
COMPARE = flags.DEFINE_enum(
    "compare", "", ["", "torch", "decord"], "another program to measure alternately with ours"
)
OUT = flags.DEFINE_string("out", "", "also write all numbers to this JSON file")
DATA = flags.DEFINE_bool("data", False, "measure the input pipeline instead of the step")
SOURCE = flags.DEFINE_string(
    "source", "", "with --data: videos, as 'kind:path'; '' = the config's sources"
)
CLIPS = flags.DEFINE_integer(
    "clips", 200, "with --data: least number of clips to make", lower_bound=1
)


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    # PyTorch needs room on the GPU as well.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from echojepa_jax.runtime.platform import configure_jax
    from echojepa_jax.utils.errors import UserError
    from echojepa_jax.utils.extras import pip_install

    of_the_other = ("steps",) if DATA.value else ("source", "clips")
    for name in of_the_other:
        if flags.FLAGS[name].present:
            raise UserError(
                f"--{name} is {'not ' if DATA.value else 'only '}for --data: see --help"
            )
    if COMPARE.value and DATA.value != (COMPARE.value == "decord"):
        raise UserError(
            "--compare=torch measures the step, --compare=decord needs --data: see --help"
        )
    config = CONFIG.value
    if SOURCE.value:
        config.data.sources = (SOURCE.value,)
    import jax

    configure_jax()
    if DATA.value:
        from echojepa_jax.costs import data_bench

        found = data_bench.measure(config, CLIPS.value, say, decord=COMPARE.value == "decord")
        print(data_bench.table(found))
        last = f"{found['clips_per_second']:.1f} clips/s by {found['cores']} cores"
        text = data_bench.as_json(found)
    else:
        from echojepa_jax.costs import bench
        from echojepa_jax.train import config as configs

        configs.fill_sources(config)  # the clips are random
        configs.check(config, jax.device_count())
        if COMPARE.value and jax.default_backend() != "cpu" and jax.device_count() > 1:
            raise UserError("--compare=torch can use only one GPU: set CUDA_VISIBLE_DEVICES=0")
        try:
            result = bench.measure(config, STEPS.value, COMPARE.value == "torch", say=say)
        except ImportError as error:
            raise UserError(f"--compare=torch: {error}; {pip_install('torch')}") from error
        print(bench.table(result))
        facts = result.facts
        last = f"{facts['clips_per_second']:.2f} clips/s, {facts['mfu']:.1%} of the peak"
        if "times_torch" in facts:
            last += f", {facts['times_torch']:.2f} times PyTorch's speed"
        text = result.as_json()
    if OUT.value:
        Path(OUT.value).write_text(text)
    return last


if __name__ == "__main__":
    command_line.run(job, needed=("config",))
