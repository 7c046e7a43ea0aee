"""What went wrong in projects like this one, made impossible here: one test for each number.

F05, F09 and F22 are shown in data/clips/test_pipeline.py, F06 in data/test_manifest.py, F07 and F17
in test_main.py, F14 in weights/test_vjepa2.py, F16, of studies of several views, in
probes/test_examples.py; more on F01 to F04, F19 and F20 beside the parts that see to them. F10 and
F11 ask for nothing that could be done wrong here: no process is killed, and nothing is deleted but
a run's own old checkpoints.
"""

import dataclasses
import itertools
import json
import logging
import re
import shutil
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.data import manifest
from echojepa_jax.data.clips import pipeline
from echojepa_jax.data.formats.decode import UnreadableVideo
from echojepa_jax.data.sources import read_source
from echojepa_jax.main import train
from echojepa_jax.train import alarms
from echojepa_jax.train import config as configs
from echojepa_jax.train.checkpoint import Checkpoints
from echojepa_jax.train.evaluators import health, linear_probe
from echojepa_jax.train.state import make_networks
from echojepa_jax.train.step import update
from echojepa_jax.utils.config_fields import leaves
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.metrics_writer import read_lines
from tests.makers.calls import before
from tests.makers.configs import PHANTOM
from tests.makers.recorder import Recorder
from tests.makers.states import fresh

pytestmark = pytest.mark.slow


