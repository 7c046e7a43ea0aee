"""Pre-norm transformer blocks with rotary attention, stacked with or without scan and remat."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from echojepa_jax.ops.attention import angles_for, self_attention
from echojepa_jax.ops.gelu import gelu
from echojepa_jax.ops.linear import linear
from echojepa_jax.ops.norm import layer_norm
from echojepa_jax.ops.tpu_tubelets import Order
from echojepa_jax.parallel.mesh import gathered, shard_by_clip

Initializer = Callable[..., jax.Array]

# The original truncates at +-2, which is 100 standard deviations: in effect a plain normal.
WEIGHT_INIT: Initializer = nn.initializers.normal(0.02)
# VideoMAE's.
XAVIER: Initializer = nn.initializers.xavier_uniform()


def _keeping(*names: str) -> Any:
    return jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.save_only_these_names(*names),
        # The results of cuDNN's forward kernel have no name.
        lambda primitive, *_, **__: primitive.name.startswith("dot_product_attention_fwd"),
    )


# What a block keeps from its forward pass for its backward pass; the rest is recomputed.
REMAT_POLICIES: dict[str, Any] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": _keeping("attention"),
    # By name, because JAX's policy for matrix products does not see those inside `linear`, which
    # defines its own gradient.
    "dots": _keeping("attention", "dense"),
}


class Dense(nn.Module):
    """The dense layer that the whole model uses.

    order: see `linear`. bias_init: None = there is no bias.
    """

    features: int
    kernel_init: Initializer
    dtype: Any
    order: Order | None = None
    bias_init: Initializer | None = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, N, D]. Returns [B, N, features] in `dtype`."""
        rows = self.order.features if self.order else x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (rows, self.features), jnp.float32)
        if self.bias_init is None:
            bias = jnp.zeros(self.features)
        else:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        return checkpoint_name(linear(x.astype(self.dtype), kernel, bias, self.order), "dense")


class KeylessBias(nn.Module):
    """VideoMAE's fused qkv projection: queries and values have a bias, keys have none."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, N, D]. Returns [B, N, 3 D] in `dtype`."""
        width = x.shape[-1]
        kernel = self.param("kernel", XAVIER, (width, 3 * width), jnp.float32)
        query, value = (
            self.param(name, nn.initializers.zeros, (width,), jnp.float32)
            for name in ("q_bias", "v_bias")
        )
        # Gathered, so that every device splits the gradient locally.
        bias = jnp.concatenate([gathered(query), jnp.zeros(width), gathered(value)])
        bias = gathered(bias)
        return checkpoint_name(linear(x.astype(self.dtype), kernel, bias), "dense")


class LayerNorm(nn.Module):
    """The layer norm of the whole model: over the last axis, in float32 except for its result."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, N, D]. Returns the same shape in `dtype`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return layer_norm(x, gathered(scale), gathered(bias), self.dtype)


def depth_scaled(layer: jax.Array) -> Initializer:
    """Initialiser of the last weight of a residual branch: WEIGHT_INIT / sqrt(2 (layer + 1))."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return WEIGHT_INIT(key, shape, dtype) / jnp.sqrt(2.0 * (layer + 1)).astype(dtype)

    return init


class Attention(nn.Module):
    """Multi-head self-attention with a fused qkv projection and rotary positions.

    backend, segments: see `self_attention`. videomae: see `Block`.
    """

    heads: int
    dtype: Any
    backend: str = "xla"
    segments: Sequence[int] = ()
    videomae: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, layer: jax.Array, cos: jax.Array | None, sin: jax.Array | None
    ) -> jax.Array:
        """x: [B, N, D]; layer: int scalar, 0-based; cos, sin: of `angles_for`."""
        width = x.shape[-1]
        if self.videomae:
            qkv = KeylessBias(self.dtype, name="qkv")(x)
        else:
            qkv = Dense(3 * width, WEIGHT_INIT, self.dtype, name="qkv")(x)
        out = self_attention(qkv, cos, sin, self.heads, self.backend, self.segments)
        init = XAVIER if self.videomae else depth_scaled(layer)
        return Dense(width, init, self.dtype, name="out")(out)


class Mlp(nn.Module):
    """Two-layer perceptron with exact (erf) GELU. videomae: see `Block`."""

    hidden: int
    dtype: Any
    videomae: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, layer: jax.Array) -> jax.Array:
        """x: [B, N, D]; layer: int scalar, 0-based."""
        first, second = (XAVIER, XAVIER) if self.videomae else (WEIGHT_INIT, depth_scaled(layer))
        hidden = Dense(self.hidden, first, self.dtype, name="fc1")(x)
        hidden = gelu(hidden)
        return Dense(x.shape[-1], second, self.dtype, name="fc2")(hidden)


