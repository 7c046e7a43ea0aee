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
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from echojepa_jax.utils.errors import UserError

# The job's own modules are imported inside the functions: data workers import this file as well,
# and need none of them.

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "what to train: a file of configs/")
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

    configs.check(config, jax.device_count())
    workdirs.claim(workdir, config)
    report = workdir / "report.html"
    if workdirs.is_done(workdir):
        return f"{workdir} is complete: nothing to do. The report is {report}"
    evaluate = OnlineProbe(config, workdir) if config.probe.source else None
    outcome = run(config, workdir, evaluate)
    where = f"step {outcome.step} of {outcome.last_step}"
    if not outcome.complete:
        return f"stopped by a signal; saved at {where}. The same command continues."
    write_report(workdir)
    workdirs.mark_done(workdir, outcome.step)
    return f"complete: {where}. The report is {report}"


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake in it ends the program with one sentence."""
    # `from` is a word of Python's, which config_flags cannot take as an attribute.
    argv = [re.sub(r"^(--?config\.init)\.from=", r'\1["from"]=', word) for word in argv]
    try:
        return FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {str(error).splitlines()[0]}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # What config_flags raises for a field that the config lacks or that it cannot parse.
        sys.exit(f"error: {_explain(argv) or str(error).splitlines()[0]}")


def _explain(argv: list[str]) -> str:
    """The sentence about the first --config.FIELD=... that is no field, if there is one."""
    from echojepa_jax.train import config as configs

    for word in argv:
        if match := re.match(r"--?config\.([^=]+)=", word):
            name = match[1]
            known = [*configs.FIELDS, *(f"masks.NAME.{field}" for field in configs.MASK_FIELDS)]
            if name not in known and not name.startswith("masks."):
                return f"the config has no field {name!r}{configs.nearest(name, known)}"
    return ""


def main(argv: list[str]) -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for name in ("absl", "orbax", "jax"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if len(argv) > 1:
            raise UserError(f"not understood: {' '.join(argv[1:])}; see --help")
        if not FLAGS["config"].present or WORKDIR.value is None:
            raise UserError("--config and --workdir are both needed; see --help")
        try:
            config = CONFIG.value
        except OSError as error:
            raise UserError(f"--config cannot be loaded: {str(error).splitlines()[-1]}") from error
        print(train(config, Path(WORKDIR.value)), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
