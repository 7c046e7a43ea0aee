"""Training VideoMAE through the same program: run, resume, exports, embeddings, what decays."""

import json
import shutil

import jax
import numpy as np
import pytest

from echojepa_jax.costs.bench import random_batch
from echojepa_jax.costs.collectives import collectives
from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.data.manifest import load
from echojepa_jax.features.embeddings import EmbedSettings, embed
from echojepa_jax.main import train
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.train.load_weights import initial_weights, load_encoder_weights, load_weights
from echojepa_jax.train.optim import DECAY_RULES
from echojepa_jax.train.program import make_program
from echojepa_jax.train.schedules import warmup_cosine_from_0
from echojepa_jax.utils.metrics_writer import read_lines
from echojepa_jax.utils.trees import by_rules, path_text
from echojepa_jax.weights.read import read_weights
from echojepa_jax.weights.write import write_weights
from tests.makers.configs import PHANTOM, SHRINK
from tests.makers.shapes import both_shapes, sizes_of

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny_mae(runs_of_one_config):
    """configs/demo_mae.py, shrunken; call it with further changes by "section.field"."""
    from configs import demo_mae

    def make(**changes):
        config = demo_mae.get_config()
        changed = SHRINK | {name.replace("__", "."): value for name, value in changes.items()}
        for name, value in changed.items():
            section, _, field = name.rpartition(".")
            if not section.startswith("masks"):
                config[section][field] = value
        return config

    return make


def values_of(workdir, *names):
    lines = read_lines(workdir / "metrics.jsonl")
    return {name: [line[name] for line in lines if name in line] for name in names}


def test_a_run_is_continued_exported_embedded_and_probed(tiny_mae, tmp_path):
    probe = {"probe__source": PHANTOM, "probe__every": 0}
    config, run = tiny_mae(**probe), tmp_path / "run"
    assert train(config, run).startswith("complete: step 6 of 6")
    measured = values_of(run, "loss", "loss_of_zero", "black_share", "health/relative_error")
    assert all(np.isfinite(values).all() and min(values) > 0 for values in measured.values())
    assert not values_of(run, "ema_momentum")["ema_momentum"]
    assert values_of(run, "probe/ef/mae", "probe_init/ef/mae")["probe/ef/mae"]
    report = (run / "report.html").read_text()
    assert "The line of zeros is the loss" in report
    assert "mask tube" in report

    # Back to step 3 of a run whose config lacks `objective`, as in earlier versions; on to the end.
    path = run / "config.json"
    earlier = json.loads(path.read_text())
    assert earlier.pop("objective") == "mae"
    path.write_text(json.dumps(earlier))
    before = load_weights(str(run))
    assert set(before.params) == {"encoder", "predictor"}
    shutil.rmtree(run / "checkpoints" / "00000006")
    (run / "done.json").unlink()
    again = values_of(run, "loss")["loss"]
    assert train(config, run).startswith("complete: step 6 of 6")
    assert load_weights(str(run)).fingerprints() == before.fingerprints()
    assert values_of(run, "loss")["loss"] == again

    # Its weights are like any other's.
    for form in ("safetensors", "torch", "hf"):
        write_weights(before, tmp_path / form, form)
        assert read_weights(tmp_path / form).fingerprints() == before.fingerprints()
    assert load_encoder_weights(str(run)).fingerprints() != initial_weights(str(run)).fingerprints()
    settings = EmbedSettings(ClipSpec(4, 32, "duration", 1.2), 1, tokens="all")
    videos = load((PHANTOM,), split="test", quarantine=None, workers=1)
    embed(load_encoder_weights(str(run)), videos, tmp_path / "embeddings", settings)
    assert len(list((tmp_path / "embeddings").glob("tokens-*"))) == 1

    # And they are a start for another run, of the same family alone.
    cooled = tiny_mae(**{"init__from": str(run), "optim__schedule": "linear"})
    cooled.optim.update(warmup_epochs=0.0, start_lr=cooled.optim.peak_lr)
    assert train(cooled, tmp_path / "cooled").startswith("complete")


def test_meshes_agree_and_send_parameters_and_gradients_alone(tiny_mae):
    sizes = {"model__width": 64, "model__mlp_hidden": 128, "predictor__width": 32}
    config = tiny_mae(**sizes, predictor__mlp_hidden=64, optim__global_batch=16)
    found = []
    for replica, fsdp in ((1, 1), (2, 4)):
        mesh = meshes.make_mesh(jax.devices()[: replica * fsdp], replica, fsdp)
        program = make_program(config, mesh)
        step, state = program.compile(), program.init()
        for seed in range(3):
            batch = jax.device_put(random_batch(config, seed), meshes.batch_sharding(mesh))
            state, metrics = step(state, batch)
        found.append(jax.device_get((state.params, metrics["loss"], metrics["loss_of_zero"])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)
    assert jax.tree.leaves(state.target) == [3]  # the number of updates, and no target encoder

    leaves = jax.tree.leaves(program.state.params)
    shapes = {shape[-2:] for leaf in leaves for shape in both_shapes(leaf)}
    # Of queries and values there is a bias each, of all three projections one gradient.
    shapes |= {shape[-1:] for shape in shapes} | {(3 * 64 // 4,), (3 * 32 // 4,)}
    sent = collectives(step.as_text())
    assert {one.kind for one in sent} <= {"all-gather", "all-reduce", "reduce-scatter"}
    for shape in {shape for one in sent for shape in one.shapes}:
        assert tuple(n for n in sizes_of(shape) if n != 1) in shapes | {()}, shape


def test_biases_norms_and_the_mask_token_do_not_decay(tiny_mae):
    program = make_program(tiny_mae(), meshes.make_mesh(jax.devices()[:1]))
    decays = jax.tree.leaves_with_path(by_rules(program.state.params, DECAY_RULES))
    names = {path_text(path).rpartition("/")[2] for path, decay in decays if not decay}
    assert names == {"bias", "scale", "q_bias", "v_bias", "mask_token"}


@pytest.mark.parametrize(
    ("start", "peak", "final"), [(4e-6, 6e-4, 4e-5), (4e-6, 3.516e-6, 4e-6), (0.0, 1e-3, 0.0)]
)
def test_the_schedule_counts_from_0_and_reaches_the_peak_as_videomaes_does(start, peak, final):
    warmup, total = 50, 1000
    rest = np.arange(total - warmup)
    falls = final + 0.5 * (peak - final) * (1 + np.cos(np.pi * rest / len(rest)))
    theirs = np.concatenate([np.linspace(start, peak, warmup), falls])
    schedule = warmup_cosine_from_0(start, peak, final, warmup, total)
    ours = [float(schedule(update)) for update in range(1, total + 1)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
