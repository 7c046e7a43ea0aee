"""Probe heads: from the tokens of an encoder to a number or to scores of classes.

They compute the same as V-JEPA 2's and EchoJEPA's probes. An example has S =
views x clips slots, ordered by view. A slot contains the tokens of one clip, or is missing.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from echojepa_jax.models.blocks import WEIGHT_INIT, Mlp, depth_scaled
from echojepa_jax.ops.attention import attention
from echojepa_jax.ops.gelu import gelu

KINDS = ("linear", "mlp", "attentive")
FUSIONS = ("early", "late")
MLP_RATIO = 4
QUERIES_AT_A_TIME = 256  # a grid of heads has thousands of tokens, too many to process at once


def _norm(name: str) -> nn.LayerNorm:
    # PyTorch's default epsilon, as in the original's probes; the encoder has 1e-6.
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


def _dense(width: int, name: str) -> nn.Dense:
    return nn.Dense(width, kernel_init=WEIGHT_INIT, name=name)


class SelfAttentionBlock(nn.Module):
    """Pre-norm block over tokens, without positions; missing tokens are not attended to."""

    heads: int
    layer: int

    @nn.compact
    def __call__(self, x: jax.Array, present: jax.Array) -> jax.Array:
        """x: [B, N, D]; present: bool [B, N]. Returns [B, N, D]."""
        width, layer = x.shape[-1], jnp.asarray(self.layer)
        qkv = _dense(3 * width, "qkv")(_norm("norm1")(x))
        query, key, value = rearrange(
            qkv, "b n (three h d) -> three b n h d", three=3, h=self.heads
        )
        out = attention(query, key, value, present, chunk=QUERIES_AT_A_TIME)
        out = rearrange(out, "b n h d -> b n (h d)")
        x = x + nn.Dense(width, kernel_init=depth_scaled(layer), name="out")(out)
        mlp = Mlp(MLP_RATIO * width, jnp.float32, name="mlp")
        return x + mlp(_norm("norm2")(x), layer)


class AttentivePooler(nn.Module):
    """`depth - 1` self-attention blocks, then one learned query attends to all tokens."""

    heads: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array, present: jax.Array) -> jax.Array:
        """x: [B, N, D]; present: bool [B, N], at least one True per row. Returns [B, D]."""
        width = x.shape[-1]
        # Blocks are recomputed for the gradient: a grid of heads would not fit into memory.
        block: Any = nn.remat(SelfAttentionBlock)
        for layer in range(self.depth - 1):
            x = block(self.heads, layer, name=f"block{layer}")(x, present)
        query = self.param("query", WEIGHT_INIT, (1, width), jnp.float32)
        scale, shift = _Scale(name="norm1")(width)
        kernel, bias = _Weights(2 * width, name="kv")(width)
        key, value = rearrange(kernel, "d (two h c) -> two h c d", two=2, h=self.heads)
        asked = rearrange(_dense(width, "q")(query), "1 (h c) -> h c", h=self.heads)
        # One query asks, so tokens need not become keys and values: the query goes through the
        # keys' weights once, and the mean of tokens through the values' weights. This takes
        # 2 heads / D of the work, and a grid of heads reads the same tokens. What does not differ
        # from token to token has no part in the softmax.
        tokens = nn.LayerNorm(1e-5, use_fast_variance=False, use_scale=False, use_bias=False)(x)
        wanted = jnp.einsum("hcd,hc->hd", key, asked) * scale * (width // self.heads) ** -0.5
        score = jnp.einsum("bnd,hd->bhn", tokens, wanted)
        share = jax.nn.softmax(score, axis=-1, where=present[:, None])
        self.sow("intermediates", "share", share)  # for attention maps; kept only if asked for
        mean = jnp.einsum("bhn,bnd->bhd", share, tokens) * scale + shift
        out = rearrange(jnp.einsum("bhd,hcd->bhc", mean, value), "b h c -> b 1 (h c)")
        # There is no output projection (inherited).
        pooled = query + out + bias[width:]
        mlp = Mlp(MLP_RATIO * width, jnp.float32, name="mlp")
        return (pooled + mlp(_norm("norm2")(pooled), jnp.asarray(self.depth - 1)))[:, 0]


class _Scale(nn.Module):
    """The parameters of a layer norm: scale [D] and bias [D]."""

    @nn.compact
    def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        return self.param("scale", ones, (width,)), self.param("bias", zeros, (width,))


class _Weights(nn.Module):
    """The parameters of a dense layer: kernel [D, features] and bias [features]."""

    features: int

    @nn.compact
    def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", WEIGHT_INIT, (width, self.features), jnp.float32)
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


class Head(nn.Module):
    """A probe: pools the tokens of an example and maps them to `outputs` numbers.

    Attributes:
      kind: "linear" or "mlp" (on the mean token), or "attentive".
      outputs: 1 for regression, the number of classes for classification.
      depth, heads: of the attentive pooler. hidden: width of the hidden layer of the MLP.
      views, clips: number of views, and of clips per view, in an example.
      streams: add learned embeddings of view and clip to the tokens.
      fusion: "early" pools the tokens of all slots together; "late" predicts from every slot
        separately and averages over those that are present.
    """

    kind: str
    outputs: int
    depth: int = 1
    heads: int = 16
    hidden: int = 256
    views: int = 1
    clips: int = 1
    streams: bool = False
    fusion: str = "early"

    @nn.compact
    def __call__(self, tokens: jax.Array, present: jax.Array) -> jax.Array:
        """tokens: [B, S, N, D]; present: bool [B, S], one True per row or more. [B, outputs]."""
        batch, slots, count, width = tokens.shape
        tokens = tokens.astype(jnp.float32)
        if self.streams:
            view = self.param("view_embed", WEIGHT_INIT, (self.views, width), jnp.float32)
            clip = self.param("clip_embed", WEIGHT_INIT, (self.clips, width), jnp.float32)
            tokens += rearrange(view[:, None] + clip, "v c d -> 1 (v c) 1 d")
        if self.fusion == "late":
            alone = rearrange(tokens, "b s n d -> (b s) n d")
            out = self._predict(alone, jnp.ones((batch * slots, count), bool))
            out = rearrange(out, "(b s) o -> b s o", s=slots)
            weight = present[..., None].astype(jnp.float32)
            return jnp.sum(out * weight, axis=1) / jnp.sum(weight, axis=1)
        together = rearrange(tokens, "b s n d -> b (s n) d")
        return self._predict(together, repeat(present, "b s -> b (s n)", n=count))

    def _predict(self, x: jax.Array, present: jax.Array) -> jax.Array:
        """x: [B, N, D]; present: bool [B, N]. Returns [B, outputs]."""
        if self.kind == "attentive":
            x = AttentivePooler(self.heads, self.depth, name="pooler")(x, present)
        else:
            weight = present[..., None].astype(jnp.float32)
            x = jnp.sum(x * weight, axis=1) / jnp.sum(weight, axis=1)
            x = _norm("norm")(x)
            if self.kind == "mlp":
                x = gelu(_dense(self.hidden, "hidden")(x))
        return _dense(self.outputs, "out")(x)


def regression_loss(out: jax.Array, target: jax.Array) -> jax.Array:
    """Smooth L1 (Huber with delta 1) of z-scored targets: [B, 1], [B] -> [B]."""
    error = jnp.abs(out[:, 0] - target)
    return jnp.where(error < 1, 0.5 * error**2, error - 0.5)


def class_loss(out: jax.Array, target: jax.Array, gamma: float = 0.0) -> jax.Array:
    """Cross-entropy: scores [B, classes], class numbers int [B] -> [B].

    Args:
      gamma: of the focal loss, (1 - p)^gamma times the cross-entropy, where p is the probability of
        the true class (Lin et al. 2017, formula 4); 0 = cross-entropy.
    """
    picked: Any = jnp.take_along_axis(jax.nn.log_softmax(out), target[:, None], axis=1)
    entropy = -picked[:, 0]
    # 1 - p without loss of digits. At p = 1, a power below 1 has no gradient.
    return entropy if gamma == 0 else (-jnp.expm1(-entropy) + 1e-12) ** gamma * entropy
