"""The step beyond parity: what counts, what is skipped, clipping, other losses, other shardings."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from echojepa_jax.costs.bench import random_batch
from echojepa_jax.models import blocks
from echojepa_jax.parallel.mesh import make_mesh
from echojepa_jax.train.objectives.vjepa2 import VJepa2, clip_losses
from echojepa_jax.train.objectives.vjepa21 import VJepa21
from echojepa_jax.train.optim import adamw
from echojepa_jax.train.program import make_program
from echojepa_jax.train.state import make_networks
from echojepa_jax.train.step import gradients, train_step, update
from tests.makers.calls import before
from tests.makers.states import fresh


@pytest.fixture(scope="module")
def of_videos(tiny):
    return fresh(tiny())


@pytest.fixture
def setting(of_videos):
    """Networks, optimizer, a fresh state, and a batch of 8 random clips."""
    rng = np.random.default_rng(0)
    ids = np.sort(rng.permuted(np.tile(np.arange(32), (8, 1)), axis=1)[:, :16], axis=1)
    batch = {
        "clips": rng.integers(0, 256, (8, 4, 32, 32, 3), np.uint8),
        "context_ids": (ids[:, :4], ids[:, 4:8]),
        "target_ids": (ids[:, 8:], ids[:, 8:14]),
        "valid": np.ones(8, bool),
    }
    return *of_videos, batch


def test_blocks_are_traced_once_for_fresh_parameters_and_their_shapes(tiny, monkeypatch):
    traced = []
    before(monkeypatch, blocks, "self_attention", traced.append)
    program = make_program(tiny(model__mlp_hidden=40), make_mesh())  # new, so nothing is known
    # By Flax's scan twice, in the encoder and in the predictor.
    assert len(traced) == 4
    program.compile_init()
    assert len(traced) == 4


def equations(jaxpr):
    """All equations of a traced program, those of its parts as well."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(value):
                yield from equations(getattr(value, "jaxpr", value))


