"""Three training steps of the original PyTorch code, reproduced from its parameters."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.models.predictor import Predictor
from echojepa_jax.models.vit import Encoder
from echojepa_jax.train import schedules
from echojepa_jax.train.optim import adamw, parameter_ema
from echojepa_jax.train.run_weights import shapes_of
from echojepa_jax.train.state import Networks, Optimizer, new_state
from echojepa_jax.train.step import loss_fn, target_embeddings, update
from echojepa_jax.weights.pretrained import expected_shapes
from echojepa_jax.weights.vjepa2 import encoder_rows, from_torch, predictor_rows, to_torch


@pytest.fixture(scope="module", params=[True, False], ids=["scanned", "unrolled"])
def networks(request, train_fixture):
    c = train_fixture.config
    common = {"scan_layers": request.param, "remat": "attention" if request.param else "none"}
    encoder = Encoder(
        width=c["embed_dim"],
        depth=c["depth"],
        heads=c["num_heads"],
        mlp_hidden=int(c["embed_dim"] * c["mlp_ratio"]),
        tubelet=c["tubelet_size"],
        patch=c["patch_size"],
        **common,
    )
    width = c["predictor_embed_dim"]
    predictor = Predictor(
        out_width=c["embed_dim"],
        width=width,
        depth=c["predictor_depth"],
        heads=c["predictor_num_heads"],
        mlp_hidden=int(width * c["mlp_ratio"]),
        mask_tokens=c["num_mask_tokens"],
        **common,
    )
    return Networks(encoder, predictor)


@pytest.fixture(scope="module")
def rows(train_fixture):
    c = train_fixture.config
    encoder = encoder_rows(c["tubelet_size"], c["patch_size"])
    return {"encoder": encoder, "target_encoder": encoder, "predictor": predictor_rows()}


@pytest.fixture(scope="module")
def initial(train_fixture, networks, rows):
    encoder, predictor = shapes_of(networks)
    like = {
        part: expected_shapes(encoder, predictor, part.removeprefix("target_")) for part in rows
    }
    return {
        part: from_torch(train_fixture.tree(f"init/{part}"), rows[part], like[part])
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
    encoder, predictor = networks.encoder, networks.predictor
    full = encoder.apply({"params": initial["encoder"]}, clips)
    np.testing.assert_allclose(full, train_fixture["step0/encoder_full"], atol=1e-5, rtol=0)
    targets = target_embeddings(encoder, initial["target_encoder"], clips)
    np.testing.assert_allclose(targets, train_fixture["step0/targets_full"], atol=1e-5, rtol=0)

    grid = encoder.grid(*clips.shape[1:4])
    masks = zip(train_fixture.ids(0, "context"), train_fixture.ids(0, "target"), strict=True)
    for k, (context_ids, target_ids) in enumerate(masks):
        context = encoder.apply({"params": initial["encoder"]}, clips, context_ids)
        wanted = train_fixture[f"step0/context_out{k}"]
        np.testing.assert_allclose(context, wanted, atol=1e-5, rtol=0)
        (out,) = predictor.apply(
            {"params": initial["predictor"]}, context, [context_ids], [target_ids], grid
        )
        wanted = train_fixture[f"step0/predictor_out{k}"]
        np.testing.assert_allclose(out, wanted, atol=1e-5, rtol=0)


def test_parity_gradients(train_fixture, networks, initial, rows):
    batch = batch_of(train_fixture, 0)
    params = {part: initial[part] for part in ("encoder", "predictor")}
    target = initial["target_encoder"]
    grads, _ = jax.grad(loss_fn, has_aux=True)(
        params, target, networks, jnp.asarray(batch["clips"]), batch, 1.0
    )
    for part, tree in grads.items():
        mine = to_torch(jax.tree.map(lambda g: g / len(batch["clips"]), tree), rows[part])
        theirs = train_fixture.tree(f"step0/grad/{part}")
        # A mask token that is never used has no gradient there and a zero one here.
        unused = set(mine) - set(theirs)
        assert all(name.startswith("mask_tokens") and not mine[name].any() for name in unused)
        assert set(theirs) <= set(mine)
        for name, wanted in theirs.items():
            np.testing.assert_allclose(mine[name], wanted, atol=1e-5, rtol=1e-4, err_msg=name)


def test_parity_steps(train_fixture, networks, initial, rows):
    clips = len(train_fixture.clips(0))
    # Scanned ones in parts as well: the smallest number of equal ones that the batch can be cut to.
    in_parts = networks.encoder.scan_layers
    microbatches = next(n for n in range(2, clips + 1) if clips % n == 0) if in_parts else 1
    learning_rate, decay, momentum = fixture_schedules(train_fixture)
    params = {part: initial[part] for part in ("encoder", "predictor")}
    o = train_fixture.config["optimizer"]
    optimizer = Optimizer(
        adamw(params, learning_rate, decay, betas=tuple(o["betas"]), eps=o["eps"]),
        parameter_ema(momentum),
    )
    state = new_state(jax.tree.map(jnp.asarray, params), optimizer)
    # The recording starts in the middle of a run, with a target encoder that lags behind.
    lagging = jax.tree.map(jnp.asarray, initial["target_encoder"])
    state = dataclasses.replace(state, target=state.target._replace(ema=lagging))
    step = jax.jit(
        partial(update, networks=networks, optimizer=optimizer, microbatches=microbatches)
    )
    for i in range(train_fixture.config["steps"]):
        state, metrics = step(state, batch_of(train_fixture, i))
        loss, *_ = train_fixture["log/loss_lr_wd_momentum"][i]
        np.testing.assert_allclose(metrics["loss"], loss, atol=1e-5, rtol=0)
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
                assert name.startswith("mask_tokens.")
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
