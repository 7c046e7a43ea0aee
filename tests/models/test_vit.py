"""The encoder and predictor: sizes, scan and remat, masking, initialisation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.models.blocks import REMAT_POLICIES, LayerNorm
from echojepa_jax.models.predictor import Predictor
from echojepa_jax.models.vit import SIZES, Encoder, tubelets
from echojepa_jax.train.optim import DECAY_RULES
from echojepa_jax.utils.trees import by_rules, count_parameters

CLIPS = np.random.default_rng(0).standard_normal((2, 4, 16, 24, 3)).astype(np.float32)


def encoder(**changes):
    settings = {"width": 48, "depth": 3, "heads": 2, "mlp_hidden": 96, "patch": 8}
    return Encoder(**(settings | changes))


@partial(jax.jit, static_argnums=0)
def init(model, *inputs):
    return model.init(*inputs)


@partial(jax.jit, static_argnums=0)
def apply(model, *inputs):
    return model.apply(*inputs)


@pytest.fixture(scope="module")
def params():
    return init(encoder(), jax.random.key(0), CLIPS)["params"]


def test_tubelets_are_time_major_and_run_over_time_row_column_channel():
    clip = np.arange(4 * 4 * 6 * 3).reshape(1, 4, 4, 6, 3)
    tokens = np.asarray(tubelets(jnp.asarray(clip), 2, 2))
    assert tokens.shape == (1, 2 * 2 * 3, 2 * 2 * 2 * 3)
    t, h, w = 1, 0, 2
    wanted = clip[0, 2:4, 0:2, 4:6].reshape(-1)
    np.testing.assert_array_equal(tokens[0, (t * 2 + h) * 3 + w], wanted)


@partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def value_and_grad(params, model):
    """Of a loss."""
    return jnp.sum(model.apply({"params": params}, CLIPS) ** 3)


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("remat", ["none", *REMAT_POLICIES])
def test_scan_and_remat_change_nothing(params, scan_layers, remat):
    model = encoder(scan_layers=scan_layers, remat=remat)
    value, grads = value_and_grad(params, model)
    wanted, wanted_grads = value_and_grad(params, encoder())
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    close = partial(np.testing.assert_allclose, atol=1e-3, rtol=1e-4)
    jax.tree.map(close, grads, wanted_grads)
    fresh = init(model, jax.random.key(0), CLIPS)["params"]
    jax.tree.map(np.testing.assert_array_equal, fresh, params)


def test_only_the_asked_tokens_are_seen(params):
    ids = np.array([[0, 5, 11], [3, 4, 9]])
    out = apply(encoder(), {"params": params}, CLIPS, ids)
    assert out.shape == (2, 3, 48)
    # Pixels of token 1 of the first clip, which was not asked for, do not matter; token 0's do.
    hidden, visible = CLIPS.copy(), CLIPS.copy()
    hidden[0, 0:2, 0:8, 8:16] += 5
    visible[0, 0:2, 0:8, 0:8] += 5
    np.testing.assert_array_equal(apply(encoder(), {"params": params}, hidden, ids), out)
    assert np.abs(apply(encoder(), {"params": params}, visible, ids) - out)[0].max() > 1e-2
    every = apply(encoder(), {"params": params}, CLIPS, np.arange(12)[None].repeat(2, 0))
    np.testing.assert_allclose(every, apply(encoder(), {"params": params}, CLIPS), atol=1e-5)


def test_predictor_does_not_care_for_the_order_of_tokens():
    model = Predictor(out_width=48, width=24, depth=2, heads=2, mlp_hidden=48)
    rng = np.random.default_rng(1)
    context = rng.standard_normal((1, 4, 48)).astype(np.float32)
    context_ids, target_ids = np.array([[1, 4, 6, 9]]), np.array([[0, 5, 11]])
    grid = (2, 2, 3)
    see = jax.jit(model.apply, static_argnums=4)
    inputs = jax.random.key(0), context, [context_ids], [target_ids], grid
    variables = jax.jit(model.init, static_argnums=4)(*inputs)
    tokens = jax.random.normal(jax.random.key(1), (10, 24))
    variables["params"]["mask_tokens"] = tokens
    (out,) = see(variables, context, [context_ids], [target_ids], grid)
    order, shuffle = np.array([2, 0, 3, 1]), np.array([2, 0, 1])
    ids = [context_ids[:, order]], [target_ids[:, shuffle]]
    (other,) = see(variables, context[:, order], *ids, grid)
    np.testing.assert_allclose(other, out[:, shuffle], atol=1e-5)


def test_bfloat16_computes_low_and_keeps_parameters_high():
    model = encoder(dtype=jnp.bfloat16)
    variables = init(model, jax.random.key(0), CLIPS)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out = apply(model, variables, CLIPS)
    assert out.dtype == jnp.float32
    wanted = apply(encoder(), variables, CLIPS)
    error = np.abs(out - wanted).max()
    assert 1e-4 < error < 0.1


def test_initialisation_shrinks_with_depth():
    model = encoder(width=192, mlp_hidden=768)
    params = init(model, jax.random.key(3), CLIPS)["params"]
    blocks = params["stack"]["blocks"]
    for kernel in (blocks["attention"]["out"]["kernel"], blocks["mlp"]["fc2"]["kernel"]):
        for layer, weight in enumerate(np.asarray(kernel)):
            wanted = 0.02 / np.sqrt(2 * (layer + 1))
            np.testing.assert_allclose(weight.std(), wanted, rtol=0.03)
    for kernel in (blocks["attention"]["qkv"]["kernel"], params["patch_embed"]["kernel"]):
        np.testing.assert_allclose(np.asarray(kernel).std(), 0.02, rtol=0.03)
    assert not np.asarray(blocks["mlp"]["fc1"]["bias"]).any()
    np.testing.assert_array_equal(blocks["norm1"]["scale"], 1)


@pytest.mark.parametrize(
    ("size", "millions"),
    [
        ("vit_tiny", 5.5),
        ("vit_small", 22),
        ("vit_base", 86),
        ("vit_large", 304),
        ("vit_huge", 632),
        ("vit_giant", 1010),
        ("vit_gigantic", 1840),
    ],
)
def test_parameter_counts_of_the_size_table(size, millions):
    s = SIZES[size]
    model = Encoder(width=s.width, depth=s.depth, heads=s.heads, mlp_hidden=s.mlp_hidden)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 16, 16, 3)))
    count = count_parameters(shapes) / 1e6
    # Two significant digits of the table.
    assert abs(count - millions) <= max(0.5, 0.005 * millions) * (10 if millions >= 1000 else 1)


def test_every_parameter_has_a_decay_policy_and_an_unknown_one_is_an_error(params):
    decays = by_rules({"encoder": params}, DECAY_RULES)["encoder"]
    assert decays["patch_embed"] == {"kernel": True, "bias": False}
    assert decays["stack"]["blocks"]["norm1"] == {"scale": False, "bias": False}
    with pytest.raises(ValueError, match="encoder/new/gamma"):
        by_rules({"encoder": {"new": {"gamma": 0}}}, DECAY_RULES)


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [True, False])
def test_drop_path_leaves_out_branches_of_some_clips_and_keeps_the_mean(scan_layers):
    settings = {"width": 12, "depth": 3, "heads": 1, "mlp_hidden": 24, "patch": 8}
    plain = Encoder(**settings, scan_layers=scan_layers)
    dropping = Encoder(**settings, scan_layers=scan_layers, drop_path=0.5)
    clips = jnp.tile(jax.random.normal(jax.random.key(0), (1, 2, 16, 16, 3)), (512, 1, 1, 1, 1))
    params = jax.jit(plain.init)(jax.random.key(1), clips[:1])
    wanted = jax.jit(plain.apply)(params, clips[:1])
    apply = jax.jit(lambda key: dropping.apply(params, clips, rngs={"drop_path": key}))
    out = apply(jax.random.key(2))
    assert len(np.unique(np.asarray(out[:, 0, 0]))) > 4  # clips that skipped different branches
    np.testing.assert_array_equal(out, apply(jax.random.key(2)))
    assert not np.array_equal(out, apply(jax.random.key(3)))
    # Before the final norm the mean is kept exactly; after it, nearly.
    np.testing.assert_allclose(out.mean(axis=0), wanted[0], atol=0.2)
    without = jax.jit(Encoder(**settings, scan_layers=scan_layers, drop_path=0.0).apply)
    np.testing.assert_array_equal(without(params, clips[:1]), wanted)


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_norms_of_half_precision_are_exact_to_its_rounding(offset):
    """Mean and variance come from one pass, also where the mean is far from zero."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(offset, 1.0, (2, 5, 64)), jnp.bfloat16)
    norm = LayerNorm(jnp.float32)
    got = norm.apply(norm.init(jax.random.key(0), x), x)
    exact = np.asarray(x, np.float64)
    wanted = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(got, wanted, atol=1e-3)