def is_program(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


@pytest.mark.parametrize("remat", ["none", "attention"])
def test_softmax_norms_and_losses_are_float32_where_products_are_bfloat16(tiny, setting, remat):
    networks = make_networks(tiny(model__dtype="bfloat16", model__remat=remat))
    _, _, state, batch = setting
    clips = networks.normalise(jnp.asarray(batch["clips"]))

    def loss(params):
        encoder, predictor = networks.encoder, networks.predictor
        return VJepa2().loss(params, encoder, predictor, params["encoder"], clips, batch, 0)[0]

    made = [
        (equation.primitive.name, out.aval)
        for equation in equations(jax.make_jaxpr(jax.grad(loss))(state.params).jaxpr)
        for out in equation.outvars
    ]
    assert ("dot_general", "bfloat16") in {(name, array.dtype.name) for name, array in made}
    scores = {"exp", "reduce_max", "reduce_sum", "sub", "div"}  # [B, heads, N, M]
    for name, array in made:
        if name in ("rsqrt", "sqrt") or (name in scores and array.ndim == 4):
            assert array.dtype == jnp.float32, name
    assert ("exp", 4) in {(name, array.ndim) for name, array in made}
    assert jax.eval_shape(loss, state.params).dtype == jnp.float32


def assert_equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_f20_a_step_that_is_not_finite_moves_nothing_and_the_next_one_does(setting):
    networks, optimizer, state, batch = setting
    step = jax.jit(partial(update, networks=networks, optimizer=optimizer))
    clips = np.asarray(networks.normalise(batch["clips"]))
    broken = clips.copy()
    broken[3, 0, 0, 0, 0] = np.inf
    skipped, metrics = step(state, batch | {"clips": broken})
    assert metrics["skipped"] == 1
    assert metrics["updates"] == 0
    assert_equal_trees(skipped, dataclasses.replace(state, step=jnp.int32(1)))
    after, metrics = step(skipped, batch | {"clips": clips})
    assert metrics["skipped"] == 0
    assert metrics["updates"] == 1
    wanted, _ = step(state, batch | {"clips": clips})
    assert_equal_trees(after, dataclasses.replace(wanted, step=jnp.int32(2)))


def test_a_clip_that_is_not_valid_counts_for_nothing(setting):
    networks, _, state, batch = setting
    batch["clips"] = np.asarray(networks.normalise(batch["clips"]))
    of_step = jax.jit(partial(gradients, networks=networks))
    without = jax.tree.map(lambda x: x[:6], batch)
    invalid = batch | {"valid": np.arange(8) < 6}
    (got, _, grads), (wanted, _, wanted_grads) = of_step(state, invalid), of_step(state, without)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    norms = optax.global_norm(grads), optax.global_norm(wanted_grads)
    np.testing.assert_allclose(*norms, rtol=1e-5)


@pytest.fixture(scope="module")
def joint(tiny_images):
    """A batch of videos and images whose step is made in parts, and what makes a step."""
    config = tiny_images(images__share=0.3, images__context_weight=0.8)
    batch = random_batch(config)
    # Unequal numbers of clips that count in the two parts of the batch.
    batch["valid"][[0, 2, 4, 7]] = False
    batch["images"]["valid"][[1, 3, 5]] = False
    return *fresh(config), batch


@pytest.fixture(scope="module")
def apart(joint):
    """Loss, its parts and gradients of videos, and of images."""
    networks, _, state, batch = joint

    def mean(objective, part):
        clips, encoder = networks.normalise(part["clips"]), networks.encoder
        both = encoder, networks.predictor, state.target.ema

        def loss(params):
            total, parts = objective.loss(params, *both, clips, part, state.step)
            return total / part["valid"].sum(), parts

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(state.params)

    return mean(networks.objective, batch), mean(networks.images, batch["images"])


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
def test_images_have_their_share_of_the_loss_and_its_gradient(joint, apart, microbatches):
    networks, optimizer, state, batch = joint
    ((of_videos, _), video_grads), ((of_images, parts), image_grads) = apart
    assert networks.images.context_weight == 0.8
    grads = jax.tree.map(lambda v, i: 0.7 * v + 0.3 * i, video_grads, image_grads)
    settings = {"networks": networks, "optimizer": optimizer, "microbatches": microbatches}
    after, metrics = jax.jit(partial(train_step, **settings))(state, batch)
    np.testing.assert_allclose(metrics["loss"], 0.7 * of_videos + 0.3 * of_images, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(grads), rtol=1e-4)
    seen = batch["images"]["valid"].sum()
    for name, key in (("loss/images", "loss_by_mask"), ("loss_context/images", "loss_context")):
        np.testing.assert_allclose(metrics[name], parts[key].mean() / seen, rtol=1e-5)
    # Adam's first moment is a tenth of the gradient: also of what only images, or only videos, use.
    first = after.opt_state[1].mu
    for mine, wanted in zip(jax.tree.leaves(first), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(mine, 0.1 * wanted, atol=1e-6)
    assert np.any(first["encoder"]["patch_embed_image"]["kernel"])


@pytest.mark.slow
def test_what_only_images_use_decays_with_images_only(joint):
    _, _, state, _ = joint
    for images in (True, False):
        chain = adamw(state.params, lambda k: 1.0, lambda k: 0.5, images=images)
        nothing = jax.tree.map(jnp.zeros_like, state.params)
        moved = chain.update(nothing, chain.init(state.params), state.params)[0]["encoder"]
        for part in (moved["image_embed"], moved["patch_embed_image"]["kernel"]):
            assert np.any(part) == images
        assert np.any(moved["patch_embed"]["kernel"])
        assert np.any(moved["video_embed"])


@pytest.mark.parametrize("objective", [VJepa2(), VJepa21(levels=1, by_distance=True)])
def test_tokens_of_padded_frames_are_left_out_of_the_loss(tiny, setting, objective):
    new = isinstance(objective, VJepa21)
    networks, _, state = fresh(tiny(model__family="v2.1" if new else "v2"))
    params = state.params
    common = params, networks.encoder, networks.predictor, params["encoder"]
    batch = setting[-1]
    # Token ids below 16 are of the first two frames, the others of the last two.
    ids = np.sort(np.concatenate(batch["context_ids"] + batch["target_ids"][:1], axis=1))
    batch |= {"context_ids": (ids[:, ::4], ids[:, 1::4]), "target_ids": (ids[:, 2::4],) * 2}
    clips = networks.normalise(batch["clips"])

    @jax.jit
    def loss(frames):
        return objective.loss(*common, clips, batch | frames, 0)[0]

    np.testing.assert_allclose(loss({"frames": np.full(8, 3)}), loss({}), rtol=1e-6)
    masked = loss({"frames": np.full(8, 2)})
    embed = jax.jit(objective._embed if new else objective.embed, static_argnums=(0, 1))
    targets, hidden, *visible = embed(*common[1:3], params, params["encoder"], clips, batch)
    hidden = hidden if new else [prediction for prediction, _ in hidden]
    by_hand = 0.0
    for i, m in itertools.product(range(8), range(2)):
        there, here = (batch[name][m][i] for name in ("target_ids", "context_ids"))
        errors = np.abs(hidden[m][i] - targets[i][there])
        by_hand += errors[there < 16].mean() / 2
        if new:
            errors = np.abs(visible[0][m][i] - targets[i][here])
            at = partial(np.unravel_index, shape=(2, 4, 4))
            seen, asked = (np.stack(at(x), -1) for x in (here, there[there < 16]))
            apart = np.linalg.norm(seen[:, None] - asked[None], axis=-1).min(axis=1)
            by_hand += 0.5 * (errors / np.sqrt(apart)[:, None])[here < 16].mean() / 2
    np.testing.assert_allclose(masked, by_hand, rtol=1e-5)


@pytest.mark.slow
def test_the_seeds_squared_loss_is_one_value_away(setting):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 5, 7, 3))
    np.testing.assert_allclose(clip_losses(a, b, 1.0), np.abs(a - b).mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(clip_losses(a, b, 2.0), ((a - b) ** 2).mean((1, 2)) / 2, rtol=1e-6)
    networks, _, state, batch = setting
    clips = networks.normalise(batch["clips"])
    encoder, predictor, target = networks.encoder, networks.predictor, state.target.ema
    grad = jax.jit(jax.grad(VJepa2(2.0).loss, has_aux=True), static_argnums=(1, 2))
    grads, _ = grad(state.params, encoder, predictor, target, clips, batch, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_clipping_bounds_the_gradient():
    params = {"kernel": jnp.zeros((3, 4))}
    grads = {"kernel": jnp.arange(12.0).reshape(3, 4)}
    norm = float(jnp.linalg.norm(grads["kernel"]))
    settings = {"learning_rate": lambda k: 1.0, "weight_decay": lambda k: 0.0, "eps": 1.0}

    def updates(scale, clip_norm):
        chain = adamw(params, **settings, clip_norm=clip_norm)
        scaled = jax.tree.map(lambda g: g * scale, grads)
        return chain.update(scaled, chain.init(params), params)[0]["kernel"]

    np.testing.assert_allclose(updates(1.0, 2.0), updates(2.0 / norm, 0.0), rtol=1e-5)
    np.testing.assert_array_equal(updates(1.0, 2 * norm), updates(1.0, 0.0))


@pytest.mark.slow
def test_mask_tokens_without_a_gradient_are_left_alone_as_pytorch_leaves_them():
    import torch

    rng = np.random.default_rng(0)
    start = rng.standard_normal((4, 6)).astype(np.float32)
    grads = [rng.standard_normal(6).astype(np.float32) for _ in range(3)]

    tokens = [torch.nn.Parameter(torch.from_numpy(row.copy())) for row in start]
    theirs = torch.optim.AdamW(tokens, lr=0.1, weight_decay=0.5)
    params = {"mask_tokens": jnp.asarray(start)}
    ours = adamw(params, lambda k: 0.1, lambda k: 0.5)
    state = ours.init(params)
    for grad in grads:
        tokens[0].grad = torch.from_numpy(grad)
        theirs.step()
        mine = jnp.zeros((4, 6)).at[0].set(grad)
        updates, state = jax.jit(ours.update)({"mask_tokens": mine}, state, params)
        params = optax.apply_updates(params, updates)
    wanted = np.stack([token.detach().numpy() for token in tokens])
    np.testing.assert_array_equal(wanted[1:], start[1:])
    np.testing.assert_array_equal(params["mask_tokens"][1:], start[1:])
    np.testing.assert_allclose(params["mask_tokens"][0], wanted[0], atol=1e-5, rtol=0)