@pytest.fixture
def videos(tmp_path) -> list[Path]:
    """A folder of its own with ten good videos."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for sample in read_source(PHANTOM)[:10]:
        shutil.copy(sample.path, folder)
    return sorted(folder.iterdir())


def quarantined(workdir: Path) -> dict[str, str]:
    entries = read_lines(workdir / "quarantine.jsonl")
    return {Path(entry["path"]).name: entry["reason"] for entry in entries}


def last(workdir: Path, name: str) -> float:
    """The newest value of a metric."""
    return [x[name] for x in read_lines(workdir / "metrics.jsonl") if name in x][-1]


def test_f01_features_keep_the_order_of_their_videos(tiny, monkeypatch):
    config = tiny()
    networks = make_networks(config)
    samples = manifest.load([PHANTOM], quarantine=None, workers=2)[:5]
    params = networks.encoder.init(jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))["params"]
    settings = {
        "clip": dataclasses.replace(configs.clip_spec(config), by="stride", value=4),
        "clips_per_video": 2,
        "sharding": jax.sharding.SingleDeviceSharding(jax.devices()[0]),
    }
    of_videos = partial(linear_probe.video_features, networks, params, **settings)

    def features(samples, batch, workers):
        return of_videos(samples, batch=batch, workers=workers)

    wanted = features(samples, 4, 0)
    assert np.abs(wanted[1:] - wanted[:-1]).max(axis=1).min() > 1e-4
    for i, sample in enumerate(samples):
        np.testing.assert_allclose(features([sample], 4, 0)[0], wanted[i], atol=1e-5)
    np.testing.assert_allclose(features(samples[::-1], 3, 2)[::-1], wanted, atol=1e-5)

    # A video with room for one clip only is decoded once, and the others count as before.
    decoded = []
    before(monkeypatch, pipeline.decode, "decode", decoded.append)
    short = dataclasses.replace(samples[2], frames=16)
    found = features([*samples[:2], short, *samples[3:]], 4, 0)
    assert len(decoded) == 2 * len(samples) - 1
    np.testing.assert_allclose(found[[0, 1, 3, 4]], wanted[[0, 1, 3, 4]], atol=1e-5)
    np.testing.assert_allclose(found[2], features([short], 1, 0)[0], atol=1e-5)


def test_f02_one_place_normalises_and_the_range_is_checked(tiny, tmp_path, monkeypatch):
    networks = make_networks(tiny())
    clips = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1).repeat(3, -1)
    out = networks.normalise(clips)
    np.testing.assert_allclose(out, (clips / 255 - 0.13) / 0.2, atol=1e-5)
    with pytest.raises(TypeError, match="normalised here"):
        networks.normalise(out)
    black = np.zeros((4, 9, 9, 3), np.uint8)
    monkeypatch.setattr(pipeline.decode, "decode", lambda *_, **__: black)
    with pytest.raises(UserError, match="every pixel of the first 64 clips is 0"):
        train(tiny(), tmp_path / "run")


def test_f03_padding_is_counted_and_bounded(tiny, tmp_path):
    longer = {"data__sample_value": 2.0}  # seconds; a phantom lasts 1.2
    with pytest.raises(UserError, match=r"14 of 14 videos are shorter .*data\.max_padded_share"):
        train(tiny(**longer, data__max_padded_share=0.1), tmp_path / "a")
    train(tiny(**longer), tmp_path / "b")
    assert last(tmp_path / "b", "padded_share") == 1.0
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["data"]["short"] == 14


def test_f04_a_bad_file_is_named_counted_and_never_replaced(tiny, tmp_path, videos):
    videos[3].write_bytes(b"no video")
    source = {"data__sources": (f"videos:{videos[0].parent}",), "data__split": ""}
    with pytest.raises(UserError, match=r"data\.max_bad_share"):
        train(tiny(**source), tmp_path / "a")
    assert list(quarantined(tmp_path / "a")) == [videos[3].name]
    train(tiny(**source, data__max_bad_share=0.2), tmp_path / "b")
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["data"]["videos"] == 9


def test_f04_a_clip_that_fails_in_training_counts_for_nothing(tiny, tmp_path, videos, monkeypatch):
    source = {"data__sources": (f"videos:{videos[0].parent}",), "data__split": ""}

    def fail(path):
        if Path(path) == videos[3]:
            raise UnreadableVideo("half of it is gone")

    before(monkeypatch, pipeline.decode, "decode", fail)
    train(tiny(**source, data__max_bad_share=0.2), tmp_path / "run")
    assert quarantined(tmp_path / "run") == {videos[3].name: "half of it is gone"}
    assert last(tmp_path / "run", "loss") > 0
    with pytest.raises(UserError, match=r"1 of 10 files could not be decoded"):
        train(tiny(**source), tmp_path / "strict")
    monkeypatch.undo()  # the file is mended
    assert train(tiny(**source), tmp_path / "strict").startswith("complete")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"init__from": "nowhere"}, "nowhere"),
        ({"init__step": 5}, r"no checkpoint of step 5, only \[3, 6\]"),
        ({"model__width": 16}, "does not fit this config's model"),
        ({"model__depth": 1}, "does not fit this config's model"),
    ],
)
def test_f08_weights_that_were_asked_for_are_all_loaded_or_it_is_an_error(
    tiny, trained, tmp_path, changes, sentence
):
    with pytest.raises(UserError, match=sentence):
        train(tiny(**({"init__from": str(trained)} | changes)), tmp_path / "second")


def test_f12_done_means_that_the_result_is_there(tiny, finished):
    assert "is complete" in train(tiny(), finished)
    shutil.rmtree(finished / "checkpoints" / "00000006")
    with pytest.raises(UserError, match=r"marked as done, but .*00000006.* missing"):
        train(tiny(), finished)


def test_f13_a_failed_save_is_an_error(tiny, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", full)
    with pytest.raises(UserError, match=r"could not be written .*no space left"):
        train(tiny(), tmp_path / "run")
    assert not (tmp_path / "run" / "done.json").exists()


def test_f13_a_write_that_fails_in_the_background_is_an_error(run_main, tmp_path):
    # No file may grow beyond 300 KB, as on a full disk: the checkpoint's parameters need more.
    manifest.load([PHANTOM], quarantine=None, workers=2)  # makes what the cache holds
    done = run_main(workdir=tmp_path / "run", file_limit=300_000, model__width=240)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "a checkpoint could not be written to" in error
    assert not (tmp_path / "run" / "done.json").exists()


def test_f13_the_newest_valid_checkpoint_is_restored(tiny, finished, caplog):
    workdir = finished
    (workdir / "done.json").unlink()
    for file in (workdir / "checkpoints" / "00000006" / "params").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:500])
    with caplog.at_level(logging.INFO):
        line = train(tiny(), workdir)
    assert "checkpoint 6 is damaged" in caplog.text
    assert "continuing after step 3" in caplog.text
    assert line.startswith("complete: step 6 of 6")
    with Checkpoints(workdir / "checkpoints", keep_latest=2) as checkpoints:
        assert checkpoints.steps() == [6, 3]
    assert (workdir / "damaged" / "00000006" / "params").exists()


def test_f15_labels_keep_their_type(tmp_path, videos):
    (tmp_path / "list.txt").write_text("".join(f"{v} -0.7{i}\n" for i, v in enumerate(videos)))
    samples = read_source(f"list:{tmp_path / 'list.txt'}")
    assert [s.targets["label"] for s in samples] == [float(f"-0.7{i}") for i in range(10)]


def test_f18_every_field_of_a_config_is_read(tiny, trained, tmp_path, monkeypatch):
    # Everything that looks at a config as a whole is taken out: only uses of a field count.
    monkeypatch.setattr("echojepa_jax.train.config.check", lambda *_: None)
    monkeypatch.setattr("echojepa_jax.train.claim._check_config", lambda *_: None)
    config = tiny(probe__source=PHANTOM, init__from=str(trained))
    fields = {name for name, _ in leaves(config)}
    recorder = Recorder.of(config)
    Recorder.read.clear()
    train(recorder, tmp_path / "run")
    # What only V-JEPA 2.1 has.
    make_networks(Recorder.of(tiny(model__family="v2.1")))
    assert fields - Recorder.read == set()
    assert {f"masks.{m}.{f}" for m in config.masks for f in configs.MASK_FIELDS} <= fields
    assert set(configs.FIELDS) <= fields


def test_f19_collapse_is_measured_and_raises_an_alarm(tiny, tmp_path):
    rng = np.random.default_rng(0)
    spread = jnp.asarray(rng.standard_normal((64, 16)))
    flat = jnp.asarray(np.outer(rng.standard_normal(64), rng.standard_normal(16)))
    assert 10 < health.effective_rank(spread) <= 16
    assert health.effective_rank(flat) == pytest.approx(1, abs=0.01)
    fine = {"effective_rank": 9.0, "cosine_similarity": 0.5, "relative_error": 0.7}
    for change, sentence in (
        ({}, None),
        ({"effective_rank": 4.0}, "effective rank 4.0"),
        ({"cosine_similarity": 0.99}, "look alike"),
        ({"relative_error": 1.1}, "no better than the mean"),
    ):
        judge = alarms.Judge(last_step=100)
        for step, now in ((50, fine), (60, fine | change)):
            found = judge.line({"step": step} | {f"health/{k}": v for k, v in now.items()})
        assert [sentence in alarm for alarm in found.values()] == [True] * bool(change)

    # A target encoder whose features are constant: every measure says so.
    networks, _, state = fresh(tiny())
    ids = jnp.arange(8)[None].repeat(6, 0)
    clips = rng.integers(0, 256, (6, 4, 32, 32, 3), np.uint8)
    batch = {"clips": clips, "context_ids": (ids,), "target_ids": (ids + 8,)}
    measure = partial(health.measure, batch=batch, networks=networks)
    alive = measure(state)
    constant = jax.tree.map(jnp.zeros_like, state.params["encoder"])
    constant["norm"]["bias"] = jnp.arange(24.0)
    dead = measure(state.replace(target=state.target._replace(ema=constant)))
    assert alive["clip_std"] > 1e-3
    assert dead["clip_std"] < 1e-5
    assert dead["cosine_similarity"] > 0.999
    assert alive["effective_rank"] > 2


def test_f20_non_finite_steps_are_skipped_counted_and_end_the_run(tiny, tmp_path, monkeypatch):
    config = tiny(optim__max_skipped=3, optim__peak_lr=1e30, optim__start_lr=1e30)
    with pytest.raises(UserError, match="not finite for 3 steps in a row"):
        train(config, tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "skipped.jsonl")
    assert len(lines) == 3
    assert all(len(line["samples"]) == 8 for line in lines)


def test_f20_the_last_good_checkpoint_survives(tiny, tmp_path, monkeypatch):
    def breaks(first, last):
        """A step whose clips are not finite from step `first` to step `last`."""

        def step(state, batch, *, networks, **settings):
            broken = (state.step + 1 >= first) & (state.step + 1 <= last)
            clips = jnp.where(broken, jnp.nan, networks.normalise(batch["clips"]))
            return update(state, batch | {"clips": clips}, networks=networks, **settings)

        monkeypatch.setattr("echojepa_jax.train.program.train_step", step)

    config = tiny(optim__max_skipped=2)
    breaks(4, 9)
    with pytest.raises(UserError, match="not finite for 2 steps in a row"):
        train(config, tmp_path / "run")
    breaks(4, 4)
    assert train(config, tmp_path / "run").startswith("complete: step 6 of 6")
    assert last(tmp_path / "run", "skipped_steps") == 1  # step 5 was made good
    assert np.isfinite(last(tmp_path / "run", "loss"))


def test_f24_memory_is_told_before_the_first_step(tiny, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(tiny(), tmp_path / "run")
    texts = [record.message for record in caplog.records]
    (told,) = [i for i, text in enumerate(texts) if "a device needs" in text]
    assert float(re.search(r"needs (\S+) GB", texts[told])[1]) > 0
    assert told < min(i for i, text in enumerate(texts) if text.startswith("step 1/6"))


def test_f21_waiting_for_data_is_told_from_computing(tiny, trained, tmp_path, monkeypatch):
    calls = itertools.count()

    def wait(_):
        if next(calls) >= health.CLIPS:  # those come first, and no step waits for them
            time.sleep(0.1)

    before(monkeypatch, pipeline.decode, "decode", wait)
    train(tiny(), tmp_path / "slow")
    # Of the last step: the first batches are made while the step is compiled.
    shares = [last(run, "data_wait_share") for run in (tmp_path / "slow", trained)]
    seconds = [last(run, "step_seconds") for run in (tmp_path / "slow", trained)]
    assert 0.7 < shares[0] <= 1.0
    assert shares[0] * seconds[0] > 3 * shares[1] * seconds[1]


def test_f23_an_error_of_the_data_is_no_end_of_training(tiny, tmp_path, monkeypatch):
    calls = []

    def break_later(path):
        calls.append(path)
        if len(calls) > 20:
            raise StopIteration

    train(tiny(), tmp_path / "good")
    before(monkeypatch, pipeline.decode, "decode", break_later)
    with pytest.raises(RuntimeError):
        train(tiny(), tmp_path / "run")
    assert not (tmp_path / "run" / "done.json").exists()