class Block(nn.Module):
    """`x += attention(norm1(x)); x += mlp(norm2(x))`.

    drop_path: probability that a clip skips a branch in the last of `depth` blocks; it grows
    linearly from 0 in the first (stochastic depth, Huang et al. 2016). Needs the rng "drop_path".
    attention, segments: backend and `segments` of `self_attention`.
    videomae: as in VideoMAE, keys have no bias, and weights are initialised by XAVIER.
    """

    heads: int
    mlp_hidden: int
    dtype: Any
    drop_path: float = 0.0
    depth: int = 1
    attention: str = "xla"
    segments: Sequence[int] = ()
    videomae: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, layer: jax.Array, cos: jax.Array | None, sin: jax.Array | None
    ) -> tuple[jax.Array, None]:
        """x: [B, N, D]. Returns (x, None): the carry of a scan over layers, and no output."""
        x = shard_by_clip(x)
        how = self.attention, self.segments, self.videomae
        attend = Attention(self.heads, self.dtype, *how, name="attention")
        x = x + self._kept(attend(LayerNorm(self.dtype, name="norm1")(x), layer, cos, sin), layer)
        mlp = Mlp(self.mlp_hidden, self.dtype, self.videomae, name="mlp")
        x = x + self._kept(mlp(LayerNorm(self.dtype, name="norm2")(x), layer), layer)
        return x, None

    def _kept(self, branch: jax.Array, layer: jax.Array) -> jax.Array:
        """Drops the branch for random clips; scales it for the others, which keeps the mean."""
        if not self.drop_path:
            return branch
        keep = 1.0 - self.drop_path * layer / max(1, self.depth - 1)
        kept = jax.random.bernoulli(self.make_rng("drop_path"), keep, (len(branch), 1, 1))
        return jnp.where(kept, branch / keep.astype(branch.dtype), 0)


def stack_of(network: Any, drop_path: float = 0.0, videomae: bool = False) -> "BlockStack":
    """The blocks of an encoder or predictor, with its settings and the name "stack"."""
    return BlockStack(
        network.depth,
        network.heads,
        network.mlp_hidden,
        network.scan_layers,
        network.remat,
        network.dtype,
        drop_path,
        network.attention,
        videomae,
        name="stack",
    )


class BlockStack(nn.Module):
    """`depth` blocks. Parameters are stacked on a leading layer axis, scanned or not.

    Attributes:
      scan_layers: compile one block and loop over it (small programs, fast compilation), or
        unroll the loop (more room for the compiler). Same parameters, same outputs.
      remat: "none", or the name of one of `REMAT_POLICIES`.
      drop_path, attention, videomae: see `Block`.
    """

    depth: int
    heads: int
    mlp_hidden: int
    scan_layers: bool
    remat: str
    dtype: Any
    drop_path: float = 0.0
    attention: str = "xla"
    videomae: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        angles: tuple[jax.Array, jax.Array] | None,
        segments: Sequence[int] = (),
        levels: Sequence[int] = (),
    ) -> jax.Array:
        """Runs all blocks; returns the result of the last one, or of several.

        Args:
          x: [B, N, D].
          angles: cos, sin of the tokens' positions, see ops/rotary.py; None = no rotation.
          segments: lengths of the sequences that are concatenated in `x`, see `self_attention`.
          levels: numbers of layers, 0-based and ascending; the last layer must be one of them.

        Returns:
          [B, N, D], the result of the last block; with `levels`, the results of these L blocks,
          [L, B, N, D].
        """
        block: Any = Block
        if self.remat != "none":
            policy = REMAT_POLICIES[self.remat]
            block = nn.remat(Block, prevent_cse=not self.scan_layers, policy=policy)
        # Flax's check traces the block twice, and the second time with other random keys. It stays
        # where there are random numbers, so that they are the same for ever.
        random = self.is_initializing() or self.drop_path > 0
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "drop_path": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=self.depth,
            unroll=1 if self.scan_layers else self.depth,
            check_constancy_invariants=random,
        )
        cos, sin = angles_for(self.attention, angles, x.shape[1], x.shape[2] // self.heads)
        settings = (
            self.heads,
            self.mlp_hidden,
            self.dtype,
            self.drop_path,
            self.depth,
            self.attention,
            tuple(segments),
            self.videomae,
        )
        if levels and not self.is_initializing():
            return self._levels(block(*settings, parent=None), x, cos, sin, levels)
        x, _ = stack(*settings, name="blocks")(x, jnp.arange(self.depth), cos, sin)
        return jnp.stack([x] * len(levels)) if levels else x

    def _levels(
        self, block: nn.Module, x: jax.Array, cos: Any, sin: Any, levels: Sequence[int]
    ) -> jax.Array:
        """Runs one loop up to each level: a single loop would have to keep all layers' results."""
        params = self.variables["params"]["blocks"]

        def layer(x: jax.Array, given: tuple[Any, jax.Array]) -> tuple[jax.Array, None]:
            mine, number = given
            # Flax declares a wider type for `apply` than the (x, None) of this block.
            return block.apply({"params": mine}, x, number, cos, sin)  # type: ignore[return-value]

        found = []
        for start, end in itertools.pairwise([0, *(level + 1 for level in levels)]):
            some = jax.tree.map(lambda leaf, cut=slice(start, end): leaf[cut], params)
            unroll = 1 if self.scan_layers else end - start
            x, _ = jax.lax.scan(layer, x, (some, jnp.arange(start, end)), unroll=unroll)
            found.append(x)
        return jnp.stack(found)
