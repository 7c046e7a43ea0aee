"""The attention kernel of TPUs: interpreted on a CPU against XLA, and compiled for TPUs."""

import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.ad_checkpoint import print_saved_residuals
from jax.experimental.pallas import tpu as pltpu
from jax.extend.core import jaxprs_in_params

from echojepa_jax.costs import ahead
from echojepa_jax.models.blocks import BlockStack
from echojepa_jax.ops import attention as ops
from echojepa_jax.ops import tpu_attention
from echojepa_jax.ops.rotary import rotary_angles
from echojepa_jax.parallel import mesh as meshes
from tests.programs import OLD_JAX

pytestmark = pytest.mark.slow


def interpreted(qkv, cos, sin, heads, segments):
    return tpu_attention.self_attention(qkv, cos, sin, heads, segments, interpret=True)


def by_xla(qkv, cos, sin, heads, segments):
    return ops.self_attention(qkv, cos, sin, heads, "xla", segments)


def inputs(clips, count, heads, channels, dtype, places=None):
    """A fused projection, a gradient of the result, and angles of some places of tokens."""
    rng = np.random.default_rng(count)
    qkv = rng.standard_normal((clips, count, 3 * heads * channels), np.float32)
    weight = rng.standard_normal((clips, count, heads * channels), np.float32)
    ids = rng.integers(8 * 14 * 14, size=(places or clips, count))
    return jnp.asarray(qkv, dtype), weight, *angles_of(ids, (8, 14, 14), channels)


angles_of = jax.jit(rotary_angles, static_argnums=(1, 2))  # one by one, its operations are slow


def outputs_and_gradients(function, qkv, weight, cos, sin, heads, segments):
    def loss(qkv):
        out = function(qkv, cos, sin, heads, segments)
        return jnp.sum(out.astype(jnp.float32) * weight), out

    gradient, out = jax.jit(jax.grad(loss, has_aux=True))(qkv)
    assert out.dtype == gradient.dtype == qkv.dtype
    return np.asarray(out, np.float32), np.asarray(gradient, np.float32)


# Two and four heads in a register, one, and heads that are padded; odd lengths, segments of one
# token, segments that start within a register's rows; several blocks of queries and a shorter one.
@pytest.mark.parametrize(
    ("heads", "channels", "segments"),
    [
        (2, 64, (64,)),
        (4, 64, (1, 99, 41)),
        (4, 32, (100, 41)),
        (8, 32, (7, 1, 1)),
        (1, 128, (33,)),
        (3, 64, (30, 47)),
        (2, 80, (24, 13)),
        (2, 88, (41,)),
        (4, 12, (17, 8)),
        (2, 64, (8, 645)),
    ],
)
def test_it_equals_xla_forward_and_backward(heads, channels, segments):
    arrays = inputs(1 if sum(segments) > 500 else 2, sum(segments), heads, channels, jnp.float32)
    mine, wanted = (
        outputs_and_gradients(function, *arrays, heads, segments)
        for function in (interpreted, by_xla)
    )
    for got, other in zip(mine, wanted, strict=True):
        np.testing.assert_allclose(got, other, atol=5e-6)


