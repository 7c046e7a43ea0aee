"""Attention maps of a frozen encoder: where its last layer looks, over the frames of a clip.

The weights are those of the layers themselves: blocks run one by one with their own parameters, and
the softmax is computed from the queries and keys that each block has made. The model is not changed
for it.

Every map has one number for each token, averaged over all heads, relative to uniform attention: 1 =
as much as if all tokens got the same. Nothing is inverted and no head is chosen.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from echojepa_jax.data.clips.pipeline import evaluation_batches
from echojepa_jax.data.sample import Sample
from echojepa_jax.features.encode import FrozenEncoder
from echojepa_jax.models.blocks import Block, BlockStack
from echojepa_jax.models.pixels import normalise
from echojepa_jax.models.vit import Encoder
from echojepa_jax.ops.rotary import Grid, rotate
from echojepa_jax.utils.errors import UserError

RECEIVED, GIVEN, ROLLOUT = "received", "given in time step", "rollout"


class AttentionMap(NamedTuple):
    """Attention over one clip, relative to uniform attention.

    name: what is shown. frames: uint8 [T, H, W, 3], the clip as the encoder sees it. values:
    float32 [T', Hp, Wp], one for each token.
    """

    name: str
    frames: np.ndarray
    values: np.ndarray


def attention_maps(
    encoder: FrozenEncoder, frames: np.ndarray, rollout: bool = False
) -> list[AttentionMap]:
    """The maps of a clip, by the encoder's last layer; see `maps_of`.

    Args:
      frames: uint8 [T, H, W, 3], of the encoder's clip size.
      rollout: also follow attention through all layers. This takes two matrices of N x N numbers.
    """
    network = encoder.network.clone(attention="xla")  # other kernels keep no weights
    pixels = normalise(jnp.asarray(frames[None]), encoder.mean, encoder.std)
    _, weights, flow = encoder_attention(network, encoder.params, pixels, rollout)
    grid = network.grid(*frames.shape[:3])
    found = maps_of(weights[0], None if flow is None else flow[0], grid)
    return [AttentionMap(name, frames, np.asarray(values)) for name, values in found.items()]


def maps_of(weights: jax.Array, flow: jax.Array | None, grid: Grid) -> dict[str, jax.Array]:
    """Attention weights [N, N] (query, key; rows add up to 1) as maps [T', Hp, Wp].

    "received": the mean over all queries of what a key gets.
    "given in time step": how much of its attention a query gives to the tokens of its own time
    step, as in the paper's figure. (What it gives to all keys is 1 for every query.)
    "rollout": "received" of `flow`, if it is given.
    """
    count, times = len(weights), grid[0]
    by_time = rearrange(weights, "(t p) (u q) -> t p u q", t=times, u=times)
    found = {
        RECEIVED: count * jnp.mean(weights, axis=0),
        GIVEN: times * jnp.einsum("tptq->tp", by_time),
    }
    if flow is not None:
        found[ROLLOUT] = count * jnp.mean(flow, axis=0)
    return {name: values.reshape(grid) for name, values in found.items()}


@partial(jax.jit, static_argnames=("encoder", "rollout"))
def encoder_attention(
    encoder: Encoder, params: Any, clips: jax.Array, rollout: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The encoder's tokens and its attention weights, averaged over heads.

    Args:
      clips: float [B, T, H, W, 3], normalised.

    Returns:
      tokens [B, N, D], as the encoder computes them; weights of the last layer float32 [B, N, N]
      (query, key); and with `rollout` how much each token of the last layer contains of each of the
      first, [B, N, N], else None. This is the product over layers of (weights + 1) / 2, where 1
      stands for the residual connection (Abnar and Zuidema 2020).
    """
    found: list[tuple[jax.Array, jax.Array | None]] = []

    def through(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        stack = context.module
        if not isinstance(stack, BlockStack) or context.method_name != "__call__":
            return method(*args, **kwargs)
        x, angles, *_ = args
        tokens, weights, flow = _through_stack(stack, x, angles, rollout)
        found.append((weights, flow))
        return tokens

    with nn.intercept_methods(through):
        tokens: Any = encoder.apply({"params": params}, clips)
    ((weights, flow),) = found
    return tokens, weights, flow


def _through_stack(
    stack: BlockStack, x: jax.Array, angles: tuple[jax.Array, jax.Array] | None, rollout: bool
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    params = stack.variables["params"]["blocks"]
    eye = jnp.eye(x.shape[1])

    def layer(carry: Any, given: tuple[Any, jax.Array]) -> tuple[Any, None]:
        (x, flow, _), (mine, number) = carry, given
        x, weights = layer_attention(stack, mine, number, x, angles)
        mean = jnp.mean(weights, axis=1)
        flow = (mean + eye) / 2 @ flow if rollout else flow
        return (x, flow, mean), None

    none = jnp.zeros((len(x), *eye.shape))
    start = x, none + eye if rollout else None, none
    (x, flow, mean), _ = jax.lax.scan(layer, start, (params, jnp.arange(stack.depth)))
    return x, mean, flow


def layer_attention(
    stack: BlockStack,
    params: Any,
    number: jax.Array,
    x: jax.Array,
    angles: tuple[jax.Array, jax.Array] | None,
) -> tuple[jax.Array, jax.Array]:
    """Runs one block of a stack, and computes its attention weights.

    Args:
      params: of the block. number: of the layer, 0-based. x: [B, N, D]. angles: see `BlockStack`.

    Returns:
      [B, N, D], and float32 [B, heads, N, N] (query, key).
    """
    block = Block(stack.heads, stack.mlp_hidden, stack.dtype, videomae=stack.videomae, parent=None)
    cos, sin = angles or (None, None)
    (x, _), kept = block.apply(
        {"params": params},
        *(x, number, cos, sin),
        capture_intermediates=lambda module, _: module.name == "qkv",
        mutable="intermediates",
    )
    (qkv,) = kept["intermediates"]["attention"]["qkv"]["__call__"]
    query, key, _ = rearrange(qkv, "b n (three h d) -> three b n h d", three=3, h=stack.heads)
    if cos is not None and sin is not None:
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)
    return x, jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1)


def clips_of(encoder: FrozenEncoder, sample: Sample) -> np.ndarray:
    """The clips of a video as the encoder sees them: uint8 [clips, T, size, size, 3].

    Raises:
      UserError: it cannot be decoded.
    """
    batches = evaluation_batches(
        [sample], clip=encoder.clip, global_batch=encoder.clips, clips_per_sample=encoder.clips
    )
    (batch,) = batches
    if errors := [error for error in batch["error"] if error]:
        raise UserError(f"{sample.name} cannot be decoded: {errors[0]}")
    clips = batch["clips"]
    return np.broadcast_to(clips, (*clips.shape[:-1], 3))
