"""The program as a user runs it: whole, killed, stopped, on more devices, started again."""

import fcntl
import json
import logging
import os
import re
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from pydicom.data import get_testdata_file

from configs.evaluation import phantom
from echojepa_jax.main import _without_phantom, train
from echojepa_jax.models.vit import EncoderShape
from echojepa_jax.parallel.mesh import make_mesh
from echojepa_jax.runtime.signals import Stopped
from echojepa_jax.train import loop
from echojepa_jax.train.evaluators import Evaluator, Moment
from echojepa_jax.train.evaluators.linear_probe import LinearProbe
from echojepa_jax.train.loop import run
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.metrics_writer import read_lines
from echojepa_jax.weights.pretrained import PredictorShape
from echojepa_jax.weights.write import write_weights
from tests import programs
from tests.makers.configs import PHANTOM, SHRINK
from tests.makers.weights import random_weights

pytestmark = pytest.mark.slow


def weights_of(workdir: Path, step: int = 6):
    """Everything in a checkpoint, as NumPy arrays."""
    with ocp.StandardCheckpointer() as reader:
        parts = [
            reader.restore((workdir / "checkpoints" / f"{step:08d}" / part).absolute())
            for part in ("params", "target", "progress")
        ]
    return jax.tree.map(np.asarray, parts)


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-7), a, b)


@pytest.fixture(scope="module")
def uninterrupted(trained):
    """Of a run on as many devices as each program here has that is killed or stopped."""
    return weights_of(trained)


def wait_for(path: Path, process) -> None:
    limit = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.002)


def kill_after_step_3(workdir: Path, process) -> None:
    """With nothing left of the last three steps, which may have been quicker than the signal."""
    wait_for(workdir / "checkpoints" / "00000003" / "_CHECKPOINT_METADATA", process)
    process.kill()
    process.communicate()
    shutil.rmtree(workdir / "checkpoints" / "00000006", ignore_errors=True)


