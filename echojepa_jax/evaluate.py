"""Evaluate models side by side: many tasks, one pass of each encoder, tables with intervals.

  python -m echojepa_jax.evaluate --config=configs/evaluation/phantom.py --weights=runs/demo \\
      --workdir=runs/evaluation
  python -m echojepa_jax.evaluate --config=configs/evaluation/phantom.py --weights=runs/demo \\
      --weights=runs/other --workdir=runs/compare

Weights are a run, an export, or whatever `convert` reads; the first model is the one that the
others are compared with. The workdir gets tables.md, tables.csv, tables.tex and report.html.
Started again, the same command continues where it was.
"""

import sys

from absl import flags
from ml_collections import config_flags

from echojepa_jax import command_line

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "the suite: a file, or a shipped config by name: phantom", sys_argv=sys.argv
)
WEIGHTS = flags.DEFINE_multi_string(
    "weights", [], "a model: a run, an export, a file; may be repeated"
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of features, results and tables")


def job() -> str:
    from echojepa_jax.api import evaluate
    from echojepa_jax.utils.buckets import on_disk

    config = CONFIG.value
    config.weights = (*config.weights, *WEIGHTS.value)
    return evaluate(config, on_disk(str(WORKDIR.value), "workdir"))


if __name__ == "__main__":
    command_line.run(job, needed=("config", "workdir"))