def test_it_rotates_nothing_where_there_are_no_angles():
    qkv, weight, *_ = inputs(2, 41, 2, 64, jnp.float32)
    angles = ops.angles_for("fused", None, 41, 64)
    mine = outputs_and_gradients(interpreted, qkv, weight, *angles, 2, ())
    wanted = outputs_and_gradients(by_xla, qkv, weight, None, None, 2, ())
    for a, b in zip(mine, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


# From JAX 0.11 on, CPUs cannot multiply these matrices of bfloat16, as the interpreter asks for.
_NOT_ON_CPU = pytest.mark.skipif(not OLD_JAX, reason="not implemented for CPUs by this JAX")


@pytest.mark.parametrize(
    ("heads", "channels"), [(2, 64), (4, 32), pytest.param(2, 88, marks=_NOT_ON_CPU)]
)
def test_in_half_precision_it_is_one_rounding_away_from_xla(heads, channels):
    segments = (100, 156)
    arrays = inputs(2, 256, heads, channels, jnp.bfloat16, places=1)
    (out, gradient), (wanted, of_wanted) = (
        outputs_and_gradients(function, *arrays, heads, segments)
        for function in (interpreted, by_xla)
    )
    # The distance between neighbouring numbers of bfloat16, at the size of the largest values.
    step = 2.0 ** (np.floor(np.log2(abs(wanted).max())) - 7)
    assert abs(out - wanted).max() <= step
    assert np.linalg.norm(gradient - of_wanted) < 0.01 * np.linalg.norm(of_wanted)


def test_large_scores_neither_overflow_nor_vanish():
    qkv, weight, cos, sin = inputs(1, 40, 2, 64, jnp.float32)
    arrays = (qkv * 40, weight, cos, sin)
    mine, wanted = (
        outputs_and_gradients(function, *arrays, 2, (40,)) for function in (interpreted, by_xla)
    )
    for got, other in zip(mine, wanted, strict=True):
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, other, rtol=1e-3, atol=1e-3 * abs(other).max())


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=4))
def test_every_query_is_in_one_block_of_its_segment(counts):
    start = 0
    for segment in tpu_attention._laid(counts):
        assert segment.start == start
        queries = []
        for run in segment.runs:
            assert run.size % tpu_attention.LANES == 0
            for index in range(run.times):
                first = segment.start + run.at + index * run.size
                queries += range(first, first + run.size)
        keys = [key for chunk in segment.chunks for key in range(*chunk.tokens.indices(10**6))]
        assert keys == list(range(segment.start, segment.start + segment.length))
        start += segment.length
        assert queries[: segment.length] == list(range(segment.start, start))
        assert len(queries) < segment.length + tpu_attention.LANES
        assert max(queries) < tpu_attention._spare_rows(sum(counts))


def test_on_a_mesh_every_device_has_its_own_clips(monkeypatch):
    """As a TPU slice runs it; angles are the same for all clips, or each clip's own."""
    kernel = functools.partial(tpu_attention.self_attention, interpret=True)
    monkeypatch.setattr(tpu_attention, "self_attention", kernel)
    mesh = meshes.make_mesh(replica=2, fsdp=4)
    for places in (1, 8):
        qkv, weight, cos, sin = inputs(8, 60, 4, 32, jnp.float32, places=places)
        qkv = jax.device_put(qkv, meshes.batch_sharding(mesh))

        def on_mesh(qkv, cos, sin, heads, segments):
            return ops.self_attention(qkv, cos, sin, heads, "fused", segments)

        with jax.set_mesh(mesh):
            mine = outputs_and_gradients(on_mesh, qkv, weight, cos, sin, 4, (20, 40))
        wanted = outputs_and_gradients(by_xla, qkv, weight, cos, sin, 4, (20, 40))
        for got, other in zip(mine, wanted, strict=True):
            np.testing.assert_allclose(got, other, atol=5e-6)


def kernels_that_count(jaxpr):
    """Names of the kernels of a program whose results something uses."""
    for equation in jaxpr.eqns:
        users = [*jaxpr.outvars, *(x for other in jaxpr.eqns for x in other.invars)]
        used = any(x is out for x in users for out in equation.outvars)
        if equation.primitive.name == "pallas_call" and used:
            yield equation.params["name"]
        for inner in jaxprs_in_params(equation.params):
            yield from kernels_that_count(inner)


@pytest.mark.parametrize(("remat", "forwards"), [("none", 1), ("attention", 1), ("full", 2)])
def test_remat_keeps_what_the_backward_kernel_needs_and_no_more(capsys, remat, forwards):
    settings = dict(depth=2, heads=2, mlp_hidden=64, scan_layers=False, dtype=jnp.bfloat16)
    x = jnp.zeros((1, 16, 128))
    angles = rotary_angles(jnp.arange(16)[None], (1, 4, 4), 64)
    init = functools.partial(BlockStack(remat="none", **settings).init, jax.random.key(0))
    params = jax.tree.map(jnp.zeros_like, jax.eval_shape(init, x, angles))
    stack = BlockStack(remat=remat, attention="fused", **settings)

    def loss(params):
        return jnp.sum(stack.apply(params, x, angles))

    # The layers are a loop, whose body is written once.
    kinds = Counter(kernels_that_count(jax.make_jaxpr(jax.grad(loss))(params).jaxpr))
    assert kinds == {"attention_forward": forwards, "attention_backward": 1}
    print_saved_residuals(loss, params)
    kept = re.findall(r"\w+\[2,1,([\d,]+)\] output of scan", capsys.readouterr().out)
    # Of both layers: the block's input, and with "attention" the kernel's result and its sums.
    wanted = {"attention": ["16,128", "1,2,128", "16,128"], "full": ["16,128"]}
    assert kept == wanted.get(remat, kept)


