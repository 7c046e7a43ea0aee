"""Which checkpoints are kept."""

import jax.numpy as jnp
import optax
import pytest
from etils import epath

from echojepa_jax.train import checkpoint as module
from echojepa_jax.train.checkpoint import Checkpoints
from echojepa_jax.train.state import TrainState


def state(step):
    weights = {"kernel": jnp.full((2, 3), float(step))}
    return TrainState(
        step=jnp.int32(step),
        params=weights,
        opt_state=(jnp.int32(step),),
        target=optax.EmaState(jnp.int32(step), weights),
    )


@pytest.mark.parametrize(
    ("keep_latest", "keep_every", "kept"),
    [(1, 0, [6]), (2, 0, [6, 5]), (1, 2, [6, 4, 2]), (2, 4, [6, 5, 4])],
)
def test_the_latest_and_every_so_many_are_kept(tmp_path, keep_latest, keep_every, kept):
    with Checkpoints(tmp_path / "checkpoints", keep_latest, keep_every) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, state(step).parts())
        checkpoints.wait()
        assert checkpoints.steps() == kept
        restored = TrainState.of(checkpoints.restore(state(0).parts(), kept[-1]))
        assert restored.params["kernel"][0, 0] == kept[-1]


def test_reading_another_runs_checkpoints_changes_nothing(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, keep_latest=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step).parts())
    before = sorted(folder.rglob("*"))
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.steps() == [3, 2, 1]
        checkpoints.restore({"params": state(0).params}, 2)
    assert sorted(folder.rglob("*")) == before


def test_a_bucket_that_fails_for_a_moment_is_not_taken_for_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BUCKET_PAUSES", (0, 0))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state(1).parts())
        checkpoints.wait()
        restore, failures = checkpoints.restore, [OSError("no route to host")] * 2

        def unsteady(like, step):
            if failures:
                raise failures.pop()
            return restore(like, step)

        monkeypatch.setattr(checkpoints, "restore", unsteady)
        checkpoints.folder = epath.Path("gs://bucket/run/checkpoints")
        restored = TrainState.of(checkpoints.restore_latest(state(0).parts()))
    assert int(restored.step) == 1
    assert not failures
    assert not (tmp_path / "damaged").exists()
