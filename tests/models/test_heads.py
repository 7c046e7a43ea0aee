"""The probe heads agree with the original's, in outputs, losses and every gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from echojepa_jax.models.heads import Head, class_loss, regression_loss

PROBES = {
    "attentive_classifier": {"kind": "attentive"},
    "attentive_classifier_multiview": {"kind": "attentive", "streams": True},
    "attentive_regressor_multiview": {"kind": "attentive", "streams": True},
    "linear_classifier": {"kind": "linear"},
    "linear_regressor": {"kind": "linear"},
}
# (their name, our path); matrices are transposed.
NAMES = (
    (r"pooler\.query_tokens", r"pooler/query"),
    (r"pooler\.cross_attention_block\.norm(\d)\.weight", r"pooler/norm\1/scale"),
    (r"pooler\.cross_attention_block\.norm(\d)\.bias", r"pooler/norm\1/bias"),
    (r"pooler\.cross_attention_block\.xattn\.(q|kv)\.(\w+)", r"pooler/\1/\2"),
    (r"pooler\.cross_attention_block\.mlp\.(fc\d)\.(\w+)", r"pooler/mlp/\1/\2"),
    (r"pooler\.blocks\.(\d)\.norm(\d)\.weight", r"pooler/block\1/norm\2/scale"),
    (r"pooler\.blocks\.(\d)\.norm(\d)\.bias", r"pooler/block\1/norm\2/bias"),
    (r"pooler\.blocks\.(\d)\.attn\.qkv\.(\w+)", r"pooler/block\1/qkv/\2"),
    (r"pooler\.blocks\.(\d)\.attn\.proj\.(\w+)", r"pooler/block\1/out/\2"),
    (r"pooler\.blocks\.(\d)\.mlp\.(fc\d)\.(\w+)", r"pooler/block\1/mlp/\2/\3"),
    (r"norm\.weight", r"norm/scale"),
    (r"norm\.bias", r"norm/bias"),
    (r"(linear|regressor)\.(\w+)", r"out/\2"),
    (r"(view|clip)_embed\.weight", r"\1_embed"),
)


def to_ours(named):
    """A tree of ours from the original's names; nothing may be left over."""
    flat = {}
    for name, value in named.items():
        (ours,) = (re.sub(a, b, name) for a, b in NAMES if re.fullmatch(a, name))
        if ours.endswith("weight"):
            ours, value = ours.removesuffix("weight") + "kernel", value.T
        flat[tuple(ours.split("/"))] = value.reshape(value.shape[-2:])
    return unflatten_dict(flat)


@pytest.mark.parametrize("name", PROBES)
def test_parity_of_probes_with_the_original(probe_fixture, name):
    fixture, sizes = probe_fixture, probe_fixture.config
    views, clips = sizes["num_views"], sizes["clips_per_view"]
    params = to_ours(fixture.tree(f"{name}/params"))
    regression = "regressor" in name
    head = Head(
        outputs=1 if regression else sizes["num_classes"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        views=views,
        clips=clips,
        **PROBES[name],
    )
    tokens = rearrange(fixture["tokens"], "b (s n) d -> b s n d", n=sizes["tokens_per_clip"])
    present = np.ones((len(tokens), views * clips), bool)
    if name != "attentive_classifier":  # that one was recorded with every view there
        present = ~np.repeat(fixture["missing_views"], clips, axis=1)
        tokens_there = np.repeat(present, sizes["tokens_per_clip"], axis=1)
        np.testing.assert_array_equal(tokens_there, ~fixture["token_is_missing"])
    targets = fixture["regression_targets"][:, 0] if regression else fixture["class_labels"]
    loss_of = regression_loss if regression else class_loss

    @jax.jit
    def loss(params):
        out = head.apply({"params": params}, tokens, present)
        return jnp.mean(loss_of(out, targets)), out

    (value, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
    np.testing.assert_allclose(out, fixture[f"{name}/out"], atol=1e-5, rtol=0)
    assert abs(value - fixture[f"{name}/loss"]) < 1e-6
    wanted = flatten_dict(to_ours(fixture.tree(f"{name}/grad")))
    mine = flatten_dict(grads)
    assert set(mine) == set(wanted)
    for path, grad in wanted.items():
        np.testing.assert_allclose(mine[path], grad, atol=1e-5, rtol=1e-4, err_msg=str(path))


def make(kind="attentive", **settings):
    head = Head(kind=kind, outputs=2, depth=2, heads=2, views=3, clips=2, **settings)
    tokens = jax.random.normal(jax.random.key(0), (4, 6, 5, 8))
    params = jax.jit(head.init)(jax.random.key(1), tokens, jnp.ones((4, 6), bool))["params"]
    # As initialised, biases are 0 and hide what they multiply.
    params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), params)
    return jax.jit(head.apply), params, tokens


