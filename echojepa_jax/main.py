"""Pretrain EchoJEPA.

  python -m echojepa_jax.main --config=configs/demo.py --workdir=runs/demo
  python -m echojepa_jax.main --config=configs/vit_l.py --workdir=runs/vit_l \\
      --config.data.sources="('videos:/data/clips', 'dicom:/data/mimic')" --config.data.workers=8

Started again with the same words, a run continues where it was; a finished one says so. Every
field of the config can be set by --config.section.field=value. Sources are 'kind:path'; kinds are
videos, list, csv, echonet_dynamic, dicom and phantom (the embedded data set).
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from echojepa_jax.data import manifest
from echojepa_jax.parallel.mesh import batch_sharding, make_mesh
from echojepa_jax.probes import online
from echojepa_jax.report.html import write_report
from echojepa_jax.train import config as configs
from echojepa_jax.train import workdir as workdirs
from echojepa_jax.train.loop import clip_spec, run
from echojepa_jax.train.state import Networks, init_params, make_networks
from echojepa_jax.utils.errors import UserError

log = logging.getLogger("echojepa_jax")

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "what to train: a file of configs/")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: checkpoints, metrics, report")


class Probe:
    """Encodes the probe's videos and scores linear models on them; compares with random weights."""

    def __init__(self, config: ConfigDict, workdir: Path) -> None:
        probe = config.probe
        self._config, self._workdir = config, workdir
        self._labels = {
            "targets": tuple(probe.targets),
            "view": probe.view,
        }
        samples = manifest.load(
            (probe.source,),
            quarantine=workdir / workdirs.QUARANTINE,
            max_bad_share=config.data.max_bad_share,
            expect_stills=config.data.expect_stills,
            workers=max(1, config.data.workers),
        )
        splits = (probe.train_split, probe.test_split)
        self._samples = online.check_labels(
            samples, source=probe.source, splits=splits, **self._labels
        )
        self._test = [s for s in self._samples if s.split == probe.test_split]
        networks = make_networks(config)
        key = jax.random.key(config.seed)
        init = init_params(networks, key, config.data.frames, config.data.size)
        log.info("probe: encoding %d videos with random weights", len(self._samples))
        self._at_init = self._fit(networks, init["encoder"])

    def _fit(self, networks: Networks, params: Any) -> dict[str, online.Fit]:
        probe = self._config.probe
        features = online.video_features(
            networks.encoder,
            params,
            self._samples,
            clip=clip_spec(self._config),
            clips_per_video=probe.clips,
            batch=probe.batch,
            sharding=batch_sharding(make_mesh()),
            workers=self._config.data.workers,
        )
        return online.fit_all(
            features,
            self._samples,
            train_split=probe.train_split,
            test_split=probe.test_split,
            **self._labels,
        )

    def __call__(
        self, step: int, networks: Networks, params: Any, last: bool
    ) -> Mapping[str, float]:
        """Metrics of the encoder with these parameters; the last time also writes probe.json."""
        fits = self._fit(networks, params)
        if last:
            self._write(step, fits)
        return online.metrics(fits, "probe") | online.metrics(self._at_init, "probe_init")

    def _write(self, step: int, fits: Mapping[str, online.Fit]) -> None:
        names = [sample.name for sample in self._test]
        views = [sample.view for sample in self._test]
        result: dict[str, Any] = {"step": step, "regression": {}}
        for name, fit in fits.items():
            at_init = self._at_init[name]
            entry = {
                "names": names,
                "views": views,
                "true": fit.true.tolist(),
                "predicted": fit.predicted.tolist(),
                "predicted_init": at_init.predicted.tolist(),
                **fit.scores,
                **{f"{score}_init": value for score, value in at_init.scores.items()},
            }
            if name == "view":
                result["view"] = entry
            else:
                result["regression"][name] = entry
            trained = ", ".join(f"{score} {value:.3f}" for score, value in fit.scores.items())
            random = ", ".join(f"{score} {value:.3f}" for score, value in at_init.scores.items())
            log.info("probe of %s: %s (random weights: %s)", name, trained, random)
        workdirs.write_json(self._workdir / "probe.json", result)


def train(config: ConfigDict, workdir: Path) -> str:
    """The whole job; returns its last line.

    Raises:
      UserError: whatever the user can mend.
    """
    configs.check(config, jax.device_count())
    workdirs.claim(workdir, config)
    report = workdir / "report.html"
    if workdirs.is_done(workdir):
        return f"{workdir} is complete: nothing to do. The report is {report}"
    evaluate = Probe(config, workdir) if config.probe.source else None
    outcome = run(config, workdir, evaluate)
    where = f"step {outcome.step} of {outcome.last_step}"
    if not outcome.complete:
        return f"stopped by a signal; saved at {where}. The same command continues."
    write_report(workdir)
    workdirs.mark_done(workdir, outcome.step)
    return f"complete: {where}. The report is {report}"


def main(argv: list[str]) -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for name in ("absl", "orbax"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if len(argv) > 1:
            raise UserError(f"not understood: {' '.join(argv[1:])}; see --help")
        for flag in ("config", "workdir"):
            if FLAGS[flag].value is None:
                raise UserError(f"--{flag} is missing; see --help")
        print(train(CONFIG.value, Path(WORKDIR.value)), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main)
