"""The kernels of accelerators, on a CPU: in interpret mode against XLA, and where they run."""

import functools
import re
import types
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojepa_jax.models.blocks import BlockStack
from echojepa_jax.ops import attention as ops
from echojepa_jax.ops import cpu_attention
from echojepa_jax.ops.rotary import rotary_angles
from echojepa_jax.utils.errors import UserError


def qkv(count, heads, head_dim, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(jax.random.normal(key, (2, count, heads, head_dim)).astype(dtype) for key in keys)


@pytest.mark.parametrize("count", [37, cpu_attention._LONG + 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
def test_cpu_attention_equals_xla_forward_and_backward(count, dtype, tolerance):
    arrays = [jnp.concatenate([x, x[::-1]])[:3] for x in qkv(count, 3, 12, dtype)]
    weight = jax.random.normal(jax.random.key(1), arrays[0].shape)

    def results(backend):
        def loss(*arrays):
            out = ops.attention(*arrays, backend=backend)
            return jnp.sum(out.astype(jnp.float32) * weight), out

        found = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
        assert all(x.dtype == dtype for x in jax.tree.leaves(found))
        return [np.asarray(x, np.float32) for x in jax.tree.leaves(found)]

    for mine, wanted in zip(results("mapped"), results("xla"), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=tolerance)


def test_segments_attend_to_themselves_only():
    arrays = qkv(7, 2, 8)
    first = [x[:, :3] for x in arrays]
    second = [x[:, 3:] for x in arrays]
    wanted = jnp.concatenate([ops.attention(*first), ops.attention(*second)], axis=1)
    np.testing.assert_array_equal(ops.attention(*arrays, segments=(3, 4)), wanted)


def choose(wanted, platform, dtype="bfloat16", head_dims=(64, 32)):
    return ops.choose_backend(wanted, platform, dtype, head_dims)


def test_auto_is_the_platforms_fastest_and_what_is_not_there_is_an_error():
    best = {platform: choose("auto", platform) for platform in ("cpu", "gpu", "tpu")}
    assert best == {"cpu": "mapped", "gpu": "cudnn", "tpu": "fused"}
    assert choose("xla", "tpu") == "xla"
    assert choose("auto", "tpu", head_dims=(256,)) == "xla"
    with pytest.raises(
        UserError, match="'fused': our TPU kernel cannot handle heads of 256 channels"
    ):
        choose("fused", "tpu", head_dims=(256,))
    with pytest.raises(UserError, match=r"'fused' runs on TPUs; this is a GPU .*: use 'cudnn'"):
        choose("fused", "gpu")


@pytest.mark.parametrize(
    ("capability", "best"), [("9.0", "cudnn"), ("7.5", "xla"), ("gfx942", "xla")]
)
def test_what_a_gpu_tells_of_itself_decides(monkeypatch, capability, best):
    gpu = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(ops.jax, "devices", lambda _: [gpu])
    ops._oldest_gpu.cache_clear()
    assert choose("auto", "gpu") == best
    ops._oldest_gpu.cache_clear()


def test_an_old_gpu_has_no_cudnn_attention(monkeypatch):
    monkeypatch.setattr(ops, "_oldest_gpu", lambda: 7.5)
    assert choose("auto", "gpu") == "xla"
    with pytest.raises(UserError, match=r"'cudnn' runs on NVIDIA GPUs from Ampere .*: use 'xla'"):
        choose("cudnn", "gpu")


@pytest.mark.parametrize(
    ("dtype", "head_dims", "reason"),
    [
        ("float32", (64,), "in float32"),
        ("bfloat16", (64, 12), "for heads of 12 channels"),
        ("bfloat16", (256,), "for heads of 256 channels"),
    ],
)
def test_what_cudnn_cannot_do_is_done_by_xla_and_said(caplog, dtype, head_dims, reason):
    with caplog.at_level("INFO"):
        assert choose("auto", "gpu", dtype, head_dims) == "xla"
    assert caplog.messages == [f"cuDNN has no attention {reason}: XLA computes attention"]
    with pytest.raises(UserError, match=f"'cudnn': cuDNN has no attention {reason}: use 'auto'"):
        choose("cudnn", "gpu", dtype, head_dims)
    assert choose("auto", "gpu", "bfloat16", (32, 64, 88)) == "cudnn"


@pytest.mark.parametrize(
    ("remat", "forwards", "products"),
    # Four layers and eight products for their gradients; a block's last one need not be repeated.
    [("none", 1, 12), ("dots", 1, 12), ("attention", 1, 15), ("full", 2, 15)],
)
def test_what_has_been_computed_is_kept_by_remat(monkeypatch, remat, forwards, products):
    """Traced only: the checks for a GPU are taken out."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda *_: 90000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
    settings = dict(depth=2, heads=2, mlp_hidden=64, scan_layers=False, dtype=jnp.bfloat16)
    x = jnp.zeros((1, 16, 64))
    angles = rotary_angles(jnp.arange(16)[None], (1, 4, 4), 32)
    init = functools.partial(BlockStack(remat="none", **settings).init, jax.random.key(0))
    params = jax.eval_shape(init, x, angles)
    stack = BlockStack(remat=remat, attention="cudnn", **settings)
    gradient = jax.make_jaxpr(jax.grad(lambda p: jnp.sum(stack.apply(p, x, angles))))(params)
    # The layers are a loop, whose body is written once.
    kinds = Counter(re.findall(r"dot_product_attention_(fwd|bwd)_wrapper", str(gradient)))
    assert kinds == {"fwd": forwards, "bwd": 1}
    assert str(gradient).count("dot_general[") == products
