"""Monitors a run: progress line, metrics, alarms, and errors when it cannot go on."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data import manifest
from echojepa_jax.data.sample import Sample
from echojepa_jax.parallel import hosts
from echojepa_jax.train import alarms
from echojepa_jax.train.config import mask_specs
from echojepa_jax.train.state import Schedules
from echojepa_jax.train.workdir import QUARANTINE, per_host
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown
from echojepa_jax.utils.metrics_writer import FILE_NAME, MetricsWriter, Values, read_lines
from echojepa_jax.utils.progress import duration

log = logging.getLogger(__name__)

SKIPPED = "skipped.jsonl"


class _Clock(NamedTuple):
    """When a step was started, and how long the run had waited for data until then, in seconds.

    Both are read at the same moment, so that the waiting time is a part of the elapsed time.
    """

    step: int
    time: float
    waited: float


class Watch:
    """Reads the metrics of a step only after the next one was started, so that no device waits.

    Counts are those of the whole run: when a run is resumed, earlier counts are read from its files
    (that of padded clips from the last line of metrics).
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        writer: MetricsWriter,
        samples: Sequence[Sample],
        schedules: Schedules,
        first_step: int,
        last_step: int,
    ) -> None:
        self._config, self._workdir, self._writer = config, workdir, writer
        self._samples, self._schedules = samples, schedules
        self._first_step, self._last_step = first_step, last_step
        self._mask_names = list(mask_specs(config))
        self._pending: tuple[int, Any, Mapping[str, np.ndarray], _Clock] | None = None
        self._max_skipped = config.optim.max_skipped
        self._skipped_in_a_row = 0
        skipped = {line["step"] for line in read_lines(workdir / per_host(SKIPPED))}
        self._skipped = sum(step <= first_step for step in skipped)
        self._unreadable = {
            line["path"]
            for line in read_lines(workdir / per_host(QUARANTINE))
            if line["stage"] == "decode"
        }
        self._unreadable_now: set[str] = set()  # files may have been repaired before a resume
        logged = read_lines(workdir / FILE_NAME)
        padded = [line["padded_share"] for line in logged if "padded_share" in line]
        self._clips = first_step * config.optim.global_batch // jax.process_count()
        self._padded = round((padded or [0.0])[-1] * self._clips)
        self._judge = alarms.Judge(last_step)
        for line in logged:
            self._judge.line(line)  # the log contains these alarms already
        self._started: _Clock | None = None

    def step(
        self, step: int, metrics: Any, on_host: Mapping[str, np.ndarray], waited: float
    ) -> bool:
        """Accepts the metrics of a step that was just started, and processes the previous step.

        Args:
          metrics: of `train_step`, still on the device.
          on_host: `sample_ids` and `error` of this host's clips and images, `padded` of its clips.
          waited: seconds that the loop has waited for data so far.

        Returns:
          Whether a host had been asked to stop when the previous step was started.

        Raises:
          UserError: see `flush`.
        """
        stop = self.flush()
        clock = _Clock(step, time.perf_counter(), waited)
        # Speed and remaining time are measured from here, after the compilation.
        if self._started is None:
            self._started = self._last = clock
        self._pending = (step, metrics, on_host, clock)
        return stop

    def flush(self) -> bool:
        """Processes the last step, unless that is done already.

        Returns:
          Whether a host had been asked to stop when that step was started.

        Raises:
          UserError: too many steps in a row were not finite, or too many files cannot be decoded.
        """
        if self._pending is None:
            return False
        step, metrics, on_host, clock = self._pending
        self._pending = None
        metrics = jax.device_get(metrics)
        self._count_clips(step, on_host)
        self._count_skipped(step, metrics, on_host)
        if step % self._config.log.every == 0 or step == self._last_step:
            self._log(step, metrics, clock)
        return bool(metrics["stop"])

    def measured(self, step: int, values: Values) -> None:
        """Writes the results of an evaluator to the metrics and logs their alarms (F19)."""
        self._writer.write(step, values)
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        for alarm in self._judge.line({"step": step, **numbers}).values():
            if hosts.is_first():
                log.warning("health at step %d: %s", step, alarm)

    def _count_clips(self, step: int, on_host: Mapping[str, np.ndarray]) -> None:
        self._clips += len(on_host["padded"])
        self._padded += int(np.count_nonzero(on_host["padded"]))
        for row in np.flatnonzero(on_host["error"] != ""):
            sample = self._samples[on_host["sample_ids"][row]]
            path = shown(sample.path)
            self._unreadable_now.add(path)
            if path in self._unreadable:
                continue
            self._unreadable.add(path)
            reason = str(on_host["error"][row])
            manifest.quarantine(
                self._workdir / per_host(QUARANTINE),
                [manifest.Rejected(sample, reason, "bad")],
                "decode",
            )
            log.warning("step %d: skipped a clip of %s: %s", step, path, reason)
        limit = self._config.data.max_bad_share
        # Every host sees its own part of the files.
        if len(self._unreadable_now) * jax.process_count() > limit * len(self._samples):
            raise UserError(
                f"{len(self._unreadable_now)} of {len(self._samples)} files could not be decoded, "
                f"more than data.max_bad_share = {limit:g} allows; they are listed in "
                f"{self._workdir / per_host(QUARANTINE)}"
            )

    def _count_skipped(self, step: int, metrics: Any, on_host: Mapping[str, np.ndarray]) -> None:
        if not metrics["skipped"]:
            self._skipped_in_a_row = 0
            return
        self._skipped += 1
        self._skipped_in_a_row += 1
        names = [self._samples[row].name for row in on_host["sample_ids"]]
        with (self._workdir / per_host(SKIPPED)).open("a") as file:
            file.write(json.dumps({"step": step, "samples": names}) + "\n")
        log.warning("step %d was skipped: its loss or gradient is not finite", step)
        if self._skipped_in_a_row >= self._max_skipped:
            raise UserError(
                f"the loss was not finite for {self._skipped_in_a_row} steps in a row "
                f"(optim.max_skipped); the last checkpoint is intact: check the clips that "
                f"{self._workdir / SKIPPED} lists, or lower optim.peak_lr"
            )

    def _log(self, step: int, metrics: Any, clock: "_Clock") -> None:
        updates, averaged = int(metrics["updates"]), self._schedules.momentum
        momentum = {"ema_momentum": float(averaged(updates - 1))} if averaged else {}
        # Values used in this update: AdamW's schedules count updates from 1, the EMA's from 0.
        values = {
            "loss": float(metrics["loss"]),
            **{
                f"loss/{name}": float(loss)
                for name, loss in zip(self._mask_names, metrics["loss_by_mask"], strict=True)
            },
            # V-JEPA 2.1 only: the loss of visible tokens and its weight; the two losses of images.
            # VideoMAE only: the loss if all predictions were 0, and the share of black tokens.
            **{
                name: float(metrics[name])
                for name in (
                    "loss_context",
                    "context_weight",
                    "loss/images",
                    "loss_context/images",
                    "loss_of_zero",
                    "black_share",
                )
                if name in metrics
            },
            "lr": float(self._schedules.learning_rate(updates)),
            "weight_decay": float(self._schedules.weight_decay(updates)),
            **momentum,
            "grad_norm": float(metrics["grad_norm"]),
            "skipped_steps": self._skipped,
            "padded_share": self._padded / self._clips,
            "quarantined": len(self._unreadable),
        }
        assert self._started is not None, "a step was taken"
        speed, left = "", ""
        if clock.step > self._last.step:
            seconds = (clock.time - self._last.time) / (clock.step - self._last.step)
            wait_share = (clock.waited - self._last.waited) / (clock.time - self._last.time)
            values["clips_per_second"] = self._config.optim.global_batch / seconds
            values["step_seconds"] = seconds
            values["data_wait_share"] = wait_share
            mean = (clock.time - self._started.time) / (clock.step - self._started.step)
            speed = f"  {values['clips_per_second']:.1f} clips/s  data wait {wait_share:.0%}"
            if step < self._last_step:
                left = f"  {duration(mean * (self._last_step - step))} left"
        self._last = clock
        self._writer.write(step, values)
        log.info("step %d/%d  loss %.4f%s%s", step, self._last_step, values["loss"], speed, left)
        if fall := self._judge.line({"step": step, "loss": values["loss"]}).get("loss"):
            self._warn_of(fall, step)

    def _warn_of(self, fall: str, step: int) -> None:
        """Warns of a sudden fall of the loss and describes how to go back (F19)."""
        if not hosts.is_first():
            return
        before = step - alarms.FALL_RECENT * self._config.log.every
        log.warning(
            "step %d: %s. This may be a partial collapse. To go back, train in a new --workdir "
            "from a checkpoint before step %d with a new seed: --config.init.from=%s "
            "--config.init.step=STEP --config.seed=%d",
            step,
            fall,
            before,
            self._workdir,
            self._config.seed + 1,
        )
