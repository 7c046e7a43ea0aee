"""Train a probe on a frozen encoder, or fine-tune both, and report scores on unseen patients.

  python -m echojepa_jax.probe --config=configs/probes/phantom_lvef.py --config.weights=runs/demo \\
      --workdir=runs/lvef
  python -m echojepa_jax.probe --eval_only=runs/lvef --source=phantom:pediatric,patients=50 \\
      --workdir=runs/lvef_pediatric

A probe is a small model (a head) on the features of the encoder, trained with labels. The second
command scores a finished probe on other data, with the scaling of its own training.

If the training of a probe was interrupted, run the same command again: it continues. If it is
complete, the same command changes nothing. Each scoring needs a new workdir. The workdir contains
predictions.csv, metrics.json, report.html, and after training the head (probe.json,
head.safetensors).
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from echojepa_jax import command_line

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "config of the probe: a file, or the name of a shipped config, such as lvef",
    sys_argv=sys.argv,
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder for all that this run writes")
EVAL_ONLY = flags.DEFINE_string("eval_only", None, "workdir of a finished probe to score")
SOURCE = flags.DEFINE_multi_string(
    "source",
    [],
    "with --eval_only: labelled videos, as 'kind:path', see docs/your_data.md; may be repeated",
)
SPLIT = flags.DEFINE_string(
    "split", "", "with --eval_only: score only this split of the sources; '' = all"
)
WEIGHTS = flags.DEFINE_string(
    "weights", "", "with --eval_only: where the encoder is now; '' = where it was in training"
)


def train(config: ConfigDict, workdir: Path) -> str:
    """Trains a probe; returns the last line.

    Raises:
      UserError: whatever the user can mend.
    """
    from echojepa_jax.probes.files import ABOUT, HEAD, METRICS, PREDICTIONS
    from echojepa_jax.runtime.platform import configure_jax
    from echojepa_jax.train.claim import claimed, is_finished
    from echojepa_jax.train.config import complete
    from echojepa_jax.train.workdir import BEST, Workdir
    from echojepa_jax.utils.errors import UserError

    configure_jax()
    for section, program in (("predictor", "train"), ("tasks", "evaluate")):
        if section in config:
            raise UserError(f"--config is not of a probe: run the program `{program}` with it")
    config = complete(config)  # yours may have been written for an earlier version
    held, report = Workdir(workdir), workdir / "report.html"
    files = [PREDICTIONS, METRICS, "report.html", ABOUT, HEAD, BEST]
    if config.get("encoder", {}).get("trainable"):
        from echojepa_jax.train.load_weights import FINE_TUNED

        files.append(FINE_TUNED)
    nothing_to_do = f"{workdir} is complete: nothing to do. The report is {report}"
    if is_finished(held, config, files):
        return nothing_to_do

    import jax

    from echojepa_jax.probes import config as configs
    from echojepa_jax.probes.run import run
    from echojepa_jax.report.probe_page import write_probe_report
    from echojepa_jax.train.load_weights import load_encoder_weights

    configs.check(config, jax.local_device_count())
    with claimed(held, config):
        if held.is_done(files):
            return nothing_to_do
        summary = run(config, workdir, load_encoder_weights(config.weights))
        if not summary:
            return (
                "stopped by a signal. The same command continues after the last finished epoch, or "
                "starts again if there is none."
            )
        write_probe_report(workdir)
        held.mark_done(config.optim.epochs)
        return f"complete: {summary}. The report is {report}"


def score(folder: Path, sources: list[str], split: str, weights: str, workdir: Path) -> str:
    """Scores a finished probe on other data; returns the last line.

    Raises:
      UserError: whatever the user can mend.
    """
    from echojepa_jax.probes.run import score_on
    from echojepa_jax.report.probe_page import write_probe_report
    from echojepa_jax.runtime.platform import configure_jax

    configure_jax()
    summary = score_on(folder, sources, split, weights, workdir)
    write_probe_report(workdir)
    return f"complete: {summary}. The report is {workdir / 'report.html'}"


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    from echojepa_jax.utils.buckets import on_disk
    from echojepa_jax.utils.errors import UserError

    workdir = on_disk(str(WORKDIR.value), "workdir")
    if EVAL_ONLY.value is None:
        if SOURCE.value or SPLIT.value or WEIGHTS.value:
            raise UserError("--source, --split and --weights need --eval_only; see --help")
        if not flags.FLAGS["config"].present:
            raise UserError("--config (or --eval_only) must be given; see --help")
        return train(CONFIG.value, workdir)
    if flags.FLAGS["config"].present:
        raise UserError("--eval_only uses the config of the finished probe: leave out --config")
    if not SOURCE.value:
        raise UserError("--eval_only needs --source: the data to score on; see --help")
    probe = on_disk(EVAL_ONLY.value, "eval_only")
    return score(probe, SOURCE.value, SPLIT.value, WEIGHTS.value, workdir)


if __name__ == "__main__":
    command_line.run(job, needed=("workdir",))
