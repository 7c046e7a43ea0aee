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
from echojepa_jax.parallel import mesh as meshes
from echojepa_jax.utils.errors import UserError


def qkv(count, heads, head_dim, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(jax.random.normal(key, (2, count, heads, head_dim)).astype(dtype) for key in keys)


# Lengths with and without padding; ViT-L's, the small predictor's and ViT-g's heads.
@pytest.mark.parametrize(("count", "head_dim"), [(128, 64), (80, 32), (200, 88)])
def test_splash_equals_xla_forward_and_backward(count, head_dim):
    arrays = qkv(count, 2, head_dim)
    weight = jax.random.normal(jax.random.key(1), (2, count, 2, head_dim))

    def loss(function):
        return lambda *arrays: jnp.sum(function(*arrays) * weight)

    def interpreted(*arrays):
        return ops.splash_attention(*arrays, interpret=True)

    np.testing.assert_allclose(interpreted(*arrays), ops.attention(*arrays), atol=2e-6)
    got = jax.grad(loss(interpreted), argnums=(0, 1, 2))(*arrays)
    wanted = jax.grad(loss(ops.attention), argnums=(0, 1, 2))(*arrays)
    for mine, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)


def test_splash_on_a_mesh_in_half_precision_and_with_segments(monkeypatch):
    """As a TPU slice runs it: a kernel on each device, each part of a sequence by itself."""
    interpreted = functools.partial(ops.splash_attention, interpret=True)
    monkeypatch.setattr(ops, "splash_attention", interpreted)
    mesh = meshes.make_mesh(replica=2, fsdp=4)
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value, weight = (jax.random.normal(k, (8, 100, 2, 32), jnp.bfloat16) for k in keys)

    def gradients(backend):
        def loss(*arrays):
            out = ops.attention(*arrays, backend=backend, segments=(40, 60))
            return jnp.sum(out.astype(jnp.float32) * weight), out

        arrays = (jax.device_put(x, meshes.batch_sharding(mesh)) for x in (query, key, value))
        with jax.set_mesh(mesh):
            found = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
        return jax.tree.map(lambda x: np.asarray(x, np.float32), jax.tree.leaves(found))

    for mine, wanted in zip(gradients("splash"), gradients("xla"), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=0.03)  # of values up to 5: half precision


@pytest.mark.parametrize("count", [37, cpu_attention._LONG + 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
def test_cpu_attention_equals_xla_forward_and_backward(count, dtype, tolerance):
    arrays = [jnp.concatenate([x, x[::-1]])[:3] for x in qkv(count, 3, 12, dtype)]
    weight = jax.random.normal(jax.random.key(1), arrays[0].shape)

    def results(backend):
        def loss(*arrays):
            out = ops.attention(*arrays, backend=backend)
            return jnp.sum(out.astype(jnp.float32) * weight), out

        found = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*arrays)
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


def test_blocks_are_whole_registers_and_waste_little():
    for count in (80, 296, 968, 1176, 1568, 3528):
        block = ops._block(count)
        assert block % 128 == 0
        padded = -(-count // block) * block
        assert padded - count < max(128, 0.15 * count)


def choose(wanted, platform, dtype="bfloat16", head_dims=(64, 32)):
    return ops.choose_backend(wanted, platform, dtype, head_dims)


def test_auto_is_the_platforms_fastest_and_what_is_not_there_is_an_error():
    best = {platform: choose("auto", platform) for platform in ("cpu", "gpu", "tpu")}
    assert best == {"cpu": "mapped", "gpu": "cudnn", "tpu": "splash"}
    assert choose("xla", "tpu") == "xla"
    with pytest.raises(UserError, match=r"'splash' runs on TPUs; this is a GPU .*: use 'cudnn'"):
        choose("splash", "gpu")


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


@pytest.mark.parametrize(("remat", "forwards"), [("none", 1), ("attention", 1), ("full", 2)])
def test_what_cudnn_has_computed_is_kept_by_remat(monkeypatch, remat, forwards):
    """Traced only: the checks for a GPU are taken out."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda *_: 90000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
    settings = dict(depth=2, heads=2, mlp_hidden=64, scan_layers=False, dtype=jnp.bfloat16)
    x, ids, grid = jnp.zeros((1, 16, 64)), jnp.arange(16)[None], (1, 4, 4)
    params = BlockStack(remat="none", **settings).init(jax.random.key(0), x, ids, grid)
    stack = BlockStack(remat=remat, attention="cudnn", **settings)
    gradient = jax.make_jaxpr(jax.grad(lambda p: jnp.sum(stack.apply(p, x, ids, grid))))(params)
    # The layers are a loop, whose body is written once.
    kinds = Counter(re.findall(r"dot_product_attention_(fwd|bwd)_wrapper", str(gradient)))
    assert kinds == {"fwd": forwards, "bwd": 1}
