"""Checkpoints of the training state, through Orbax: asynchronous, and never half written."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from echojepa_jax.train.state import TrainState
from echojepa_jax.utils.errors import UserError

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in one folder. Use as a context manager: leaving waits for saves.

    Args:
      folder: made if it is not there.
      keep_latest: how many of the newest are kept.
      keep_every: multiples of this step are kept as well; 0 = none.
      read_only: never write or delete, for the folder of another run.
    """

    def __init__(
        self, folder: Path, keep_latest: int = 1, keep_every: int = 0, read_only: bool = False
    ) -> None:
        keep: list[Any] = [preservation_policy.LatestN(keep_latest)]
        if keep_every:
            keep.append(preservation_policy.EveryNSteps(keep_every))
        self.folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
                read_only=read_only,
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

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write the state.

        Raises:
          UserError: this write, or the one before, failed (F13).
        """
        if step not in self._manager.all_steps():
            parts = {name: ocp.args.StandardSave(part) for name, part in _parts(state).items()}
            with self._explained():
                self._manager.save(step, args=ocp.args.Composite(**parts), force=True)

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
            reason = str(error).strip().split("\n")[0][:300]
            raise UserError(
                f"a checkpoint could not be written to {self.folder} ({reason}): mend or make room "
                "there; the same command then continues from the last good one"
            ) from error

    def restore(self, like: TrainState, step: int) -> TrainState:
        """One checkpoint, with the structure, types and shardings of `like` (shapes suffice)."""
        parts = self._restore_parts(_parts(like), step)
        return TrainState(**parts["progress"], params=parts["params"], target=parts["target"])

    def restore_weights(self, like: TrainState, step: int) -> tuple[Any, Any]:
        """Of one checkpoint only `params` and the target encoder's parameters."""
        wanted = {name: part for name, part in _parts(like).items() if name != "progress"}
        parts = self._restore_parts(wanted, step)
        return parts["params"], parts["target"].ema

    def _restore_parts(self, like: dict[str, Any], step: int) -> Any:
        parts = {name: ocp.args.StandardRestore(part) for name, part in like.items()}
        return self._manager.restore(step, args=ocp.args.Composite(**parts))

    def restore_latest(self, like: TrainState) -> TrainState | None:
        """The newest checkpoint that can be read, or None if there is none at all.

        Damaged ones that are newer are moved to a folder "damaged" beside this one: training will
        write them again.

        Raises:
          UserError: there are checkpoints, and not one of them can be read.
        """
        steps = self.steps()
        damaged = []
        for step in steps:
            try:
                state = jax.block_until_ready(self.restore(like, step))
            # Orbax and TensorStore raise whatever the damage makes of the files: ValueError,
            # KeyError, FileNotFoundError, JSONDecodeError. Each of them means the same here.
            except Exception as error:
                reason = str(error).strip().split("\n")[0][:200]
                log.warning("checkpoint %d is damaged (%s); trying the one before", step, reason)
                damaged.append(step)
            else:
                self._set_aside(damaged)
                return state
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} in {self.folder} can be read: "
                "restore the folder from a copy, or start in a new --workdir"
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        aside = self.folder.parent / "damaged"
        for step in steps:
            aside.mkdir(exist_ok=True)
            name = f"{step:08d}"
            taken = sum(path.name.startswith(name) for path in aside.iterdir())
            (self.folder / name).rename(aside / (f"{name}-{taken}" if taken else name))
        self._manager.reload()


def _parts(state: TrainState) -> dict[str, Any]:
    """The folders of a checkpoint: weights can be read without the optimizer's state."""
    progress = {"step": state.step, "opt_state": state.opt_state}
    return {"params": state.params, "target": state.target, "progress": progress}


def weights_of(folder: Path, like: TrainState, step: int) -> tuple[Any, Any, int]:
    """Reads the weights of another run's checkpoint; `step` -1 means its latest.

    Returns:
      `params` {"encoder", "predictor"}, the target encoder's parameters, and the step.

    Raises:
      UserError: the folder has no such checkpoint, or it holds another architecture.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: config field 'init.from' must name a workdir")
    with Checkpoints(folder, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if not steps or (step != -1 and step not in steps):
            raise UserError(
                f"{folder} has no checkpoint of step {step}, only {sorted(steps)}: "
                "set config field 'init.step'"
            )
        step = steps[0] if step == -1 else step
        try:
            return *checkpoints.restore_weights(like, step), step
        except (ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0][:300]
            raise UserError(
                f"checkpoint {step} of {folder} does not fit this config's model: {reason}"
            ) from error
