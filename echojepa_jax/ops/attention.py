"""Multi-head attention: one function for all callers, with the fastest kernel of the platform.

xla     matrix products and a softmax, compiled by XLA. Runs everywhere, in any type; the scores
        [B, heads, N, M] are in memory, in float32.
mapped  for CPUs, see ops/cpu_attention.py: long sequences are processed a few clips at a time, so
        that the scores stay in the cache; it defines its own gradient.
cudnn   cuDNN's flash attention, on NVIDIA GPUs, in half precision.
fused   our kernel for TPUs: rotation and attention in one, see ops/tpu_attention.py.
"""

import functools
import logging
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from echojepa_jax.ops.cpu_attention import cpu_attention
from echojepa_jax.ops.rotary import rotate
from echojepa_jax.parallel.mesh import per_device
from echojepa_jax.utils.errors import UserError

log = logging.getLogger(__name__)

# The platform that each backend needs, in JAX's names; xla runs on all.
PLATFORM = {"mapped": "cpu", "cudnn": "gpu", "fused": "tpu"}
BACKENDS = ("xla", *PLATFORM)
_NEEDED = {"mapped": "CPUs", "cudnn": "NVIDIA GPUs from Ampere (A100) on", "fused": "TPUs"}
_NAMED = {"cpu": "a CPU", "gpu": "a GPU of another kind", "tpu": "a TPU"}

_CUDNN_HEAD_DIM = 128  # the largest that all generations of GPUs support
_QUERIES = 512  # that XLA processes at a time, if sequences are too long for our kernel
_FUSED_HEAD_DIM = 128  # the lanes of a TPU register
_AMPERE = 8.0  # the lowest compute capability with cuDNN's flash attention


def choose_backend(wanted: str, platform: str, dtype: str, head_dims: Sequence[int]) -> str:
    """Returns the fastest backend for "auto", or checks that `wanted` runs.

    Args:
      wanted: "auto" or one of `BACKENDS`.
      platform: "cpu", "gpu" or "tpu".
      dtype: of the activations, such as "bfloat16".
      head_dims: channels per head of all networks, such as (64, 32).

    Raises:
      UserError: `wanted` does not run on this platform, in this type or with these heads.
    """
    best = next((name for name, needs in PLATFORM.items() if needs == platform), "xla")
    if best == "cudnn":
        reason = _no_cudnn(dtype, head_dims)
        if _oldest_gpu() < _AMPERE:
            best = "xla"  # such as a T4
        elif reason and wanted == "cudnn":
            raise UserError(f"config field 'model.attention' = 'cudnn': {reason}: use 'auto'")
        elif reason:
            best = "xla"
            if wanted == "auto":
                log.info("%s: XLA computes attention", reason)
    if best == "fused" and max(head_dims) > _FUSED_HEAD_DIM:
        best, reason = "xla", f"our TPU kernel cannot handle heads of {max(head_dims)} channels"
        if wanted == "fused":
            raise UserError(f"config field 'model.attention' = 'fused': {reason}: use 'auto'")
        log.info("%s: XLA computes attention", reason)
    if wanted == "auto":
        return best
    if PLATFORM.get(wanted, platform) != platform or (wanted == "cudnn" and best == "xla"):
        raise UserError(
            f"config field 'model.attention' = {wanted!r} runs on {_NEEDED[wanted]}; "
            f"this is {_NAMED[platform]}: use {best!r}, or 'auto'"
        )
    return wanted


@functools.cache
def _oldest_gpu() -> float:
    """The lowest compute capability of this machine's GPUs; that of a new one if it has none."""
    try:
        return min(float(gpu.compute_capability) for gpu in jax.devices("gpu"))
    except RuntimeError:  # no GPU: the caller compiles for another machine
        return _AMPERE
    except ValueError:  # such as "gfx942": not an NVIDIA GPU
        return 0.0


def fastest(dtype: str, head_dim: int) -> str:
    """The fastest backend for the devices of this process."""
    return choose_backend("auto", jax.default_backend(), dtype, [head_dim])