@pytest.mark.parametrize("kind", ["linear", "mlp", "attentive"])
@pytest.mark.parametrize("fusion", ["early", "late"])
def test_what_a_missing_view_holds_has_no_influence(kind, fusion):
    head, params, tokens = make(kind, fusion=fusion, streams=True)
    present = jnp.asarray([[1, 1, 1, 1, 0, 0]] * 4, bool)
    noise = tokens.at[:, 4:].set(1e3)
    out, other = (head({"params": params}, x, present) for x in (tokens, noise))
    np.testing.assert_array_equal(out, other)
    assert np.isfinite(out).all()
    all_there = head({"params": params}, tokens, jnp.ones((4, 6), bool))
    assert not np.allclose(out, all_there)


def test_late_fusion_is_the_mean_of_what_each_slot_says():
    head, params, tokens = make(fusion="late")
    present = jnp.asarray([[1, 0, 1, 1, 0, 0]] * 4, bool)
    slots = [jnp.zeros((4, 6), bool).at[:, s].set(True) for s in (0, 2, 3)]
    alone = [head({"params": params}, tokens, slot) for slot in slots]
    out = head({"params": params}, tokens, present)
    np.testing.assert_allclose(out, np.mean(alone, axis=0), atol=1e-6)


def test_stream_embeddings_tell_views_and_clips_apart():
    swapped = jnp.asarray([2, 3, 0, 1, 4, 5])  # the first two views
    for streams in (False, True):
        head, params, tokens = make(streams=streams)
        present = jnp.ones((4, 6), bool)
        out = head({"params": params}, tokens, present)
        other = head({"params": params}, tokens[:, swapped], present)
        assert np.allclose(out, other, atol=1e-5) != streams


@pytest.mark.slow
def test_the_focal_loss_and_its_gradient_are_the_formula():
    import torch

    rng = np.random.default_rng(0)
    out, target = 3 * rng.standard_normal((7, 4)).astype(np.float32), rng.integers(4, size=7)
    theirs = torch.from_numpy(out).double().requires_grad_()
    entropy = torch.nn.functional.cross_entropy(theirs, torch.from_numpy(target), reduction="none")
    focal = (1 - torch.exp(-entropy)) ** 2 * entropy
    focal.sum().backward()
    found = class_loss(jnp.asarray(out), jnp.asarray(target), 2.0)
    np.testing.assert_allclose(found, focal.detach(), rtol=1e-5, atol=1e-7)
    grad = jax.grad(lambda x: class_loss(x, jnp.asarray(target), 2.0).sum())(jnp.asarray(out))
    np.testing.assert_allclose(grad, theirs.grad, rtol=1e-4, atol=1e-6)
    # A class that is certain has no loss, and the gradient is a number.
    sure = jnp.array([[200.0, 0.0]])
    for gamma in (0.5, 2.0):
        slope = jax.grad(lambda x, g=gamma: class_loss(x, jnp.array([0]), g).sum())(sure)
        assert np.isfinite(slope).all()
