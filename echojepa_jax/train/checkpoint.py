"""Checkpoints of a run, through Orbax: asynchronous, and never half written."""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from echojepa_jax.parallel import hosts
from echojepa_jax.train import orbax_s3
from echojepa_jax.utils import buckets
from echojepa_jax.utils.errors import UserError, first_line

log = logging.getLogger(__name__)

DAMAGED = "damaged"  # the folder, beside that of checkpoints, of those that cannot be read

# Seconds before a bucket is asked again for a checkpoint that could not be read.
_BUCKET_PAUSES = (5, 30)

# Trees by the name of their folder in a checkpoint; shapes suffice where one is to be read.
Parts = dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder. Use as a context manager: leaving waits for saves.

    Args:
      folder: made if it is not there; on a disk that all hosts share, or in a bucket.
      keep_latest: how many of the newest are kept.
      keep_every: multiples of this step are kept as well; 0 = none.
      read_only: never write or delete, for the folder of another run.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        keep_latest: int = 1,
        keep_every: int = 0,
        *,
        read_only: bool = False,
    ) -> None:
        keep: list[Any] = [preservation_policy.LatestN(keep_latest)]
        if keep_every:
            keep.append(preservation_policy.EveryNSteps(keep_every))
        path = epath.Path(folder)
        if str(folder).startswith("s3://"):
            orbax_s3.teach_orbax()
        self.folder = path if "://" in str(folder) else path.absolute()
        # Orbax warns through absl of what is asked for, a folder that is only read.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
                read_only=read_only,
                create=not read_only,
                save_interval_steps=0 if read_only else 1,
                step_name_format=ocp.path.step.standard_name_format(step_format_fixed_length=8),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps that have a finished checkpoint, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, parts: Parts) -> None:
        """Starts to write the parts of a state.

        Raises:
          UserError: this write, or the one before, failed (F13).
        """
        if step not in self._manager.all_steps():
            saved = {name: ocp.args.StandardSave(part) for name, part in parts.items()}
            with self._explained():
                self._manager.save(step, args=ocp.args.Composite(**saved), force=True)

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          UserError: a write failed (F13).
        """
        with self._explained():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """A full or failing disk is for the user to mend."""
        try:
            yield
        # TensorStore says with ValueError what Python says with OSError.
        except (OSError, ValueError) as error:
            reason = first_line(error)
            raise UserError(
                f"a checkpoint could not be written to {self.folder} ({reason}): mend or make room "
                "there; the same command then continues from the last good one"
            ) from error

    def restore(self, like: Parts, step: int) -> Parts:
        """The named parts of one checkpoint, with the structure, types and shardings of `like`."""
        parts = {name: ocp.args.StandardRestore(part) for name, part in like.items()}
        return dict(self._manager.restore(step, args=ocp.args.Composite(**parts)).items())

    def restore_latest(self, like: Parts) -> Parts | None:
        """The newest checkpoint that can be read, or None if there is none at all.

        Damaged ones that are newer are moved to a folder "damaged" beside this one: training will
        write them again.

        Raises:
          UserError: there are checkpoints, and not one of them can be read.
        """
        steps = self.steps()
        damaged: list[int] = []
        for step in steps:
            parts = None
            try:
                parts = self._read(like, step)
            # Orbax and TensorStore raise whatever the damage makes of the files: ValueError,
            # KeyError, FileNotFoundError, JSONDecodeError. Each of them means the same here.
            except Exception as error:
                reason = first_line(error)
                log.warning("checkpoint %d is damaged (%s); trying the one before", step, reason)
            # One host may read well what another one cannot.
            if hosts.all_true(parts is not None):
                self._set_aside(damaged)
                return parts
            damaged.append(step)
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} in {self.folder} can be read: "
                "restore the folder from a copy, or start in a new --workdir"
            )
        return None

    def _read(self, like: Parts, step: int) -> Parts:
        """One checkpoint, all of it arrived; a bucket is asked again before it is given up."""
        for seconds in _BUCKET_PAUSES if "://" in str(self.folder) else ():
            try:
                return jax.block_until_ready(self.restore(like, step))
            except Exception as error:  # a network's fault looks like damage at first
                reason = first_line(error)
                log.warning("checkpoint %d: %s; trying again in %d s", step, reason, seconds)
                time.sleep(seconds)
        return jax.block_until_ready(self.restore(like, step))

    def _set_aside(self, steps: list[int]) -> None:
        aside = self.folder.parent / DAMAGED
        for step in steps if hosts.is_first() else ():
            aside.mkdir(exist_ok=True)
            name = f"{step:08d}"
            # An empty folder of a bucket is not there.
            before = list(aside.iterdir()) if aside.exists() else []
            taken = sum(path.name.startswith(name) for path in before)
            buckets.move(self.folder / name, aside / (f"{name}-{taken}" if taken else name))
        if steps:
            hosts.barrier("damaged checkpoints are set aside")
            self._manager.reload()
