"""Attention maps: the weights are those that the layers use, in every family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import linen as nn

from echojepa_jax.features.attention import (
    GIVEN,
    RECEIVED,
    ROLLOUT,
    attention_maps,
    encoder_attention,
    layer_attention,
    maps_of,
)
from echojepa_jax.features.clip_input import clip_spec
from echojepa_jax.features.encode import FrozenEncoder
from echojepa_jax.models.blocks import Block, BlockStack
from echojepa_jax.models.family import FAMILIES
from tests.makers.weights import TINY, random_weights

pytestmark = pytest.mark.slow

SHAPE = dataclasses.replace(TINY, depth=4)  # V-JEPA 2.1 has four levels
CLIPS = np.random.default_rng(0).standard_normal((2, 4, 16, 24, 3)).astype(np.float32)


def tamed(tree):
    """Random weights of unit size would make every softmax a choice of one token."""
    return jax.tree.map(lambda leaf: 0.5 * leaf, tree)


@pytest.fixture(params=FAMILIES)
def weights(request):
    shape = dataclasses.replace(SHAPE, family=request.param)
    return random_weights(shape, predictor=None, parts=("encoder",))


def test_the_weights_times_the_values_are_what_every_layer_computes(weights):
    encoder, params = weights.make_encoder(), tamed(weights.params["encoder"])
    seen = []

    def through(method, args, kwargs, context):
        if isinstance(context.module, BlockStack) and context.method_name == "__call__":
            seen.append((context.module.clone(parent=None), *args[:2]))
        return method(*args, **kwargs)

    with nn.intercept_methods(through):
        encoder.apply({"params": params}, CLIPS)
    ((stack, x, angles),) = seen
    for number in range(SHAPE.depth):
        layer = jax.tree.map(lambda leaf, n=number: leaf[n], params["stack"]["blocks"])
        (_, kept) = Block(
            stack.heads, stack.mlp_hidden, stack.dtype, videomae=stack.videomae
        ).apply(
            {"params": layer},
            *(x, jnp.asarray(number), *(angles or (None, None))),
            capture_intermediates=True,
            mutable="intermediates",
        )
        real = kept["intermediates"]["attention"]
        (projected,), (qkv,) = real["__call__"], real["qkv"]["__call__"]
        x, found = layer_attention(stack, layer, jnp.asarray(number), x, angles)
        value = rearrange(qkv, "b n (three h d) -> three b n h d", three=3, h=2)[2]
        mixed = rearrange(jnp.einsum("bhnm,bmhd->bnhd", found, value), "b n h d -> b n (h d)")
        out = layer["attention"]["out"]
        np.testing.assert_allclose(mixed @ out["kernel"] + out["bias"], projected, atol=1e-5)
        # Uniform attention is far from it, so that the comparison says something.
        flat = jnp.broadcast_to(value.mean(1, keepdims=True), value.shape)
        flat = rearrange(flat, "b n h d -> b n (h d)")
        assert np.abs(flat @ out["kernel"] + out["bias"] - projected).max() > 1e-2


def test_the_encoder_computes_what_it_always_does(weights):
    encoder, params = weights.make_encoder(), tamed(weights.params["encoder"])
    tokens, last, flow = encoder_attention(encoder, params, CLIPS, rollout=True)
    np.testing.assert_allclose(tokens, encoder.apply({"params": params}, CLIPS), atol=1e-5)
    np.testing.assert_allclose(last.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(flow.sum(-1), 1, atol=1e-5)
    assert last.shape == flow.shape == (2, 12, 12)
    assert encoder_attention(encoder, params, CLIPS)[2] is None


def test_rollout_is_the_product_of_the_layers_with_the_residual():
    weights = random_weights(dataclasses.replace(SHAPE, depth=2), None, ("encoder",))
    encoder, params = weights.make_encoder(), tamed(weights.params["encoder"])
    _, last, flow = encoder_attention(encoder, params, CLIPS, rollout=True)
    shallow = jax.tree.map(lambda leaf: leaf[:1], params["stack"])
    shallow = params | {"stack": shallow}
    _, first, _ = encoder_attention(encoder.clone(depth=1), shallow, CLIPS, rollout=False)
    eye = np.eye(12)
    np.testing.assert_allclose(flow, (last + eye) / 2 @ ((first + eye) / 2), atol=1e-5)


def test_maps_by_hand():
    """Two time steps of one row and two columns; a query's attention adds up to 1."""
    weights = np.array(
        [[0.7, 0.1, 0.1, 0.1], [0.4, 0.4, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.5, 0.5]]
    )
    found = maps_of(jnp.asarray(weights), jnp.eye(4), (2, 1, 2))
    np.testing.assert_allclose(found[RECEIVED], [[[1.35, 0.75]], [[1.05, 0.85]]])
    np.testing.assert_allclose(found[GIVEN], [[[1.6, 1.6]], [[1.0, 2.0]]])
    np.testing.assert_allclose(found[ROLLOUT], np.ones((2, 1, 2)))
    assert ROLLOUT not in maps_of(jnp.asarray(weights), None, (2, 1, 2))


def test_maps_of_a_clip_have_one_number_for_each_token():
    weights = random_weights(predictor=None, parts=("encoder",))
    encoder = FrozenEncoder.of(weights, "float32", clip_spec(weights))
    frames = np.random.default_rng(1).integers(0, 255, (4, 32, 32, 3), np.uint8)
    maps = attention_maps(encoder, frames, rollout=True)
    assert [one.name for one in maps] == [RECEIVED, GIVEN, ROLLOUT]
    for one in maps:
        assert one.values.shape == (2, 4, 4)
        assert (one.values >= 0).all()
    np.testing.assert_allclose(maps[0].values.mean(), 1, rtol=1e-5)
