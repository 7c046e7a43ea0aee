"""Pretrain EchoJEPA.

  python -m echojepa_jax.main --config=configs/demo.py --workdir=runs/demo
  python -m echojepa_jax.main --config=configs/vit_l.py --workdir=runs/vit_l \\
      --config.data.sources="('videos:/data/clips', 'dicom:/data/mimic')" --config.data.workers=8

Started again with the same words, a run continues where it was; a finished one says so. Every
field of the config can be set by --config.section.field=value. Sources are 'kind:path', such as
'videos:/data/clips', 'dicom:/data/archive', 'echonet_dynamic:/data/EchoNet-Dynamic' or
'phantom:adult' (the embedded data set), or folders of prepared shards; docs/your_data.md lists all.
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

# The job's own modules are imported inside the functions: data workers import this file as well,
# and need none of them.

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "what to train: a file, or a shipped config by name: demo",
    sys_argv=command_line.for_config_flags(sys.argv),
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the run: checkpoints, metrics, report; or gs://..., s3://..."
)
HOST = flags.DEFINE_integer("host", 0, "number of this host, if several train together")
HOSTS = flags.DEFINE_integer(
    "hosts",
    0,
    "how many hosts train together; 0 = as SLURM or GKE tell, else one; -1 = ask the cluster (TPU)",
)
COORDINATOR = flags.DEFINE_string("coordinator", "", "address:port of host 0, with --hosts")


def train(config: ConfigDict, name: str | Path) -> str:
    """The whole job, in the workdir of that name; returns its last line.

    Raises:
      UserError: whatever the user can mend.
    """
    from echojepa_jax.runtime.platform import configure_jax, share_programs
    from echojepa_jax.train.claim import claimed, is_finished
    from echojepa_jax.train.workdir import Workdir
    from echojepa_jax.utils.errors import UserError

    if "head" in config:
        raise UserError("--config is one of a probe, for echojepa_jax.probe: see --help")
    configure_jax()
    workdir = Workdir.of(str(name))
    path = workdir.path
    report, files = f"{name}/report.html", ["report.html"]
    nothing_to_do = f"{name} is complete: nothing to do. The report is {report}"
    if is_finished(workdir, config, files):
        return nothing_to_do

    import jax

    from echojepa_jax.parallel import hosts
    from echojepa_jax.report.plots import scatter_picture
    from echojepa_jax.report.training_page import write_report
    from echojepa_jax.train import config as configs
    from echojepa_jax.train.evaluators import linear_probe
    from echojepa_jax.train.loop import run

    configs.check(config, jax.device_count())
    with claimed(workdir, config):
        workdir.share()
        share_programs(workdir.kept)
        if workdir.is_done(files):
            return nothing_to_do
        probe = partial(linear_probe.evaluator, config, path, draw=scatter_picture)
        outcome = run(config, workdir, probe if config.probe.source else None)
        where = f"step {outcome.step} of {outcome.last_step}"
        if not outcome.complete:
            return f"stopped by a signal; saved at {where}. The same command continues."
        if hosts.is_first():
            write_report(path)
            workdir.mark_done(outcome.step)
            workdir.publish()
        hosts.barrier("complete")
        return f"complete: {where}. The report is {report}"


def job() -> str:
    from echojepa_jax.parallel import hosts
    from echojepa_jax.runtime.platform import reserve_gpu_memory

    reserve_gpu_memory()
    hosts.start(HOST.value, HOSTS.value, COORDINATOR.value)
    _without_phantom(CONFIG.value, config_flags.get_override_values(flags.FLAGS["config"]))
    return train(CONFIG.value, str(WORKDIR.value))


def _without_phantom(config: ConfigDict, asked: Mapping[str, Any]) -> None:
    """Takes the phantom's probe out of a config whose videos were replaced by others.

    Args:
      asked: the fields that stand on the command line.
    """
    probe = config.get("probe", {}).get("source", "")
    if "data.sources" not in asked or "probe.source" in asked or not probe.startswith("phantom:"):
        return

    from echojepa_jax.data.sources import kind_of

    if any(kind_of(source) == "phantom" for source in config.data.sources):
        return
    config.probe.source = ""
    logging.getLogger(__name__).info(
        "no online probe: the config's probe is for the phantom, but this run has other videos; "
        "to get a probe, name labelled videos with --config.probe.source"
    )


def _say_stopped() -> None:
    """What a signal outside of training makes the program say."""
    from echojepa_jax.parallel import hosts

    line = (
        "stopped by a signal; nothing had to be saved. The same command continues after the last "
        "checkpoint, or starts anew if there is none."
    )
    hosts.leave(line)  # and says so on the first host, if there are several
    print(line, flush=True)


if __name__ == "__main__":
    command_line.run(job, needed=("config", "workdir"), stopped=_say_stopped)