# Odd places, several blocks and chunks; what needs most memory for its size.
@pytest.mark.parametrize(
    ("topology", "segments", "channels", "dtype"),
    [
        ("v5e:2x2", (7, 1289), 32, jnp.bfloat16),
        ("v5e:2x2", (300,), 64, jnp.float32),
        ("v5p:2x2x1", (9, 1, 127), 64, jnp.bfloat16),
        ("v6e:2x2", (9, 1, 127), 32, jnp.bfloat16),
        ("v7x:2x2x1", (9, 1, 127), 64, jnp.bfloat16),
    ],
)
def test_it_compiles_for_tpus_that_are_not_there(topology, segments, channels, dtype):
    ahead.prepare_environment()
    one = jax.sharding.SingleDeviceSharding(ahead.tpu_devices(topology)[0])
    count = sum(segments)

    def of(*shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=one)

    def both(qkv, cos, sin, gradient):
        def attend(qkv):
            return tpu_attention.self_attention(qkv, cos, sin, 4, segments)

        out, back = jax.vjp(attend, qkv)
        return out, back(gradient)

    angles = of(2, count, tpu_attention.LANES, dtype=jnp.float32)
    qkv = of(2, count, 12 * channels, dtype=dtype)
    gradient = of(2, count, 4 * channels, dtype=dtype)
    compiled = jax.jit(both).lower(qkv, angles, angles, gradient).compile()
    if topology.startswith(("v5e", "v6e")):  # of the others there is no text
        assert not re.search(r" (pad|transpose|reshape)\(", compiled.as_text())


def test_it_reads_nothing_that_was_not_written_and_no_copy_overtakes_another():
    """Scratch memory of a TPU holds what was there before: here, no numbers."""
    strict = pltpu.InterpretParams(uninitialized_memory="nan", detect_races=True)
    arrays = inputs(1, 52, 4, 64, jnp.float32)
    function = functools.partial(tpu_attention.self_attention, interpret=strict)
    mine = outputs_and_gradients(function, *arrays, 4, (1, 30, 21))
    wanted = outputs_and_gradients(by_xla, *arrays, 4, (1, 30, 21))
    for got, other in zip(mine, wanted, strict=True):
        np.testing.assert_allclose(got, other, atol=5e-6)
    assert not interpret_pallas_call.races.races_found


def test_sequences_that_fill_a_tpus_memory_are_left_to_xla(caplog, monkeypatch):
    """As on a v4, whose cores have 16 MB for kernels, or with very long clips."""
    monkeypatch.setattr(tpu_attention.tpu_memory, "vector_memory", lambda: 16 * 2**20)
    assert tpu_attention.fits((80, 296), jnp.bfloat16)
    assert not tpu_attention.fits((1176, 968), jnp.bfloat16)
    qkv, _, cos, sin = inputs(1, 2144, 1, 32, jnp.bfloat16)
    with caplog.at_level("INFO"):
        text = str(jax.make_jaxpr(lambda x: ops.self_attention(x, cos, sin, 1, "fused"))(qkv))
    assert "pallas_call" not in text
    assert caplog.messages == [
        "2144 tokens are too many for this TPU's attention kernel: XLA computes it"
    ]


@pytest.mark.parametrize(("topology", "size"), [("v4:2x2x1", 16), ("v5e:2x2", 128)])
def test_the_mesh_tells_how_much_memory_a_kernel_may_use(topology, size):
    ahead.prepare_environment()
    with jax.set_mesh(meshes.make_mesh(ahead.tpu_devices(topology))):
        found = jax.eval_shape(lambda: jnp.zeros(tpu_attention.tpu_memory.vector_memory() // 2**20))
    assert found.shape == (size,)
