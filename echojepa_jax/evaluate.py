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
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from echojepa_jax import command_line

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "the suite: a file, or a shipped config by name: phantom", sys_argv=sys.argv
)
WEIGHTS = flags.DEFINE_multi_string(
    "weights", [], "a model: a run, an export, a file; may be repeated"
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of features, results and tables")


def evaluate(config: ConfigDict, workdir: Path) -> str:
    """Runs a suite; returns the last line.

    Raises:
      UserError: a field is impossible, or weights, data or labels cannot be used.
    """
    from echojepa_jax.evaluation import config as configs
    from echojepa_jax.evaluation import suite
    from echojepa_jax.report.evaluation_page import REPORT, write_evaluation_report
    from echojepa_jax.runtime.platform import configure_jax

    configure_jax()
    configs.check(config)
    report = workdir / REPORT
    with suite.claimed(workdir, config):
        if suite.is_done(workdir):
            return f"{workdir} is complete: nothing to do. The report is {report}"
        result = suite.run(config, workdir)
        write_evaluation_report(workdir, result)
        suite.mark_done(workdir, [suite.MARKDOWN, suite.CSV, suite.LATEX, REPORT])
    return (
        f"complete: {len(result.rows)} tasks, {len(result.models)} models. The report is {report}"
    )


def job() -> str:
    from echojepa_jax.utils.buckets import on_disk

    config = CONFIG.value
    config.weights = (*config.weights, *WEIGHTS.value)
    return evaluate(config, on_disk(str(WORKDIR.value), "workdir"))


if __name__ == "__main__":
    command_line.run(job, needed=("config", "workdir"))