def test_f17_killed_after_a_checkpoint_and_started_again(uninterrupted, run_main, tmp_path):
    workdir = tmp_path / "run"
    kill_after_step_3(workdir, run_main(workdir=workdir, devices=8, wait=False))
    assert not (workdir / "done.json").exists()
    # Now with worker processes, which change nothing.
    again = run_main(workdir=workdir, devices=8, data__workers=2)
    assert again.returncode == 0, again.stderr
    last_line = again.stdout.strip().splitlines()[-1]
    assert last_line == f"complete: step 6 of 6. The report is {workdir}/report.html"
    assert "continuing after step 3" in again.stderr
    assert_identical(weights_of(workdir), uninterrupted)
    steps = [line["step"] for line in read_lines(workdir / "metrics.jsonl") if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_f17_a_run_with_images_is_killed_and_started_again(tiny_images, run_main, tmp_path, caplog):
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(tiny_images(), whole)
    facts = json.loads((whole / "manifest.json").read_text())["data"]
    assert (facts["videos"], facts["images"]) == (14, 14)
    assert sum(facts["image_sources"].values()) == 14
    # Examples and health are of videos; the report has the loss of images as well.
    assert np.load(whole / "examples.npz")["clips"].shape[1] == SHRINK["data.frames"]
    line = read_lines(whole / "metrics.jsonl")[-2]
    assert {"loss/images", "loss_context/images", "loss_context"} <= set(line)
    assert "mask images from" in (whole / "report.html").read_text()
    images = "tests/makers/demo_images.py"
    kill_after_step_3(again, run_main(workdir=again, devices=8, config=images, wait=False))
    with caplog.at_level(logging.INFO):
        train(tiny_images(), again)
    assert "continuing after step 3" in caplog.text
    assert_identical(weights_of(again), weights_of(whole))


# Both take the same way; one is enough to see where it leads.
@pytest.mark.parametrize(("number", "continued"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_saves_and_leaves(uninterrupted, run_main, tiny, tmp_path, number, continued):
    workdir = tmp_path / "run"
    process = run_main(workdir=workdir, devices=8, wait=False)
    wait_for(workdir / "examples.npz", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    step = re.search(r"stopped by a signal; saved at step (\d) of 6", out)
    assert step, out
    assert f"{number.name}: stopping after the current work" in err
    assert (workdir / "checkpoints" / f"{int(step[1]):08d}").exists()
    if continued:
        assert train(tiny(), workdir).startswith("complete")
        assert_identical(weights_of(workdir), uninterrupted)


def test_f12_a_finished_run_says_so_and_changes_nothing(finished, run_main, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    again = run_main(workdir=finished)
    assert again.returncode == 0
    assert f"{finished} is complete" in again.stdout
    # At once, without what only training needs.
    assert "echojepa_jax.train.workdir" in again.stderr
    assert "echojepa_jax.train.loop" not in again.stderr
    monkeypatch.delenv("PYTHONPROFILEIMPORTTIME")
    other = run_main(workdir=finished, optim__peak_lr=1e-4)
    way_out = rf"optim\.peak_lr .*can start from these weights .*\.init\.from={finished}"
    assert re.search(way_out, other.stderr)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_own_videos_bring_no_probe_of_the_phantom(caplog):
    from configs import demo

    caplog.set_level(logging.INFO)
    own = {"data.sources": ("videos:/mine",)}
    for asked, wanted in (
        ({}, True),
        ({"data.sources": ("phantom:pediatric",)}, True),
        (own | {"probe.source": "phantom:adult"}, True),
        (own, False),
    ):
        config = demo.get_config()
        for name, value in asked.items():
            section, field = name.split(".")
            config[section][field] = value
        _without_phantom(config, asked)
        assert bool(config.probe.source) == wanted
        assert ("no online probe" in caplog.text) != wanted
    # The same videos, but from a config: what it says is kept.
    config = demo.get_config()
    config.data.sources = ("videos:/mine",)
    _without_phantom(config, {})
    assert config.probe.source.startswith("phantom:")
    assert "the online probe is for the phantom, but the run trains on other videos" in caplog.text


def test_f07_a_workdir_belongs_to_one_process(finished, run_main):
    folder = os.open(finished, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    refused = run_main(workdir=finished)
    os.close(folder)
    assert f"error: another process uses {finished}" in programs.error_of(refused)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (
            signal.SIGINT,
            130,
            "error: interrupted; the same command continues from the last save, or starts",
        ),
        (signal.SIGTERM, 0, "stopped by a signal; nothing had to be saved. The same command"),
    ],
)
def test_a_signal_before_the_first_step_is_one_sentence(run_main, tmp_path, number, code, said):
    process = run_main(workdir=tmp_path / "run", wait=False)
    wait_for(tmp_path / "run" / "config.json", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert len(out.splitlines()) == (0 if code else 1)
    assert (err if code else out).splitlines()[-1].startswith(said)


def test_a_probe_that_is_stopped_leaves_a_checkpoint(tiny, tmp_path):
    config = tiny(probe__every=2)
    made = []

    def probe(moment):
        assert not moment.stop_asked()
        made.append(moment.step)
        if moment.step == 2:
            raise Stopped
        return {}

    workdir = Workdir(tmp_path)
    outcome = run(config, workdir, lambda samples: Evaluator("probe", 2, False, probe))
    assert (outcome.complete, outcome.step) == (False, 2)
    assert (tmp_path / "checkpoints" / "00000002").is_dir()
    with pytest.raises(AssertionError, match="continued"):
        run(config, workdir, lambda samples: Evaluator("probe", 2, False, _fails))


def _fails(moment):
    assert moment.step != 2, "continued where it was"


def test_a_signal_ends_the_encoding_of_a_probe(tiny, tmp_path):
    config = tiny(probe__source=PHANTOM)
    probe = LinearProbe(config, tmp_path, [])
    program = loop.make_program(config, make_mesh(**config.mesh))
    moment = Moment(1, program.init(), program.networks, False, lambda: False)
    assert probe.measure(moment)
    with pytest.raises(Stopped):
        probe.measure(moment._replace(stop_asked=lambda: True))


def test_weights_to_start_from_are_named_on_the_command_line(trained, run_main, tmp_path):
    done = run_main(workdir=tmp_path / "run", devices=8, init__from=trained, init__step=4)
    said = f"{trained}/checkpoints has no checkpoint of step 4, only [3, 6]"
    assert said in programs.error_of(done)


# So slow that weights hardly move, and at another size of clips than that of what it starts from.
COOLDOWN = {
    "data__frames": 8,
    "data__size": 48,
    "log__health_every": 0,
    "optim__schedule": "linear",
    "optim__epochs": 1,
    "optim__warmup_epochs": 0.0,
    "optim__start_lr": 1e-9,
    "optim__peak_lr": 1e-9,
    "optim__final_lr": 0.0,
    "optim__momentum": (1.0, 1.0),
}


def test_weights_of_other_formats_are_taken_with_or_without_a_predictor(tiny, tmp_path, caplog):
    shape = EncoderShape(width=24, depth=2, heads=2, mlp_hidden=48, patch=8)
    weights = random_weights(shape, PredictorShape(24, 1, 2, 48, 10))
    write_weights(weights, tmp_path / "hf", "hf")
    write_weights(weights.only("encoder"), tmp_path / "encoder", "torch")
    for name, said in (("hf", "of the predictor"), ("encoder", "starts from random weights")):
        config = tiny(init__from=str(tmp_path / name), **COOLDOWN)
        with caplog.at_level(logging.INFO):
            train(config, tmp_path / f"run_{name}")
        assert said in caplog.text
        params, target, _ = weights_of(tmp_path / f"run_{name}", 3)
        for encoder in (params["encoder"], target["ema"]):
            assert_close(encoder, weights.params["encoder"])
        mine, theirs = (of["predictor"]["proj"]["kernel"] for of in (params, weights.params))
        assert np.allclose(mine, theirs) == (name == "hf")
        caplog.clear()
    with pytest.raises(UserError, match=r"is not a training run and has no checkpoint of step 3"):
        train(tiny(init__from=str(tmp_path / "hf"), init__step=3), tmp_path / "refused")


def test_ultrasound_dicoms_that_packages_ship(tiny, tmp_path):
    files = [get_testdata_file(n) for n in ("examples_ybr_color.dcm", "color3d_jpeg_baseline.dcm")]
    sources = tuple(f"dicom:{file}" for file in files)
    # With the demo's own length and spacing of frames; the first file lasts one second of its 1.2.
    one_step = {"optim__epochs": 1, "optim__updates_per_epoch": 1, "log__health_every": 0}
    train(tiny(data__sources=sources, data__frames=16, **one_step), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    assert facts["videos"] == 2
    assert facts["short"] == 1
    assert not read_lines(tmp_path / "run" / "quarantine.jsonl")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("configs/demos.py", r"configs/demos\.py: there is no such file"),
        ("broken.py", r"broken\.py cannot be loaded: SyntaxError"),
        ("vit_l.py:huge", r"vit_l\.py:huge: TypeError: get_config\(\) takes 0 .*"),
    ],
)
def test_a_config_that_does_not_load_is_one_sentence(run_main, tmp_path, config, sentence):
    if config == "broken.py":
        config = tmp_path / config
        config.write_text("def get_config(:\n")
    done = run_main(workdir=tmp_path / "run", config=config)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: .*{sentence}.*\n", done.stderr), done.stderr


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.dept": 3}, r"no field 'model\.dept'; the nearest is 'model\.depth'"),
        ({"objective": "mae"}, r"objective is a section: to train EchoMAE, .*=demo_mae or .*mae_l"),
        ({"objective": "v2"}, r"config\.objective is a section: set its fields"),
        ({"optim.peak_lr": "fast"}, r"--config\.optim\.peak_lr=fast"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_left(run_main, tmp_path, changes, sentence):
    error = programs.error_of(run_main(workdir=tmp_path / "run", **changes))
    assert re.search(sentence, error), error
    # Nothing is left that would refuse the command once it is corrected.
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data__size": 36}, r"'data\.size' is 36, .* multiple of model\.patch, 8; .* is 32"),
        ({"model__remat": "atention"}, r"'model\.remat' .*; the nearest is 'attention'"),
        ({"data__sources": ("vidoes:/x",)}, "videos"),
        ({"model__heads": 5}, r"'model\.width' is 24, but it must be a multiple of model.heads, 5"),
        ({"init__from": "/nowhere"}, "/nowhere does not exist"),
        ({"data__weights": (1.0,), "data__temperature": 2.0}, r"'data\.temperature' is 2.0"),
    ],
)
def test_a_wrong_value_names_its_field(tiny, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        train(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_run_that_never_began_takes_the_corrected_command(tiny, tmp_path):
    two_frames = get_testdata_file("OBXXXX1A_2frame.dcm")  # it tells no frame rate
    with pytest.raises(UserError, match="no frame rate"):
        train(tiny(data__sources=(f"dicom:{two_frames}",)), tmp_path / "run")
    assert read_lines(tmp_path / "run" / "quarantine.jsonl")
    assert train(tiny(), tmp_path / "run").startswith("complete")
    assert not read_lines(tmp_path / "run" / "quarantine.jsonl")


def test_a_folder_that_is_no_workdir_is_refused(tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty and has no"):
        train(tiny(), tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vjepa2"}')
    with pytest.raises(UserError, match="belongs to another program"):
        train(tiny(), tmp_path)
    assert "vjepa2" in (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match="cannot be used: "):
        train(tiny(), tmp_path / "thesis.txt")


def test_help_shows_an_example(run_main, tmp_path):
    done = run_main("--help", workdir=tmp_path)
    assert done.returncode == 0
    assert "python -m echojepa_jax.main --config=configs/demo.py" in done.stdout


def test_a_config_of_the_other_program_is_named_as_such(run_main, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    done = programs.run("main", "--config=configs/probes/phantom_lvef.py", workdir)
    assert done.stderr.splitlines()[-1].startswith("error: --config is the config of a probe:")
    done = programs.run("probe", "--config=configs/demo.py", workdir)
    sentence = "error: --config is not of a probe: run the program `train` with it"
    assert done.stderr.splitlines()[-1] == sentence
    done = programs.run("evaluate", "--config=configs/demo.py", workdir)
    assert done.stderr.splitlines()[-1].startswith("error: --config is not a suite of tasks, such")
    with pytest.raises(UserError, match="is a suite of tasks: run the program `evaluate`"):
        train(phantom.get_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_config_in_the_same_workdir_is_refused(tiny, finished):
    before = (finished / "metrics.jsonl").read_bytes()
    with pytest.raises(Exception, match=r"model\.depth \(2 there, 1 now\)"):
        train(tiny(model__depth=1), finished)
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_cooldown_starts_from_another_run_and_resets_the_rest(tiny, trained, tmp_path):
    train(tiny(init__from=str(trained), init__step=3, **COOLDOWN), tmp_path / "cooldown")
    params, target, _ = weights_of(trained, 3)
    new_params, new_target, progress = weights_of(tmp_path / "cooldown", 3)
    assert progress["step"] == 3
    assert new_target["count"] == 3
    assert_identical(new_target["ema"], target["ema"])
    # At that learning rate the weights are those of the other run's step 3, all but unmoved.
    assert_close(new_params, params)
    lines = read_lines(tmp_path / "cooldown" / "metrics.jsonl")
    lr = [line["lr"] for line in lines if "lr" in line]
    np.testing.assert_allclose(lr, [2e-9 / 3, 1e-9 / 3, 0], atol=1e-15)


def test_probe_report_every_metric_and_nothing_compiled_after_the_first_step(tiny, tmp_path):
    from tensorflow.python.summary.summary_iterator import summary_iterator

    workdir, compiled = tmp_path / "run", []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(time.time())

    jax.monitoring.register_event_duration_secs_listener(listen)
    # With a seed of its own, so that no other test has compiled it.
    config = tiny(seed=1, probe__source=PHANTOM, probe__every=4, log__tensorboard=True)
    try:
        line = train(config, workdir)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert line.startswith("complete: step 6 of 6")
    lines = read_lines(workdir / "metrics.jsonl")
    probes = [entry for entry in lines if "probe/ef/mae" in entry]
    assert [entry["step"] for entry in probes] == [4, 6]
    result = json.loads((workdir / "probe.json").read_text())
    assert len(result["regression"]["ef"]["true"]) == 4  # two test patients, two views each
    assert result["regression"]["ef"]["mae"] == probes[-1]["probe/ef/mae"]
    true, predicted = (np.array(result["regression"]["ef"][k]) for k in ("true", "predicted"))
    np.testing.assert_allclose(np.abs(true - predicted).mean(), probes[-1]["probe/ef/mae"])
    low, high = result["regression"]["ef"]["intervals"]["mae"]
    assert low <= result["regression"]["ef"]["mae"] <= high
    assert result["view"]["patients"] == [0, 0, 1, 1]
    logged = {name for entry in lines for name in entry}
    assert logged >= {
        "loss", "loss/large", "loss/small", "lr", "weight_decay", "ema_momentum", "grad_norm",
        "clips_per_second", "step_seconds", "data_wait_share", "skipped_steps", "padded_share",
        "health/token_std", "health/clip_std", "health/effective_rank",
        "health/cosine_similarity", "health/relative_error", "probe_init/view/accuracy",
    }  # fmt: skip
    (events,) = workdir.glob("events.out.tfevents*")
    pictures = {
        (event.step, value.tag)
        for event in summary_iterator(str(events))
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "images"
    }
    assert pictures == {
        *((0, f"examples/{name}") for name in ("frames", "mask large", "mask small")),
        *((step, "probe/ef") for step in (4, 6)),
    }
    assert "EF" in (workdir / "report.html").read_text().upper()
    first = next(line for line in lines if "loss" in line)
    assert first["step"] == 1
    assert compiled  # the listener hears the compilations before
    assert [t for t in compiled if t > first["time"]] == []
