"""Self-attention for TPUs in one kernel, from the fused projection to the output projection.

No array is rearranged in memory. A grid step reads the queries, keys and values of a *group* of
heads that share the 128 lanes of a register (two heads of 64 channels, four of 32), for all tokens
of one clip, as columns of [B, N, 3 D], and writes columns of [B, N, D]. It rotates queries and
keys, then loops over blocks of queries, and for each block over chunks of keys. Scores are stored
transposed, [keys, queries]: the maximum and the sum over keys then run over rows, which is cheap,
and the products with values and keys have as many rows as a head has channels, instead of a whole
register of lanes.

The backward kernel recomputes the weights from the projection and from one number per query and
head that the forward kernel returns: the logarithm of the sum that divides the weights.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from echojepa_jax.ops import tpu_memory
from echojepa_jax.ops.rotary import swap_matrix

log = logging.getLogger(__name__)

LANES = 128
HEAD_CHANNELS = (32, 64, 128)  # that fill a register exactly; others are padded
_ROWS = 16  # tokens of bfloat16 in a register
_BLOCKS = (4, 5, 3)  # registers of queries in a block: enough to keep the matrix units busy
_TOGETHER = 2  # heads that are computed together: one works while the other waits for products
_FEW = 8  # rows that store one number per query: the rows of a register
_CHUNK = 256  # keys, or tokens to rotate, that are processed at a time: more overfill registers
# Number of arrays of a chunk's scores that a block has in memory at a time: float32 products are
# computed from several bfloat16 products.
_SCORES, _EXACT_SCORES = 4, 24
_LOG2_E, _LN_2 = math.log2(math.e), math.log(2)


@functools.cache  # so that it is logged once
def _padded_heads(heads: int, channels: int) -> tuple[int, int]:
    """Number of heads and channels, padded to fill whole registers."""
    wide = next(size for size in HEAD_CHANNELS if size >= channels)
    together = LANES // wide
    many = -(-heads // together) * together
    if (many, wide) != (heads, channels):
        log.info(
            "attention on TPUs: %d heads of %d channels are padded to %d of %d",
            *(heads, channels, many, wide),
        )
    return many, wide


def angles_of_group(cos: jax.Array, sin: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Repeats angles [B or 1, N, d] for all heads of a group: [B or 1, N, 128].

    `self_attention` accepts both. Repeating them once serves all layers.
    """
    channels = cos.shape[-1]
    wide = next(size for size in HEAD_CHANNELS if size >= channels)
    spare = ((0, 0), (0, 0), (0, wide - channels))
    cos, sin = (jnp.tile(jnp.pad(x, spare), (1, 1, LANES // wide)) for x in (cos, sin))
    return cos, sin


def self_attention(
    qkv: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    heads: int,
    segments: Sequence[int] = (),
    interpret: Any = False,
) -> jax.Array:
    """Rotary self-attention on one device; for the arguments see `ops.attention.self_attention`.

    Args:
      interpret: run the kernel's program step by step on any platform, for tests; True, or the
        settings of the interpreter.
    """
    batch, count, width = qkv.shape
    channels = width // 3 // heads
    many, wide = _padded_heads(heads, channels)
    if padded := (many, wide) != (heads, channels):
        spare = ((0, 0), (0, 0), (0, 0), (0, many - heads), (0, wide - channels))
        split = jnp.pad(qkv.reshape(batch, count, 3, heads, channels), spare)
        qkv = split.reshape(batch, count, 3 * many * wide)
    if cos.shape[-1] != LANES:
        cos, sin = angles_of_group(cos, sin)
    settings = _Settings(wide, channels**-0.5, tuple(segments) or (count,), interpret)
    out = _fused(qkv, cos, sin, settings)
    if padded:
        out = out.reshape(batch, count, many, wide)[:, :, :heads, :channels]
        out = out.reshape(batch, count, heads * channels)
    return out


def fits(segments: Sequence[int], dtype: Any) -> bool:
    """Whether concatenated sequences of these lengths fit the kernels' memory."""
    return tpu_memory.fits(_needed(segments, dtype))


def _needed(segments: Sequence[int], dtype: Any) -> int:
    """Bytes of vector memory of the backward kernel, which needs more than the forward one."""
    # Twice five inputs, three results, and three arrays of keys and values; in float32, twice two
    # of angles, three of queries, and two of gradients.
    token = LANES * (16 * jnp.dtype(dtype).itemsize + 9 * 4)
    scores = _EXACT_SCORES if dtype == jnp.float32 else _SCORES
    # If keys are columns, every sequence starts in a new register.
    columns = sum(_up(count, LANES) for count in segments)
    count = max(sum(segments) + LANES, columns)
    return count * token + scores * _CHUNK * max(_BLOCKS) * LANES * 4


class _Settings(NamedTuple):
    """channels: of a head. scale: of the scores. segments: lengths, see `ops.attention`."""

    channels: int
    scale: float
    segments: tuple[int, ...]
    interpret: Any


class _Run(NamedTuple):
    """`times` consecutive blocks of `size` queries; the first one starts at `at`."""

    at: int
    size: int
    times: int


class _Segment(NamedTuple):
    """A sequence of `length` tokens from `start` on, with its own place for keys in scratch memory.

    row, column: where its keys start, if keys are rows, and if they are columns.
    """

    start: int
    length: int
    row: int
    column: int

    @property
    def runs(self) -> list[_Run]:
        """Blocks of queries in whole registers; the last one may exceed the segment's end."""
        tiles = -(-self.length // LANES)
        size = next((size for size in _BLOCKS if tiles % size == 0), _BLOCKS[0])
        times, rest = divmod(tiles, size)
        runs = (_Run(0, size * LANES, times), _Run(times * size * LANES, rest * LANES, 1))
        return [run for run in runs if run.times and run.size]

    @property
    def chunks(self) -> list["_Chunk"]:
        ends = [*range(_CHUNK, self.length, _CHUNK), self.length]
        return [
            _Chunk(*(slice(at + first, at + end) for at in (self.start, self.row, self.column)))
            for first, end in zip([0, *ends[:-1]], ends, strict=True)
        ]


class _Chunk(NamedTuple):
    """Some tokens of a segment: their places in the clip, among rows of keys, among columns."""

    tokens: slice
    rows: slice
    columns: slice


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
    return _run_forward(qkv, cos, sin, settings)[0]


def _forward(qkv: jax.Array, cos: jax.Array, sin: jax.Array, settings: _Settings) -> Any:
    out, sums = _run_forward(qkv, cos, sin, settings)
    # Remat policies keep arrays with this name.
    out, sums = checkpoint_name(out, "attention"), checkpoint_name(sums, "attention")
    return out, (qkv, cos, sin, out, sums)


def _run_forward(
    qkv: jax.Array, cos: jax.Array, sin: jax.Array, settings: _Settings
) -> tuple[jax.Array, jax.Array]:
    """The result, and the logarithms for the backward kernel, [B, groups, heads, columns]."""
    batch, count, columns = qkv.shape
    width, heads = columns // 3, LANES // settings.channels
    scratch = _Scratch.of(settings, count)
    call = pl.pallas_call(
        functools.partial(_forward_kernel, settings=settings),
        grid=(batch, width // LANES),
        in_specs=_inputs(qkv, cos),
        out_specs=(_group(count), _sums(heads, scratch.columns)),
        out_shape=(
            jax.ShapeDtypeStruct((batch, count, width), qkv.dtype),
            jax.ShapeDtypeStruct((batch, width // LANES, heads, scratch.columns), jnp.float32),
        ),
        scratch_shapes=[
            scratch.of_queries(),
            scratch.of_keys(qkv.dtype),
            scratch.across(qkv.dtype),
            scratch.block(LANES),
            scratch.block(LANES // min(HEAD_CHANNELS) * _FEW),
            scratch.of_queries(),
        ],
        compiler_params=_compiler_params(qkv, settings, "parallel"),
        interpret=settings.interpret,
        name="attention_forward",
    )
    return call(qkv, qkv, qkv, cos, sin, jnp.asarray(swap_matrix(LANES), qkv.dtype))


def _backward(settings: _Settings, saved: Any, gradient: jax.Array) -> Any:
    qkv, cos, sin, out, sums = saved
    batch, count, columns = qkv.shape
    scratch = _Scratch.of(settings, count)
    call = pl.pallas_call(
        functools.partial(_backward_kernel, settings=settings),
        grid=(batch, columns // 3 // LANES),
        in_specs=[
            *_inputs(qkv, cos),
            _group(count),
            _group(count),
            _sums(LANES // settings.channels, scratch.columns),
        ],
        out_specs=pl.BlockSpec(memory_space=pl.ANY),
        out_shape=jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
        scratch_shapes=[
            *(scratch.of_queries() for _ in range(3)),
            *(scratch.of_keys(qkv.dtype) for _ in range(2)),
            *(scratch.of_keys(jnp.float32) for _ in range(2)),
            scratch.across(qkv.dtype),
            scratch.block(LANES),
            scratch.block(LANES // min(HEAD_CHANNELS) * _FEW),
            pltpu.VMEM((3, count, LANES), qkv.dtype),
            pltpu.SemaphoreType.DMA((3,)),
        ],
        # The next group waits for the copies that a group has started.
        compiler_params=_compiler_params(qkv, settings, "arbitrary"),
        interpret=settings.interpret,
        name="attention_backward",
    )
    swap = jnp.asarray(swap_matrix(LANES), qkv.dtype)
    of_qkv = call(qkv, qkv, qkv, cos, sin, swap, out, gradient, sums)
    return of_qkv, jnp.zeros_like(cos), jnp.zeros_like(sin)


_fused.defvjp(_forward, _backward)


class _Scratch(NamedTuple):
    """Sizes of arrays in vector memory: rows of queries and of keys, and columns of keys."""

    queries: int
    keys: int
    columns: int

    @classmethod
    def of(cls, settings: _Settings, count: int) -> "_Scratch":
        last = _laid(settings.segments)[-1]
        return cls(
            _spare_rows(count),
            last.row + _up(last.length, _ROWS),
            last.column + _up(last.length, LANES),
        )

    def of_queries(self) -> Any:
        return pltpu.VMEM((self.queries, LANES), jnp.float32)

    def of_keys(self, dtype: Any) -> Any:
        return pltpu.VMEM((self.keys, LANES), dtype)

    def across(self, dtype: Any) -> Any:
        return pltpu.VMEM((LANES, self.columns), dtype)

    def block(self, rows: int) -> Any:
        """For a block of queries, transposed."""
        return pltpu.VMEM((rows, max(_BLOCKS) * LANES), jnp.float32)


def _compiler_params(qkv: jax.Array, settings: _Settings, groups: Any) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(
        dimension_semantics=("parallel", groups),
        vmem_limit_bytes=tpu_memory.limit(_needed(settings.segments, qkv.dtype)),
    )


def _spare_rows(count: int) -> int:
    """Rows of scratch memory for `count` tokens: the last block may exceed the segment's end."""
    return _up(count, 8) + LANES


def _group(count: int, first: int = 0) -> pl.BlockSpec:
    """All tokens of a clip, and the 128 columns of a group of heads, counted from `first`."""
    return pl.BlockSpec((None, count, LANES), lambda clip, group: (clip, 0, first + group))


def _sums(heads: int, columns: int) -> pl.BlockSpec:
    """One number for each query of a group's heads, as columns."""
    return pl.BlockSpec((None, None, heads, columns), lambda clip, group: (clip, group, 0, 0))


def _inputs(qkv: jax.Array, cos: jax.Array) -> list[pl.BlockSpec]:
    _, count, columns = qkv.shape
    each = int(cos.shape[0] > 1)
    angles = pl.BlockSpec((None, count, LANES), lambda clip, _: (clip * each, 0, 0))
    return [
        *(_group(count, part * columns // 3 // LANES) for part in range(3)),
        angles,
        angles,
        pl.BlockSpec((LANES, LANES), lambda *_: (0, 0)),
    ]


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
    """Queries or keys of a group of heads, [n, 128], rotated by the angles of their tokens."""
    return x.astype(jnp.float32) * cos + _dot(x, swap) * sin


def _rotated_back(
    gradient: jax.Array, cos: jax.Array, sin: jax.Array, swap: jax.Array
) -> jax.Array:
    """The gradient of `_rotated`, float32 [n, 128]. The swap matrix is its own transpose."""
    turned = gradient * sin
    # In two parts, so that products in bfloat16 keep nearly all bits of float32.
    high = turned.astype(swap.dtype)
    low = (turned - high.astype(jnp.float32)).astype(swap.dtype)
    return gradient * cos + _dot(high, swap) + _dot(low, swap)


def _lanes_of(head: Any, channels: int) -> jax.Array:
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    return (lane >= head * channels) & (lane < (head + 1) * channels)


def _own(head: Any, channels: int) -> Any:
    """The rows of a head, in an array with one row per channel."""
    return pl.ds(head * channels, channels)


def _loop(times: int, work: Callable[[Any], None]) -> None:
    if times == 1:
        work(0)
    else:
        jax.lax.fori_loop(0, times, lambda index, _: work(index), None)


def _each_head(channels: int, work: Callable[[Sequence[Any]], None]) -> None:
    """Calls work(heads) for the heads of a group, some at a time."""
    heads = LANES // channels
    some = min(_TOGETHER, heads)
    _loop(heads // some, lambda index: work([index * some + one for one in range(some)]))


def _each_block(segments: Sequence[_Segment], work: Callable[[_Segment, Any, Any], None]) -> None:
    """Calls work(segment, queries, columns) for every block, with its place as rows and columns."""

    def block(segment: _Segment, run: _Run, index: Any) -> None:
        at = run.at + index * run.size
        start, column = segment.start + at, segment.column + at
        if run.times > 1:  # a hint that the compiler cannot derive
            column = pl.multiple_of(column, LANES)
            start = pl.multiple_of(start, math.gcd(segment.start, LANES))
        work(segment, pl.ds(start, run.size), pl.ds(column, run.size))

    for segment in segments:
        for run in segment.runs:
            _loop(run.times, functools.partial(block, segment, run))


def _lay_across(ref: Any, segment: _Segment, columns: Any) -> None:
    """Transposes the tokens of a segment: [n, 128] to columns of [128, N]."""
    for at in range(0, segment.length, LANES):
        count = min(LANES, segment.length - at)
        some = ref[segment.start + at : segment.start + at + count].astype(jnp.float32)
        if count < LANES:
            some = jnp.concatenate([some, jnp.zeros((LANES - count, LANES), jnp.float32)])
        column = segment.column + at
        columns[:, column : column + LANES] = some.T.astype(columns.dtype)


def _forward_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    cos_ref: Any,
    sin_ref: Any,
    swap_ref: Any,
    out_ref: Any,
    sums_ref: Any,
    queries: Any,
    keys: Any,
    values: Any,
    across: Any,
    few: Any,
    rows: Any,
    *,
    settings: _Settings,
) -> None:
    """queries, rows: with extra rows. keys: by segment. values, across, few: transposed."""
    count, channels, dtype = query_ref.shape[0], settings.channels, query_ref.dtype
    segments, swap = _laid(settings.segments), swap_ref[...]
    queries[count:] = jnp.zeros((queries.shape[0] - count, LANES), jnp.float32)
    for segment in segments:
        for tokens, mine, _ in segment.chunks:
            cos, sin = cos_ref[tokens], sin_ref[tokens]
            asked = _rotated(query_ref[tokens], cos, sin, swap)
            queries[tokens] = asked * (settings.scale * _LOG2_E)
            keys[mine] = _rotated(key_ref[tokens], cos, sin, swap).astype(dtype)
        _lay_across(value_ref, segment, values)

    def block(segment: _Segment, where: Any, columns: Any) -> None:
        asked = queries[where].astype(dtype)

        def heads(some: Sequence[Any]) -> None:
            of_heads = [jnp.where(_lanes_of(head, channels), asked, 0) for head in some]
            work = [(chunk, one) for chunk in segment.chunks for one in range(len(some))]

            def scores(chunk: _Chunk, one: int) -> jax.Array:
                return _dot(keys[chunk.rows], of_heads[one], transposed=True)

            found: list[Any] = [None] * len(some)
            following = scores(*work[0])
            for (chunk, one), after in zip(work, [*work[1:], None], strict=True):
                mine = following
                if after:  # early, so that the matrix units have work
                    following = scores(*after)
                value = values[_own(some[one], channels), chunk.columns]
                found[one] = _more(found[one], mine, value)
            for head, (largest, total, out) in zip(some, found, strict=True):
                across[_own(head, channels), : where.size] = out / total
                few[_own(head, _FEW), : where.size] = jnp.broadcast_to(
                    largest + jnp.log2(total), (_FEW, where.size)
                )

        _each_head(channels, heads)
        for head in range(LANES // channels):
            sums_ref[head : head + 1, columns] = few[head * _FEW : head * _FEW + 1, : where.size]
        rows[where] = across[:, : where.size].T

    _each_block(segments, block)
    out_ref[...] = rows[:count].astype(dtype)


def _more(
    found: tuple[jax.Array, jax.Array, jax.Array] | None, scores: jax.Array, value: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Updates a softmax, in powers of 2, with more keys.

    Args:
      found: maximum score, sum of weights, weighted sum of values so far; None = no keys yet.
      scores: [keys, queries]. value: [channels, keys].
    """
    largest = jnp.max(scores, axis=0, keepdims=True)
    if found:
        largest = jnp.maximum(largest, found[0])
    weights = jnp.exp2(scores - largest)
    total, out = jnp.sum(weights, axis=0, keepdims=True), _dot(value, weights.astype(value.dtype))
    if found:
        fade = jnp.exp2(found[0] - largest)
        total, out = total + found[1] * fade, out + found[2] * fade
    return largest, total, out


def _backward_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    cos_ref: Any,
    sin_ref: Any,
    swap_ref: Any,
    out_ref: Any,
    gradient_ref: Any,
    sums_ref: Any,
    of_qkv_ref: Any,
    queries: Any,
    gradients: Any,
    of_queries: Any,
    keys: Any,
    values: Any,
    of_keys: Any,
    of_values: Any,
    keys_across: Any,
    across: Any,
    few: Any,
    leaving: Any,
    left: Any,
    *,
    settings: _Settings,
) -> None:
    """As `_forward_kernel`; `leaving`, [3, N, 128]: gradients of queries, keys, values to copy out.

    Before it contains its gradient, `of_queries` contains the result times its gradient: summed
    over the channels of a head, this is the mean gradient of the weights.
    """
    count, channels, dtype = query_ref.shape[0], settings.channels, query_ref.dtype
    segments, swap = _laid(settings.segments), swap_ref[...]
    spare = jnp.zeros((queries.shape[0] - count, LANES), jnp.float32)
    queries[count:], gradients[count:] = spare, spare
    for segment in segments:
        for tokens, mine, _ in segment.chunks:
            cos, sin = cos_ref[tokens], sin_ref[tokens]
            asked = _rotated(query_ref[tokens], cos, sin, swap)
            queries[tokens] = asked * (settings.scale * _LOG2_E)
            key = _rotated(key_ref[tokens], cos, sin, swap)
            of_queries[tokens] = key  # only until it is transposed below
            keys[mine] = key.astype(dtype)
            values[mine] = value_ref[tokens]
            gradients[tokens] = gradient_ref[tokens].astype(jnp.float32)
            of_keys[mine] = jnp.zeros_like(key)
            of_values[mine] = jnp.zeros_like(key)
        _lay_across(of_queries, segment, keys_across)
    of_queries[:count] = out_ref[...].astype(jnp.float32) * gradients[:count]

    def block(segment: _Segment, where: Any, columns: Any) -> None:
        size = where.size
        # Queries past the segment's end have no gradient.
        token = where.start + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)
        inside = token < segment.start + segment.length
        asked = queries[where].astype(dtype)
        came = jnp.where(inside, gradients[where], 0).astype(dtype)
        across[:, :size] = jnp.where(inside, of_queries[where], 0).T
        for head in range(LANES // channels):
            few[_own(head, _FEW), :size] = jnp.broadcast_to(
                sums_ref[head : head + 1, columns], (_FEW, size)
            )

        def heads(some: Sequence[Any]) -> None:
            lanes = [_lanes_of(head, channels) for head in some]
            query = [jnp.where(mine, asked, 0) for mine in lanes]
            back = [jnp.where(mine, came, 0) for mine in lanes]
            sums = [few[_own(head, _FEW), :size][:1] for head in some]
            means = [
                jnp.sum(across[_own(head, channels), :size], axis=0, keepdims=True) for head in some
            ]
            work = [(chunk, one) for chunk in segment.chunks for one in range(len(some))]

            def products(chunk: _Chunk, one: int) -> tuple[jax.Array, jax.Array]:
                scores = _dot(keys[chunk.rows], query[one], transposed=True)
                return scores, _dot(values[chunk.rows], back[one], transposed=True)

            to_queries: list[Any] = [None] * len(some)
            following = products(*work[0])
            for (chunk, one), after in zip(work, [*work[1:], None], strict=True):
                scores, of_weights = following
                if after:
                    following = products(*after)
                weights = jnp.exp2(scores - sums[one])
                of_scores = (weights * (of_weights - means[one])).astype(dtype)
                of_values[chunk.rows] += _dot(weights.astype(dtype), back[one])
                of_keys[chunk.rows] += _dot(of_scores, query[one])
                part = _dot(keys_across[_own(some[one], channels), chunk.columns], of_scores)
                to_queries[one] = part if to_queries[one] is None else to_queries[one] + part
            for head, total in zip(some, to_queries, strict=True):
                across[_own(head, channels), :size] = total

        _each_head(channels, heads)
        gradient = across[:, :size].T
        of_queries[where] = jnp.where(inside, gradient, of_queries[where])

    _each_block(segments, block)

    clip, group, groups = pl.program_id(0), pl.program_id(1), pl.num_programs(1)
    copies = [
        pltpu.make_async_copy(
            leaving.at[part],
            of_qkv_ref.at[clip, :, pl.ds((part * groups + group) * LANES, LANES)],
            left.at[part],
        )
        for part in range(3)
    ]

    @pl.when(group > 0)
    def wait_for_the_group_before() -> None:  # whose copies have the same sizes
        for copy in copies:
            copy.wait()

    for segment in segments:
        for tokens, mine, _ in segment.chunks:
            cos, sin = cos_ref[tokens], sin_ref[tokens]
            # These constant factors were left out of the products above.
            query, key = of_queries[tokens] * settings.scale, of_keys[mine] * _LN_2
            leaving[0, tokens] = _rotated_back(query, cos, sin, swap).astype(dtype)
            leaving[1, tokens] = _rotated_back(key, cos, sin, swap).astype(dtype)
            leaving[2, tokens] = of_values[mine].astype(dtype)
    for copy in copies:
        copy.start()

    @pl.when(group == groups - 1)
    def wait_for_the_last() -> None:
        for copy in copies:
            copy.wait()
