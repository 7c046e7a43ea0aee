"""Three training steps of the original PyTorch code, reproduced from its parameters."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.models.predictor import Predictor
from echojepa_jax.models.v21 import EncoderV21, PredictorV21, levels_of, trained_side
from echojepa_jax.models.vit import Encoder
from echojepa_jax.train import schedules
from echojepa_jax.train.objectives.vjepa2 import VJepa2
from echojepa_jax.train.objectives.vjepa21 import VJepa21, root_distances
from echojepa_jax.train.optim import adamw, parameter_ema
from echojepa_jax.train.state import Networks, Optimizer, init_params, new_state
from echojepa_jax.train.step import gradients, move, update
from echojepa_jax.weights.vjepa2 import (
    encoder_rows,
    encoder_rows_v21,
    from_torch,
    predictor_rows,
    predictor_rows_v21,
    to_torch,
)
from tests.makers.recordings import FOLDER, TrainFixture

# V-JEPA 2; V-JEPA 2.1 with four levels, and with the last one: their twelve layers, the fewest that
# the original has levels for, make large files, and take long to compile without a loop.
RECORDED = (
    ("train_steps_tiny", "scanned"),
    ("train_steps_tiny", "unrolled"),
    ("train_steps_v21_tiny", "scanned"),
    ("train_steps_v21_distilled", "scanned"),
)


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    named = metafunc.config.getoption("--train-fixture")
    cases = [(FOLDER / f"{name}.npz", how) for name, how in RECORDED]
    if named:
        cases = [(named, "scanned"), (named, "unrolled")]
    # Steps of V-JEPA 2.1 take the longest to compile; other tests compare its gradients.
    steps = metafunc.function in (test_parity_steps, test_parity_of_videos_and_images)
    marks = [[pytest.mark.slow] if steps and case != cases[0] else [] for case in cases]
    cases = [
        pytest.param(case, id=f"{case[0].stem}-{case[1]}", marks=mark)
        for case, mark in zip(cases, marks, strict=True)
    ]
    metafunc.parametrize("case", cases, scope="module")


@pytest.fixture(scope="module")
def train_fixture(case):
    return TrainFixture(case[0])


@pytest.fixture(scope="module")
def networks(case, train_fixture):
    c, scanned = train_fixture.config, case[1] == "scanned"
    common = {"scan_layers": scanned, "remat": "attention" if scanned else "none"}
    new = "n_output_distillation" in c  # V-JEPA 2.1
    encoder = (EncoderV21 if new else Encoder)(
        width=c["embed_dim"],
        depth=c["depth"],
        heads=c["num_heads"],
        mlp_hidden=int(c["embed_dim"] * c["mlp_ratio"]),
        tubelet=c["tubelet_size"],
        patch=c["patch_size"],
        **common,
    )
    width = c["predictor_embed_dim"]
    objective, more = VJepa2(), {}
    if new:
        ramp = (c["lambda_start"], c["lambda_end"]) if c["lambda_progressive"] else (0, 0)
        # The recording begins in the middle of a run.
        ramp = tuple(step - c["global_iteration"] for step in ramp) if any(ramp) else ramp
        objective = VJepa21(
            c["loss_exp"],
            c["n_output_distillation"],
            c["lambda_value"],
            ramp,
            c["weight_distance_loss"],
        )
        assert levels_of(c["depth"]) == tuple(c["hierarchical_layers"])
        more = {"levels": objective.levels, "trained_side": trained_side(c["patch_size"])}
    predictor = (PredictorV21 if new else Predictor)(
        out_width=c["embed_dim"],
        width=width,
        depth=c["predictor_depth"],
        heads=c["predictor_num_heads"],
        mlp_hidden=int(width * c["mlp_ratio"]),
        mask_tokens=c["num_mask_tokens"],
        **more,
        **common,
    )
    return Networks(encoder, predictor, objective=objective)


@pytest.fixture(scope="module")
def rows(train_fixture, networks):
    c = train_fixture.config
    if isinstance(networks.encoder, EncoderV21):
        encoder = encoder_rows_v21(c["tubelet_size"], c["patch_size"])
        predictor = predictor_rows_v21(networks.objective.levels)
    else:
        encoder, predictor = encoder_rows(c["tubelet_size"], c["patch_size"]), predictor_rows()
    return {"encoder": encoder, "target_encoder": encoder, "predictor": predictor}


@pytest.fixture(scope="module")
def initial(train_fixture, networks, rows):
    c = train_fixture.config
    like = jax.eval_shape(
        lambda: init_params(networks, jax.random.key(0), c["frames"], c["crop_size"])
    )
    return {
        part: from_torch(
            train_fixture.tree(f"init/{part}"), rows[part], like[part.removeprefix("target_")]
        )
        for part in rows
    }


def batch_of(fixture, step):
    clips = fixture.clips(step)
    return {
        "clips": clips,
        "context_ids": fixture.ids(step, "context"),
        "target_ids": fixture.ids(step, "target"),
        "valid": np.ones(len(clips), bool),
    }


def fixture_schedules(fixture):
    o = fixture.config["optimizer"]
    per_epoch = o["iterations_per_epoch"]
    total = int(o["ipe_scale"] * o["epochs"] * per_epoch)
    if o["anneal"]:
        learning_rate = schedules.linear(o["lr"], o["final_lr"], total)
    else:
        warmup = int(o["warmup_epochs"] * per_epoch)
        learning_rate = schedules.warmup_cosine(
            o["start_lr"], o["lr"], o["final_lr"], warmup, total
        )
    decay = schedules.cosine(o["weight_decay"], o["final_weight_decay"], total)
    return learning_rate, decay, schedules.linear(*o["ema"], total)


def test_parity_outputs(train_fixture, networks, initial):
    clips = jnp.asarray(train_fixture.clips(0))
    encoder, predictor, objective = networks.encoder, networks.predictor, networks.objective
    several = {"levels": objective.levels} if objective.levels > 1 else {}
    params, batch = {"params": initial["encoder"]}, batch_of(train_fixture, 0)
    close = partial(np.testing.assert_allclose, atol=1e-5, rtol=0)
    # The target encoder has moved away from the encoder in the recordings of V-JEPA 2.1.
    whose = "target_encoder" if isinstance(encoder, EncoderV21) else "encoder"
    encode = jax.jit(encoder.apply, static_argnames="levels")
    predict = jax.jit(predictor.apply, static_argnums=4)
    full = encode({"params": initial[whose]}, clips, **several)
    close(full, train_fixture["step0/encoder_full"])
    if "step0/encoder_last" in train_fixture.arrays:
        last = encode({"params": initial["target_encoder"]}, clips)
        close(last, train_fixture["step0/encoder_last"])
    trained = {part: initial[part] for part in ("encoder", "predictor")}
    embed = jax.jit(objective.embed, static_argnums=(0, 1))
    targets, pairs = embed(encoder, predictor, trained, initial["target_encoder"], clips, batch)
    close(targets, train_fixture["step0/targets_full"])

    grid = encoder.grid(*clips.shape[1:4])
    masks = zip(batch["context_ids"], batch["target_ids"], pairs, strict=True)
    for k, (context_ids, target_ids, (predicted, wanted)) in enumerate(masks):
        context = encode(params, clips, context_ids, **several)
        close(context, train_fixture[f"step0/context_out{k}"])
        found = predict(
            {"params": initial["predictor"]}, context, [context_ids], [target_ids], grid
        )
        if isinstance(encoder, EncoderV21):
            found, (visible,) = found
            close(visible, train_fixture[f"step0/predictor_context_out{k}"])
        close(found[0], train_fixture[f"step0/predictor_out{k}"])
        close(predicted, train_fixture[f"step0/predictor_out{k}"])
        close(wanted, np.take_along_axis(np.asarray(targets), target_ids[..., None], axis=1))
        if f"step0/context_distance{k}" in train_fixture.arrays:
            distances = root_distances(context_ids, target_ids, grid)
            close(distances, train_fixture[f"step0/context_distance{k}"])


def optimizer_of(fixture, params):
    learning_rate, decay, momentum = fixture_schedules(fixture)
    o = fixture.config["optimizer"]
    return Optimizer(
        adamw(params, learning_rate, decay, betas=tuple(o["betas"]), eps=o["eps"]),
        parameter_ema(momentum),
    )


@pytest.fixture(scope="module")
def state(train_fixture, initial):
    """The recorded state before the first step."""
    initial = {part: jax.tree.map(jnp.asarray, tree) for part, tree in initial.items()}
    lagging = initial.pop("target_encoder")
    state = new_state(initial, optimizer_of(train_fixture, initial))
    # The recording starts in the middle of a run, with a target encoder that lags behind.
    return dataclasses.replace(state, target=state.target._replace(ema=lagging))


@pytest.fixture(scope="module")
def jitted(networks):
    """`gradients`, of these networks unless others are given; tests share what is compiled."""
    compiled = jax.jit(gradients, static_argnames=("networks", "microbatches"))
    return partial(compiled, networks=networks, microbatches=1)


def check_gradients(fixture, prefix, grads, rows):
    for part, tree in grads.items():
        mine, theirs = to_torch(tree, rows[part]), fixture.tree(f"{prefix}/grad/{part}")
        # What is never used has no gradient there and a zero one here.
        assert set(theirs) <= set(mine)
        assert not any(mine[name].any() for name in set(mine) - set(theirs))
        for name, wanted in theirs.items():
            np.testing.assert_allclose(mine[name], wanted, atol=1e-5, rtol=1e-4, err_msg=name)


def test_parity_gradients(train_fixture, jitted, state, rows):
    loss, _, grads = jitted(state, batch_of(train_fixture, 0))
    wanted = train_fixture["log/loss_lr_wd_momentum"][0, 0]
    np.testing.assert_allclose(loss, wanted, atol=1e-5, rtol=0)
    check_gradients(train_fixture, "step0", grads, rows)


def images_of(fixture):
    """The recorded batch of images; None in a recording of V-JEPA 2."""
    if "image/clips" not in fixture.arrays:
        return None
    batch = {
        f"{name}_ids": tuple(
            fixture[key]
            for key in sorted(fixture.arrays.files)
            if key.startswith(f"image/{name}_indices")
        )
        for name in ("context", "target")
    }
    clips = fixture["image/clips"].astype(np.float32).transpose(0, 2, 3, 4, 1)
    return batch | {"clips": clips, "valid": np.ones(len(clips), bool)}


def test_parity_of_an_image_batch(train_fixture, networks, jitted, state, rows):
    batch = images_of(train_fixture)
    if batch is None:
        return
    total, pred, context, weight = train_fixture["image/losses"]
    # Images have a lambda of their own, which is recorded without a ramp.
    objective = networks.objective._replace(
        context_weight=train_fixture.config["lambda_image"], ramp=(0, 0)
    )
    np.testing.assert_allclose(objective.context_weight_at(jnp.int32(0)), weight, rtol=1e-6)
    loss, parts, grads = jitted(state, batch, networks=networks._replace(objective=objective))
    close = partial(np.testing.assert_allclose, atol=1e-5, rtol=0)
    close([loss, parts["loss_by_mask"].mean(), parts["loss_context"]], [total, pred, context])
    check_gradients(train_fixture, "image", grads, rows)


def test_parity_of_videos_and_images(train_fixture, networks, jitted, state, rows):
    images, share = images_of(train_fixture), 0.25
    if images is None:
        return
    of_images = networks.objective._replace(
        context_weight=train_fixture.config["lambda_image"], ramp=(0, 0)
    )
    joint = networks._replace(images=of_images, image_share=share)
    batch = batch_of(train_fixture, 0) | {"images": images}
    loss, _, grads = jitted(state, batch, networks=joint)
    # As devices with images and devices with videos, whose gradients are averaged.
    losses = train_fixture["log/loss_lr_wd_momentum"][0, 0], train_fixture["image/losses"][0]
    wanted = (1 - share) * losses[0] + share * losses[1]
    np.testing.assert_allclose(loss, wanted, atol=1e-5, rtol=0)
    for part, tree in grads.items():
        of = [train_fixture.tree(f"{prefix}/grad/{part}") for prefix in ("step0", "image")]
        for name, mine in to_torch(tree, rows[part]).items():
            both = [grad.get(name, np.zeros_like(mine)) for grad in of]
            wanted = (1 - share) * both[0] + share * both[1]
            np.testing.assert_allclose(mine, wanted, atol=1e-5, rtol=1e-4, err_msg=name)


def test_parity_steps(case, train_fixture, networks, jitted, state, rows):
    clips = len(train_fixture.clips(0))
    # Scanned ones in parts as well: the smallest number of equal ones that the batch can be cut to.
    in_parts = networks.encoder.scan_layers
    microbatches = next(n for n in range(2, clips + 1) if clips % n == 0) if in_parts else 1
    optimizer = optimizer_of(train_fixture, state.params)
    apply = jax.jit(partial(move, optimizer=optimizer))

    if case[1] == "scanned" and not isinstance(networks.encoder, EncoderV21):  # as in training
        step = jax.jit(
            partial(update, networks=networks, optimizer=optimizer, microbatches=microbatches)
        )
    else:

        def step(state, batch):
            """`update` as two programs: the optimizer's does not depend on the shapes of a batch,
            so it is compiled only once."""
            loss, others, grads = jitted(state, batch, microbatches=microbatches)
            after, facts = apply(state, loss, grads)
            facts = networks.objective.facts_at(state.step) | facts
            return after, {"loss": loss, **others, **facts}

    for i in range(train_fixture.config["steps"]):
        state, metrics = step(state, batch_of(train_fixture, i))
        loss, *_ = train_fixture["log/loss_lr_wd_momentum"][i]
        np.testing.assert_allclose(metrics["loss"], loss, atol=1e-5, rtol=0)
        if "context_weight" in metrics:
            _, pred, context, weight = train_fixture["log/loss_pred_context_lambda"][i]
            np.testing.assert_allclose(metrics["loss_by_mask"].mean(), pred, atol=1e-5, rtol=0)
            np.testing.assert_allclose(metrics["loss_context"], context, atol=1e-5, rtol=0)
            np.testing.assert_allclose(metrics["context_weight"], weight, rtol=1e-6)
        assert metrics["skipped"] == 0

    final = {
        "encoder": state.params["encoder"],
        "target_encoder": state.target.ema,
        "predictor": state.params["predictor"],
    }
    for part, tree in final.items():
        mine, theirs = to_torch(tree, rows[part]), train_fixture.tree(f"final/{part}")
        before = train_fixture.tree(f"init/{part}")
        assert set(theirs) == set(mine)
        for name, wanted in theirs.items():
            np.testing.assert_allclose(mine[name], wanted, atol=2e-5, rtol=0, err_msg=name)
            # What the original's optimizer never touched keeps its bits, whatever the decay.
            if np.array_equal(wanted, before[name]):
                np.testing.assert_array_equal(mine[name], wanted, err_msg=name)


def test_parity_schedules(train_fixture):
    learning_rate, decay, momentum = fixture_schedules(train_fixture)
    for i, (_, lr, wd, m) in enumerate(train_fixture["log/loss_lr_wd_momentum"]):
        # Learning rate and weight decay of the k-th update are evaluated at k, the momentum at k-1.
        np.testing.assert_allclose(learning_rate(i + 1), lr, atol=1e-9, rtol=0)
        np.testing.assert_allclose(decay(i + 1), wd, atol=1e-9, rtol=0)
        np.testing.assert_allclose(momentum(i), m, atol=1e-9, rtol=0)
        # Inside the step they are computed in single precision.
        np.testing.assert_allclose(learning_rate(jnp.int32(i + 1)), lr, rtol=1e-6)
        np.testing.assert_allclose(decay(jnp.int32(i + 1)), wd, rtol=1e-6)
        np.testing.assert_allclose(momentum(jnp.int32(i)), m, rtol=1e-6)
