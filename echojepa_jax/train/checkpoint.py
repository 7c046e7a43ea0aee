"""Checkpoints of a run, written by Orbax: asynchronously, and completely or not at all."""

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

DAMAGED = "damaged"  # folder for damaged checkpoints, beside that of checkpoints

# Seconds to wait before a checkpoint in a bucket is read again.
_BUCKET_PAUSES = (5, 30)

# Trees by the names of their folders in a checkpoint. To restore, shapes suffice.
Parts = dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder.

    Use it as a context manager, which waits for unfinished saves on exit.

    Args:
      folder: on a disk that all hosts share, or in a bucket; it is created if needed.
      keep_latest: number of newest checkpoints to keep.
      keep_every: checkpoints at multiples of this step are kept as well; 0 = none.
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
        # Orbax warns through absl that a folder is read-only, which is intended here.
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
        """Steps of complete checkpoints, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, parts: Parts) -> None:
        """Starts to write the parts of a state in the background.

        Raises:
          UserError: this write, or the previous one, failed (F13).
        """
        if step not in self._manager.all_steps():
            saved = {name: ocp.args.StandardSave(part) for name, part in parts.items()}
            with self._explained():
                self._manager.save(step, args=ocp.args.Composite(**saved), force=True)

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          UserError: a write failed (F13).
        """
        with self._explained():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns errors of a full or failing disk into UserError."""
        try:
            yield
        # TensorStore reports by ValueError what Python reports by OSError.
        except (OSError, ValueError) as error:
            reason = first_line(error)
            raise UserError(
                f"a checkpoint could not be written to {self.folder} ({reason}): free some space "
                "or repair the disk; the same command then continues from the last good checkpoint"
            ) from error

    def restore(self, like: Parts, step: int) -> Parts:
        """Reads the parts of a checkpoint with the structure, types and shardings of `like`."""
        parts = {name: ocp.args.StandardRestore(part) for name, part in like.items()}
        return dict(self._manager.restore(step, args=ocp.args.Composite(**parts)).items())

    def restore_latest(self, like: Parts) -> Parts | None:
        """Reads the newest checkpoint that is not damaged; None if there are no checkpoints.

        Newer ones, which are damaged, are moved to the folder "damaged" beside this one: training
        writes these steps again.

        Raises:
          UserError: there are checkpoints, but none of them can be read.
        """
        steps = self.steps()
        damaged: list[int] = []
        for step in steps:
            parts = None
            try:
                parts = self._read(like, step)
            # For a damaged checkpoint, Orbax and TensorStore raise ValueError, KeyError,
            # FileNotFoundError, JSONDecodeError and others. All mean the same here.
            except Exception as error:
                reason = first_line(error)
                log.warning("checkpoint %d is damaged (%s); trying the previous one", step, reason)
            # A checkpoint counts only if every host can read it.
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
        """Reads a checkpoint and waits for its arrays; retries if it is in a bucket."""
        for seconds in _BUCKET_PAUSES if "://" in str(self.folder) else ():
            try:
                return jax.block_until_ready(self.restore(like, step))
            except Exception as error:  # a network failure looks like damage
                reason = first_line(error)
                log.warning("checkpoint %d: %s; trying again in %d s", step, reason, seconds)
                time.sleep(seconds)
        return jax.block_until_ready(self.restore(like, step))

    def _set_aside(self, steps: list[int]) -> None:
        aside = self.folder.parent / DAMAGED
        for step in steps if hosts.is_first() else ():
            aside.mkdir(exist_ok=True)
            name = f"{step:08d}"
            # An empty folder of a bucket does not exist.
            before = list(aside.iterdir()) if aside.exists() else []
            taken = sum(path.name.startswith(name) for path in before)
            buckets.move(self.folder / name, aside / (f"{name}-{taken}" if taken else name))
        if steps:
            hosts.barrier("damaged checkpoints are set aside")
            self._manager.reload()