def self_attention(
    qkv: jax.Array,
    cos: jax.Array | None,
    sin: jax.Array | None,
    heads: int,
    backend: str = "xla",
    segments: Sequence[int] = (),
) -> jax.Array:
    """Self-attention with rotary positions, from the fused projection to the output projection.

    Args:
      qkv: [B, N, 3 D]: queries, keys, values, each of them ordered by head.
      cos, sin: float32 [B or 1, N, D / heads] from `rotary_angles`, or the result of `angles_for`;
        None = no rotation. They are constants: no gradient flows into them.
      backend, segments: see `attention`.

    Returns:
      [B, N, D], ordered by head, in the dtype of `qkv`.
    """
    chunk = 0
    if backend == "fused" and cos is not None and sin is not None:
        # Imported here, because other platforms do not need it.
        from echojepa_jax.ops import tpu_attention

        if tpu_attention.fits(segments or qkv.shape[1:2], qkv.dtype):
            kernel = functools.partial(
                tpu_attention.self_attention, heads=heads, segments=tuple(segments)
            )
            return per_device(kernel, qkv, cos, sin)
        _log_too_long(qkv.shape[1])
        channels, chunk = qkv.shape[-1] // 3 // heads, _QUERIES
        cos, sin = cos[..., :channels], sin[..., :channels]
    query, key, value = rearrange(qkv, "b n (three h d) -> three b n h d", three=3, h=heads)
    if cos is not None and sin is not None:
        cos, sin = jax.lax.stop_gradient((cos, sin))
        query, key = (rotate(x, cos, sin, flip=backend == "cudnn") for x in (query, key))
    out = attention(query, key, value, chunk=chunk, backend=backend, segments=segments)
    out = rearrange(out, "b n h d -> b n (h d)")
    # Remat policies keep arrays with this name; those of cuDNN's kernel are kept without a name.
    return out if backend == "cudnn" else checkpoint_name(out, "attention")


def angles_for(
    backend: str, angles: tuple[jax.Array, jax.Array] | None, count: int, head_dim: int
) -> tuple[jax.Array | None, jax.Array | None]:
    """Prepares the angles of `rotary_angles` for a backend, once for all layers.

    Args:
      angles: None = nothing is rotated.
      count: of tokens.
    """
    if backend == "fused":
        from echojepa_jax.ops import tpu_attention

        # The kernel always rotates: without positions, by angles of zero.
        shape = 1, count, head_dim
        return tpu_attention.angles_of_group(*(angles or (jnp.ones(shape), jnp.zeros(shape))))
    return angles or (None, None)


@functools.cache  # so that it is logged once
def _log_too_long(count: int) -> None:
    log.info("%d tokens are too many for this TPU's attention kernel: XLA computes it", count)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    present: jax.Array | None = None,
    chunk: int = 0,
    backend: str = "xla",
    segments: Sequence[int] = (),
) -> jax.Array:
    """Softmax attention, scaled by 1/sqrt(d); the softmax is computed in float32.

    Args:
      query: [B, N, heads, d].
      key, value: [B, M, heads, d].
      present: bool [B, M], which keys exist, at least one True per row; None = all.
      chunk: number of queries that xla processes at a time and recomputes for the gradient, so that
        scores need chunk / N of the memory; 0 = all at once.
      backend: one of `BACKENDS`, from `choose_backend`. With `present` or `chunk`, it is xla.
      segments: lengths, with the sum N = M, of sequences that are concatenated and do not attend to
        each other; () = one sequence.

    Returns:
      [B, N, heads, d] in the dtype of `query`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"no attention backend {backend!r}: see `choose_backend`")
    if len(segments) > 1:
        ends = np.cumsum(segments)[:-1].tolist()
        queries, keys, values = (jnp.split(x, ends, axis=1) for x in (query, key, value))
        pieces = zip(queries, keys, values, strict=True)
        some = [attention(q, k, v, chunk=chunk, backend=backend) for q, k, v in pieces]
        return jnp.concatenate(some, axis=1)
    if present is None and not chunk:
        if backend == "mapped":
            return cpu_attention(query, key, value)
        if backend == "cudnn":
            return per_device(_cudnn_attention, query, key, value)
    return _xla_attention(query, key, value, present, chunk)


def _xla_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, present: jax.Array | None, chunk: int
) -> jax.Array:
    count = query.shape[1]
    if chunk and count > chunk:
        parts = -(-count // chunk)
        padded = jnp.pad(query, ((0, 0), (0, parts * chunk - count), (0, 0), (0, 0)))
        some = jax.checkpoint(lambda part: _xla_attention(part, key, value, present, 0))
        out = jax.lax.map(some, rearrange(padded, "b (p c) h d -> p b c h d", p=parts))
        return rearrange(out, "p b c h d -> b (p c) h d")[:, :count]
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)
    scores *= query.shape[-1] ** -0.5
    if present is not None:
        scores = jnp.where(present[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value)


def _no_cudnn(dtype: str, head_dims: Sequence[int]) -> str:
    """Why cuDNN's attention cannot handle such heads; "" if it can."""
    if dtype not in ("bfloat16", "float16"):
        return f"cuDNN has no attention in {dtype}"
    bad = [dim for dim in head_dims if dim % 8 or dim > _CUDNN_HEAD_DIM]
    return f"cuDNN has no attention for heads of {bad[0]} channels" if bad else ""


def _cudnn_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
