"""Pretrain EchoJEPA.

  python -m echojepa_jax.main --config=configs/demo.py --workdir=runs/demo
  python -m echojepa_jax.main --config=configs/vit_l.py --workdir=runs/vit_l \\
      --config.data.sources="('videos:/data/clips', 'dicom:/data/mimic')" --config.data.workers=8

The same command continues a run that was stopped, and does nothing if the run is complete. Set any
field of the config with --config.section.field=value. A source says where videos come from, as
'kind:path': 'videos:/data/clips', 'dicom:/data/archive', 'phantom:adult' (simulated hearts),
'echonet_dynamic:/data/EchoNet-Dynamic', or the folder of a prepared set (see the program prepare).
docs/your_data.md lists all kinds.
"""

import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from echojepa_jax import command_line

# Most modules are imported inside the functions: data workers also import this file and do not need
# them.

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "config of the training: a file, or the name of a shipped config, such as demo or vit_l",
    sys_argv=command_line.for_config_flags(sys.argv),
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "folder for all that the run writes: checkpoints, metrics, report; or gs://..., s3://...",
)
HOST = flags.DEFINE_integer(
    "host", 0, "number of this host (process of the run), from 0, if several train together"
)
HOSTS = flags.DEFINE_integer(
    "hosts",
    0,
    "number of hosts that train together; 0 = read it from SLURM or GKE, else 1; -1 = ask the "
    "cluster (TPU)",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "ADDRESS:PORT of host 0; needed with --hosts above 1"
)


def train(config: ConfigDict, name: str | Path) -> str:
    """Trains in the workdir of that name; returns the last line to print.

    Raises:
      UserError: a mistake that the user can correct.
    """
    from echojepa_jax.runtime.platform import configure_jax, share_programs
    from echojepa_jax.train.claim import claimed, is_finished
    from echojepa_jax.train.workdir import Workdir
    from echojepa_jax.utils.errors import UserError

    if "head" in config:
        raise UserError("--config is the config of a probe: run the program `probe` with it")
    if "tasks" in config:
        raise UserError("--config is a suite of tasks: run the program `evaluate` with it")
    configure_jax()
    workdir = Workdir.of(str(name))
    path = workdir.path
    report, files = f"{name}/report.html", ["report.html"]
    nothing_to_do = f"{name} is complete: nothing to do. The report is {report}"
    if is_finished(workdir, config, files):
        return nothing_to_do

    import jax

    from echojepa_jax.parallel import hosts
    from echojepa_jax.train import config as configs
    from echojepa_jax.train.loop import run

    configs.check(config, jax.device_count())
    with claimed(workdir, config):
        workdir.share()
        share_programs(workdir.kept)
        if workdir.is_done(files):
            return nothing_to_do
        probe = None
        if config.probe.source:
            from echojepa_jax.report.plots import scatter_picture
            from echojepa_jax.train.evaluators import linear_probe  # and scikit-learn

            probe = partial(linear_probe.evaluator, config, path, draw=scatter_picture)
        outcome = run(config, workdir, probe)
        where = f"step {outcome.step} of {outcome.last_step}"
        if not outcome.complete:
            return f"stopped by a signal; saved at {where}. The same command continues the run."
        if hosts.is_first():
            from echojepa_jax.report.training_page import write_report  # and Matplotlib

            write_report(path)
            workdir.mark_done(outcome.step)
            workdir.publish()
        hosts.barrier("complete")
        return f"complete: {where}. The report is {report}"


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    from echojepa_jax.parallel import hosts
    from echojepa_jax.runtime.platform import reserve_gpu_memory

    reserve_gpu_memory()
    hosts.start(HOST.value, HOSTS.value, COORDINATOR.value)
    _without_phantom(CONFIG.value, config_flags.get_override_values(flags.FLAGS["config"]))
    return train(CONFIG.value, str(WORKDIR.value))


def _without_phantom(config: ConfigDict, asked: Mapping[str, Any]) -> None:
    """Removes the phantom's probe from a config whose videos were replaced by other videos.

    Args:
      asked: the fields set on the command line.
    """
    from echojepa_jax.data.sources import kind_of

    log = logging.getLogger(__name__)
    probe = config.get("probe", {}).get("source", "")
    if "probe.source" in asked or not probe.startswith("phantom:"):
        return
    if any(kind_of(source) == "phantom" for source in config.data.sources):
        return
    if "data.sources" not in asked:
        log.warning(
            "the online probe is for the phantom, but the run trains on other videos: set "
            "probe.source to labelled videos, or to '' for no probe"
        )
        return
    config.probe.source = ""
    log.info(
        "no online probe: the probe of this config is for the phantom, but the run trains on other "
        "videos; to get a probe, name labelled videos with --config.probe.source"
    )


def _print_stopped() -> None:
    """Prints the last line after a signal outside of training."""
    from echojepa_jax.parallel import hosts

    line = (
        "stopped by a signal; nothing had to be saved. The same command continues the run from its "
        "last checkpoint, or starts it if there is none."
    )
    hosts.leave(line)  # of several hosts, the first one prints the line
    print(line, flush=True)


if __name__ == "__main__":
    command_line.run(job, needed=("config", "workdir"), stopped=_print_stopped)
