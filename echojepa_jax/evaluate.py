"""Evaluate models side by side: many tasks, one pass of each encoder, tables with intervals.

  python -m echojepa_jax.evaluate --config=configs/evaluation/phantom.py --weights=runs/demo \\
      --workdir=runs/evaluation
  python -m echojepa_jax.evaluate --config=configs/evaluation/phantom.py --weights=runs/demo \\
      --weights=runs/other --workdir=runs/compare

Weights are a run, an export, or anything that `convert` reads. All models are compared with the
first one. The workdir gets tables.md, tables.csv, tables.tex and report.html. If the program was
interrupted, run the same command again: it continues.
"""

import sys

from absl import flags
from ml_collections import config_flags

from echojepa_jax import command_line

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "config of the suite: a file, or the name of a shipped config, such as evaluation/phantom",
    sys_argv=sys.argv,
)
WEIGHTS = flags.DEFINE_multi_string(
    "weights", [], "a model to evaluate: a run, an export, or a file; may be repeated"
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder for features, results and tables")


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    from echojepa_jax.api import evaluate
    from echojepa_jax.utils.buckets import on_disk
    from echojepa_jax.utils.errors import UserError

    config = CONFIG.value
    if "tasks" not in config:
        raise UserError("--config is not a suite of tasks, such as evaluation/phantom: see --help")
    config.weights = (*config.weights, *WEIGHTS.value)
    return evaluate(config, on_disk(str(WORKDIR.value), "workdir"))


if __name__ == "__main__":
    command_line.run(job, needed=("config", "workdir"))
