"""Self-attention of TPUs, in one kernel: from the fused projection to the output projection.

Nothing is rearranged in memory. A grid step takes the queries, keys and values of a *group* of
heads that share the 128 lanes of a register (two heads of 64 channels, four of 32): all tokens of
one clip, as columns of [B, N, 3 D]; and it writes columns of [B, N, D]. It rotates queries and
keys, then goes through the queries block by block. Scores are held transposed, [keys, queries]:
so the maximum and the sum over keys run over rows, where they are cheap, and the products with
values and keys have the few channels of a head as their rows, not a whole register of lanes.

The backward kernel computes scores and weights again: it needs the projection and nothing else.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from echojepa_jax.ops import tpu_memory
from echojepa_jax.ops.rotary import swap_matrix

log = logging.getLogger(__name__)

LANES = 128
HEAD_CHANNELS = (32, 64, 128)  # that share a register without rest; others are padded
_ROWS = 16  # tokens of bfloat16 in a register
# Registers of queries in a block, and what else divides: many keep the matrix units busy, and few
# need little memory.
_BLOCKS = ((4, 5, 3), (2,), (1,))
_SCORES = 4  # arrays of float32 scores that a block has in memory at a time, all in all
_TOGETHER = 2  # heads that are computed side by side: one waits for its products, one does not
_STAGED = 256  # tokens that are rotated at a time, so that they stay in registers
_LOG2_E, _LN_2 = math.log2(math.e), math.log(2)


@functools.cache  # so that it is said once
def _padded_heads(heads: int, channels: int) -> tuple[int, int]:
    """Heads and channels that fill whole registers."""
    wide = next(size for size in HEAD_CHANNELS if size >= channels)
    together = LANES // wide
    many = -(-heads // together) * together
    if (many, wide) != (heads, channels):
        log.info(
            "attention on TPUs: %d heads of %d channels are padded to %d of %d",
            *(heads, channels, many, wide),
        )
    return many, wide


def self_attention(
    qkv: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    heads: int,
    segments: Sequence[int] = (),
    interpret: bool = False,
) -> jax.Array:
    """Rotary self-attention of one device, as `ops.attention.self_attention` describes it.

    Args:
      interpret: run the kernel's program step by step on any platform, for tests.
    """
    batch, count, width = qkv.shape
    channels = width // 3 // heads
    many, wide = _padded_heads(heads, channels)
    spare = ((0, 0), (0, 0), (0, 0), (0, many - heads), (0, wide - channels))
    if padded := (many, wide) != (heads, channels):
        split = jnp.pad(qkv.reshape(batch, count, 3, heads, channels), spare)
        qkv = split.reshape(batch, count, 3 * many * wide)
        cos, sin = (jnp.pad(x, ((0, 0), (0, 0), (0, wide - channels))) for x in (cos, sin))
    segments = tuple(segments) or (count,)
    blocks = next(
        some for some in _BLOCKS if some == _BLOCKS[-1] or _fit(segments, qkv.dtype, some)
    )
    needed = _needed(segments, qkv.dtype, blocks)
    settings = _Settings(wide, channels**-0.5, segments, blocks, needed, interpret)
    out = _fused(qkv, cos, sin, settings)
    if padded:
        out = out.reshape(batch, count, many, wide)[:, :, :heads, :channels]
        out = out.reshape(batch, count, heads * channels)
    return out


def fits(segments: Sequence[int], dtype: Any) -> bool:
    """Whether the kernels have room for sequences of these lengths, laid end to end."""
    return _fit(segments, dtype, _BLOCKS[-1])


def _fit(segments: Sequence[int], dtype: Any, blocks: Sequence[int]) -> bool:
    return tpu_memory.fits(_needed(segments, dtype, blocks))


def _needed(segments: Sequence[int], dtype: Any, blocks: Sequence[int]) -> int:
    """Bytes of vector memory of the backward kernel, which needs more than the forward one."""
    # Twice four inputs, three results, and three arrays of keys and values; in float32, twice two
    # of angles, three of queries, and two of gradients.
    token = LANES * (14 * jnp.dtype(dtype).itemsize + 9 * 4)
    scores = max(segments) * max(blocks) * LANES * 4
    return (sum(segments) + LANES) * token + _SCORES * scores


class _Settings(NamedTuple):
    """channels: of a head. scale: of the scores. segments: lengths, see `ops.attention`.

    blocks: one of `_BLOCKS`. needed: bytes of vector memory.
    """

    channels: int
    scale: float
    segments: tuple[int, ...]
    blocks: tuple[int, ...]
    needed: int
    interpret: bool


class _Run(NamedTuple):
    """Blocks of equal size, one after another: `times` of `size` queries, from token `start` on."""

    start: int
    size: int
    times: int


class _Segment(NamedTuple):
    """A sequence of `length` tokens from `start` on; in scratch memory, its keys lie apart.

    row, column: where its keys begin, when they are rows, and when they are columns.
    """

    start: int
    length: int
    row: int
    column: int

    @property
    def tokens(self) -> slice:
        return slice(self.start, self.start + self.length)

    @property
    def rows(self) -> slice:
        return slice(self.row, self.row + self.length)

    @property
    def columns(self) -> slice:
        return slice(self.column, self.column + self.length)

    def runs(self, blocks: Sequence[int]) -> list[_Run]:
        """Blocks of queries, of whole registers: the last one may go past the segment's end."""
        tiles = -(-self.length // LANES)
        size = next((size for size in blocks if tiles % size == 0), blocks[0])
        times, rest = divmod(tiles, size)
        runs = (
            _Run(self.start, size * LANES, times),
            _Run(self.start + times * size * LANES, rest * LANES, 1),
        )
        return [run for run in runs if run.times and run.size]


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _laid(counts: Sequence[int]) -> list[_Segment]:
    found, start, row, column = [], 0, 0, 0
    for count in counts:
        found.append(_Segment(start, count, row, column))
        start, row, column = start + count, row + _up(count, _ROWS), column + _up(count, LANES)
    return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _fused(qkv: jax.Array, cos: jax.Array, sin: jax.Array, settings: _Settings) -> jax.Array:
    batch, count, columns = qkv.shape
    width = columns // 3
    groups = width // LANES
    segments = _laid(settings.segments)
    rows, last = _spare_rows(count), segments[-1]
    keys = last.row + _up(last.length, _ROWS)
    call = pl.pallas_call(
        functools.partial(_forward_kernel, settings=settings, segments=segments),
        grid=(batch, groups),
        in_specs=_inputs(qkv, cos, groups, settings),
        out_specs=_group(count),
        out_shape=jax.ShapeDtypeStruct((batch, count, width), qkv.dtype),
        scratch_shapes=[
            pltpu.VMEM((rows, LANES), jnp.float32),
            pltpu.VMEM((keys, LANES), qkv.dtype),
            pltpu.VMEM((LANES, last.column + _up(last.length, LANES)), qkv.dtype),
            pltpu.VMEM((LANES, max(settings.blocks) * LANES), jnp.float32),
            pltpu.VMEM((rows, LANES), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"),
            vmem_limit_bytes=tpu_memory.limit(settings.needed),
        ),
        interpret=settings.interpret,
        name="attention_forward",
    )
    return call(qkv, qkv, qkv, cos, sin, _swap(settings, qkv.dtype))


def _forward(qkv: jax.Array, cos: jax.Array, sin: jax.Array, settings: _Settings) -> Any:
    return _fused(qkv, cos, sin, settings), (qkv, cos, sin)


def _backward(settings: _Settings, saved: Any, gradient: jax.Array) -> Any:
    qkv, cos, sin = saved
    batch, count, columns = qkv.shape
    groups = columns // 3 // LANES
    segments = _laid(settings.segments)
    rows, last = _spare_rows(count), segments[-1]
    keys = last.row + _up(last.length, _ROWS)

    call = pl.pallas_call(
        functools.partial(_backward_kernel, settings=settings, segments=segments),
        grid=(batch, groups),
        in_specs=[
            *_inputs(qkv, cos, groups, settings),
            _group(count),
        ],
        out_specs=pl.BlockSpec(memory_space=pl.ANY),
        out_shape=jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
        scratch_shapes=[
            *(pltpu.VMEM((rows, LANES), jnp.float32) for _ in range(3)),
            *(pltpu.VMEM((keys, LANES), qkv.dtype) for _ in range(2)),
            *(pltpu.VMEM((keys, LANES), jnp.float32) for _ in range(2)),
            pltpu.VMEM((LANES, last.column + _up(last.length, LANES)), qkv.dtype),
            pltpu.VMEM((LANES, max(settings.blocks) * LANES), jnp.float32),
            pltpu.VMEM((3, count, LANES), qkv.dtype),
            pltpu.SemaphoreType.DMA((3,)),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=tpu_memory.limit(settings.needed),
        ),
        interpret=settings.interpret,
        name="attention_backward",
    )
    of_qkv = call(qkv, qkv, qkv, cos, sin, _swap(settings, qkv.dtype), gradient)
    return of_qkv, jnp.zeros_like(cos), jnp.zeros_like(sin)


_fused.defvjp(_forward, _backward)


def _spare_rows(count: int) -> int:
    """Rows of scratch for `count` tokens: the last block of a segment goes on past its end."""
    return _up(count, 8) + LANES


def _group(count: int, first: int = 0) -> pl.BlockSpec:
    """All tokens of a clip, and the 128 columns of a group of heads, counted from `first` on."""
    return pl.BlockSpec((None, count, LANES), lambda clip, group: (clip, 0, first + group))


def _inputs(qkv: jax.Array, cos: jax.Array, groups: int, settings: _Settings) -> list[pl.BlockSpec]:
    count, each = qkv.shape[1], int(cos.shape[0] > 1)
    angles = pl.BlockSpec((None, count, settings.channels), lambda clip, _: (clip * each, 0, 0))
    return [
        *(_group(count, part * groups) for part in range(3)),
        angles,
        angles,
        pl.BlockSpec((LANES, LANES), lambda *_: (0, 0)),
    ]


def _swap(settings: _Settings, dtype: Any) -> jax.Array:
    return jnp.asarray(swap_matrix(LANES), dtype)


def _dot(a: jax.Array, b: jax.Array, transposed: bool = False) -> jax.Array:
    """a @ b, or a @ b.T, summed in float32."""
    return jax.lax.dot_general(
        a,
        b,
        (((1,), (int(transposed),)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def _rotated(x: jax.Array, cos: jax.Array, sin: jax.Array, swap: jax.Array) -> jax.Array:
    """Queries or keys of a group of heads, [n, 128] each, turned by the angles of their tokens."""
    return x.astype(jnp.float32) * cos + _dot(x, swap) * sin


def _turned_back(gradient: jax.Array, cos: jax.Array, sin: jax.Array, swap: jax.Array) -> jax.Array:
    """What comes back through `_rotated`: float32 [n, 128]."""
    turned = gradient * sin
    # In two parts, so that products of bfloat16 swap nearly all bits of float32.
    high = turned.astype(swap.dtype)
    low = (turned - high.astype(jnp.float32)).astype(swap.dtype)
    return gradient * cos + _dot(high, swap) + _dot(low, swap)


def _angles(cos_ref: Any, sin_ref: Any, tokens: slice) -> tuple[jax.Array, jax.Array]:
    """Those of a group's heads, which are the same for all of them: [n, 128] each."""
    heads = LANES // cos_ref.shape[-1]
    cos, sin = (jnp.concatenate([x[tokens]] * heads, axis=-1) for x in (cos_ref, sin_ref))
    return cos, sin


def _lanes_of(head: Any, channels: int) -> jax.Array:
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    return (lane >= head * channels) & (lane < (head + 1) * channels)


def _chunks(segment: _Segment) -> Iterator[tuple[slice, slice]]:
    """Some tokens of a segment at a time: where they are in the clip, and among the keys."""
    for at in range(0, segment.length, _STAGED):
        count = min(_STAGED, segment.length - at)
        start, row = segment.start + at, segment.row + at
        yield slice(start, start + count), slice(row, row + count)


def _loop(times: int, work: Callable[[Any], None]) -> None:
    if times == 1:
        work(0)
    else:
        jax.lax.fori_loop(0, times, lambda index, _: work(index), None)


def _aligned(start: Any, segment: _Segment) -> Any:
    """The first query of a block, with what the compiler may know of it."""
    if isinstance(start, int):
        return start
    return pl.multiple_of(start, math.gcd(segment.start, LANES))


def _each_block(
    segments: Sequence[_Segment],
    blocks: Sequence[int],
    work: Callable[[_Segment, Any, int], None],
) -> None:
    """Calls work(segment, first query, queries) for every block of queries."""

    def block(segment: _Segment, run: _Run, index: Any) -> None:
        work(segment, _aligned(run.start + index * run.size, segment), run.size)

    for segment in segments:
        for run in segment.runs(blocks):
            _loop(run.times, functools.partial(block, segment, run))


def _own(head: Any, channels: int) -> Any:
    """The rows of a head, where channels are rows."""
    return pl.ds(head * channels, channels)


def _each_head(channels: int, work: Callable[[Sequence[Any]], None]) -> None:
    """Calls work(heads) for the heads of a group, some at a time."""
    heads = LANES // channels
    some = min(_TOGETHER, heads)
    _loop(heads // some, lambda index: work([index * some + one for one in range(some)]))


def _lay_across(ref: Any, segment: _Segment, columns: Any) -> None:
    """Lays the tokens of a segment across: [n, 128] to columns of [128, N]."""
    for at in range(0, segment.length, LANES):
        count = min(LANES, segment.length - at)
        some = ref[segment.start + at : segment.start + at + count].astype(jnp.float32)
        if count < LANES:
            some = jnp.concatenate([some, jnp.zeros((LANES - count, LANES), jnp.float32)])
        column = segment.column + at
        columns[:, column : column + LANES] = some.T.astype(columns.dtype)


def _weights(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Softmax over keys, in powers of 2: [keys, queries], and 1 / its sum: [1, queries]."""
    weights = jnp.exp2(scores - jnp.max(scores, axis=0, keepdims=True))
    return weights, 1 / jnp.sum(weights, axis=0, keepdims=True)


def _forward_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    cos_ref: Any,
    sin_ref: Any,
    swap_ref: Any,
    out_ref: Any,
    queries: Any,
    keys: Any,
    values: Any,
    across: Any,
    rows: Any,
    *,
    settings: _Settings,
    segments: Sequence[_Segment],
) -> None:
    """queries, rows: float32, with spare rows. keys: by segment. values, across: transposed."""
    count, channels, dtype = query_ref.shape[0], settings.channels, query_ref.dtype
    swap = swap_ref[...]
    for segment in segments:
        for tokens, mine in _chunks(segment):
            cos, sin = _angles(cos_ref, sin_ref, tokens)
            asked = _rotated(query_ref[tokens], cos, sin, swap)
            queries[tokens] = asked * (settings.scale * _LOG2_E)
            keys[mine] = _rotated(key_ref[tokens], cos, sin, swap).astype(dtype)
        _lay_across(value_ref, segment, values)

    def block(segment: _Segment, start: Any, size: int) -> None:
        asked = queries[pl.ds(start, size)].astype(dtype)

        def scores(head: Any) -> jax.Array:
            query = jnp.where(_lanes_of(head, channels), asked, 0)
            return _dot(keys[segment.rows], query, transposed=True)

        def heads(some: Sequence[Any]) -> None:
            following = scores(some[0])
            for head, after in zip(some, (*some[1:], None), strict=True):
                weights, share = _weights(following)
                if after is not None:
                    following = scores(after)
                out = _dot(values[_own(head, channels), segment.columns], weights.astype(dtype))
                across[_own(head, channels), :size] = out * share

        _each_head(channels, heads)
        rows[pl.ds(start, size)] = across[:, :size].T

    _each_block(segments, settings.blocks, block)
    out_ref[...] = rows[:count].astype(dtype)


def _backward_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    cos_ref: Any,
    sin_ref: Any,
    swap_ref: Any,
    gradient_ref: Any,
    out_ref: Any,
    queries: Any,
    gradients: Any,
    of_queries: Any,
    keys: Any,
    values: Any,
    of_keys: Any,
    of_values: Any,
    keys_across: Any,
    across: Any,
    leaving: Any,
    left: Any,
    *,
    settings: _Settings,
    segments: Sequence[_Segment],
) -> None:
    """The same, and `leaving`, [3, N, 128]: gradients of queries, keys, values on their way out."""
    count, channels, dtype = query_ref.shape[0], settings.channels, query_ref.dtype
    swap = swap_ref[...]
    spare = queries.shape[0] - count
    queries[count:] = jnp.zeros((spare, LANES), jnp.float32)
    for segment in segments:
        for tokens, mine in _chunks(segment):
            cos, sin = _angles(cos_ref, sin_ref, tokens)
            asked = _rotated(query_ref[tokens], cos, sin, swap)
            queries[tokens] = asked * (settings.scale * _LOG2_E)
            key = _rotated(key_ref[tokens], cos, sin, swap)
            of_queries[tokens] = key  # for now
            keys[mine] = key.astype(dtype)
            values[mine] = value_ref[tokens]
            gradients[tokens] = gradient_ref[tokens].astype(jnp.float32)
            of_keys[mine] = jnp.zeros_like(key)
            of_values[mine] = jnp.zeros_like(key)
        _lay_across(of_queries, segment, keys_across)

    def block(segment: _Segment, start: Any, size: int) -> None:
        asked = queries[pl.ds(start, size)].astype(dtype)
        # Nothing comes back from the queries past the segment's end.
        token = start + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)
        inside = token < segment.start + segment.length
        came = jnp.where(inside, gradients[pl.ds(start, size)], 0).astype(dtype)

        def heads(some: Sequence[Any]) -> None:
            to_values, to_keys = [], []
            for head in some:
                mine = _lanes_of(head, channels)
                query, back = jnp.where(mine, asked, 0), jnp.where(mine, came, 0)
                weights, share = _weights(_dot(keys[segment.rows], query, transposed=True))
                weights *= share
                of_weights = _dot(values[segment.rows], back, transposed=True)
                mean = jnp.sum(weights * of_weights, axis=0, keepdims=True)
                of_scores = (weights * (of_weights - mean)).astype(dtype)
                to_values.append(_dot(weights.astype(dtype), back))
                to_keys.append(_dot(of_scores, query))
                own = _own(head, channels)
                across[own, :size] = _dot(keys_across[own, segment.columns], of_scores)
            of_values[segment.rows] += sum(to_values[1:], to_values[0])
            of_keys[segment.rows] += sum(to_keys[1:], to_keys[0])

        _each_head(channels, heads)
        of_queries[pl.ds(start, size)] = across[:, :size].T

    _each_block(segments, settings.blocks, block)

    clip, group, groups = pl.program_id(0), pl.program_id(1), pl.num_programs(1)
    copies = [
        pltpu.make_async_copy(
            leaving.at[part],
            out_ref.at[clip, :, pl.ds((part * groups + group) * LANES, LANES)],
            left.at[part],
        )
        for part in range(3)
    ]

    @pl.when(group > 0)
    def _() -> None:
        for copy in copies:  # those of the group before, of the same size
            copy.wait()

    for segment in segments:
        for tokens, mine in _chunks(segment):
            cos, sin = _angles(cos_ref, sin_ref, tokens)
            # The products above left out these factors, which are the same for all.
            query, key = of_queries[tokens] * settings.scale, of_keys[mine] * _LN_2
            leaving[0, tokens] = _turned_back(query, cos, sin, swap).astype(dtype)
            leaving[1, tokens] = _turned_back(key, cos, sin, swap).astype(dtype)
            leaving[2, tokens] = of_values[mine].astype(dtype)
    for copy in copies:
        copy.start()

    @pl.when(group == groups - 1)
    def _() -> None:
        for copy in copies:
            copy.wait()
