"""Pretrain EchoJEPA.

  python -m echojepa_jax.main --config=configs/demo.py --workdir=runs/demo
  python -m echojepa_jax.main --config=configs/vit_l.py --workdir=runs/vit_l \\
      --config.data.sources="('videos:/data/clips', 'dicom:/data/mimic')" --config.data.workers=8

Started again with the same words, a run continues where it was; a finished one says so. Every
field of the config can be set by --config.section.field=value. Sources are 'kind:path'; kinds are
videos, list, csv, echonet_dynamic, dicom and phantom (the embedded data set).
"""

import logging
import re
import runpy
import sys
from functools import partial
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from echojepa_jax.utils.errors import UserError

# The job's own modules are imported inside the functions: data workers import this file as well,
# and need none of them.


def _speakable(argv: list[str]) -> list[str]:
    """`from` is a word of Python's, which config_flags cannot take as the name of a field."""
    return [re.sub(r"^(--?config\.init)\.from\b", r'\1["from"]', word) for word in argv]


FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "what to train: a file of configs/", sys_argv=_speakable(sys.argv)
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: checkpoints, metrics, report")


def train(config: ConfigDict, workdir: Path) -> str:
    """The whole job; returns its last line.

    Raises:
      UserError: whatever the user can mend.
    """
    import jax

    from echojepa_jax.probes.online import OnlineProbe
    from echojepa_jax.report.html import write_report
    from echojepa_jax.train import config as configs
    from echojepa_jax.train import workdir as workdirs
    from echojepa_jax.train.loop import run
    from echojepa_jax.utils.allocator import keep_freed_memory

    if jax.default_backend() == "cpu":
        keep_freed_memory()
    configs.check(config, jax.device_count())
    with workdirs.claimed(workdir, config):
        report = workdir / "report.html"
        if workdirs.is_done(workdir):
            return f"{workdir} is complete: nothing to do. The report is {report}"
        probe = partial(OnlineProbe, config, workdir) if config.probe.source else None
        outcome = run(config, workdir, probe)
        where = f"step {outcome.step} of {outcome.last_step}"
        if not outcome.complete:
            return f"stopped by a signal; saved at {where}. The same command continues."
        write_report(workdir)
        workdirs.mark_done(workdir, outcome.step)
        return f"complete: {where}. The report is {report}"


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake in it ends the program with one sentence."""
    try:
        words = FLAGS(_speakable(argv))
        if FLAGS["config"].present:
            _ = CONFIG.value.to_dict()  # loaded when it is first used: now
        return words
    except flags.Error as error:
        sys.exit(f"error: {str(error).splitlines()[0]}")
    # A config file is a program, so anything can go wrong in it; config_flags adds errors of its
    # own for fields that the config lacks or that it cannot parse.
    except Exception as error:
        sys.exit(f"error: {_explain(argv, error)}")


def _explain(argv: list[str], error: Exception) -> str:
    """The sentence about a config that does not load, or about a field on the command line."""
    from echojepa_jax.train import config as configs

    words = " ".join(argv)
    if file := re.search(r"--?config[= ](\S+)", words):
        if not Path(file[1]).is_file():
            return f"--config={file[1]}: there is no such file; the shipped ones are in configs/"
        try:
            config = runpy.run_path(file[1])["get_config"]()
        except Exception as problem:  # again: of whatever kind
            reason = " ".join(str(problem).split())
            return f"{file[1]} does not load: {type(problem).__name__}: {reason}"
        fields = [name for name, _ in configs.leaves(config)]
        for name in re.findall(r"--?config\.([\w.]+)", words):
            if not any(field == name or field.startswith(f"{name}.") for field in fields):
                return f"the config has no field {name!r}{configs.nearest(name, fields)}"
    return " ".join(str(error).split())


def main(argv: list[str]) -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for name in ("absl", "orbax", "jax", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if len(argv) > 1:
            raise UserError(f"not understood: {' '.join(argv[1:])}; see --help")
        if not FLAGS["config"].present or WORKDIR.value is None:
            raise UserError("--config and --workdir are both needed; see --help")
        print(train(CONFIG.value, Path(WORKDIR.value)), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # While steps are made, the loop takes the signal itself and saves.
        print("error: interrupted; the same command continues where it was", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
