"""Multi-block tube masks with static lengths: choose the context tokens and the target tokens.

A clip is a grid of T' x Hp x Wp tokens, numbered time-major: `id = (t * Hp + h) * Wp + w`. A mask
hides a few rectangles of the frame for the whole duration of the clip (tubes, temporal scale 1).
Hidden tokens are targets, the others are context (V-JEPA, Bardes et al. 2024, section 3.2; sizes
and positions as in V-JEPA 2).

The original code cuts the ids of all clips in a batch to the shortest list, so lengths change at
almost every step, and XLA would compile a new program each time. Here every clip has exactly
`context_tokens` and `target_tokens` ids: block positions that leave too few of either are drawn
again, and of too many ids a subset is kept. Masks are a pure function of (seed, specification,
step, position in the global batch), and need NumPy only.
"""

import dataclasses
import functools
import itertools
import math

import numpy as np

from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.rng import generator

Grid = tuple[int, int, int]
"""Tokens along time, height and width of a clip: T', Hp, Wp."""

# `check` demands that at least one draw in 20 is usable for every block size; then 1,000 tries fail
# with a probability of 1e-22.
MAX_TRIES = 1000
MIN_USABLE_SHARE = 0.05
CHECK_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class MaskSpec:
    """One mask specification of the recipe, such as 8 blocks of 15 % of the frame.

    blocks: number of rectangles, all of one size; they may overlap.
    scale: area of one rectangle as a share of the frame, in (0, 1).
    context_tokens, target_tokens: static numbers of ids per clip, over all T' time steps.
    aspect: range of height / width of the rectangles, drawn uniformly.
    keep: the ids to keep when a clip has too many: "random" = a uniform subset, unbiased in time;
        "raster" = the first ids, which are the earliest in time (the released weights were trained
        this way).
    """

    blocks: int
    scale: float
    context_tokens: int
    target_tokens: int
    aspect: tuple[float, float] = (0.75, 1.5)
    keep: str = "random"


def block_size(
    spec: MaskSpec, grid_hw: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int]:
    """Draw the height and width in tokens of all blocks of a step."""
    return _size(spec, grid_hw, rng.uniform(*spec.aspect))


def visible_map(
    spec: MaskSpec, grid_hw: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Draw block positions uniformly: bool [Hp, Wp], True = visible, at least one token.

    Raises:
      UserError: the blocks hide the whole frame in every try.
    """
    for _ in range(MAX_TRIES):
        visible = _draw(spec, grid_hw, size, rng)
        if visible.any():
            return visible
    raise UserError(
        f"mask {_name(spec)} hides the whole {_by(grid_hw)} frame: use a smaller 'scale' or fewer "
        "'blocks'"
    )


def sample(
    spec: MaskSpec, grid: Grid, seed: int, spec_index: int, step: int, position: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of one clip, ascending: int32 [context_tokens] and int32 [target_tokens].

    The block size depends on (seed, spec_index, step) alone, so all clips of a step have the same
    size. Block positions and the kept subset also depend on `position` in the global batch.

    Args:
      grid: (T', Hp, Wp).

    Raises:
      UserError: no draw leaves enough tokens; `check` reports this before the first step.
    """
    visible, rng = _drawn(spec, grid, seed, spec_index, step, position)
    return (
        _keep(np.flatnonzero(visible), grid, spec.context_tokens, spec.keep, rng),
        _keep(np.flatnonzero(~visible), grid, spec.target_tokens, spec.keep, rng),
    )


def blocks(
    spec: MaskSpec, grid: Grid, seed: int, spec_index: int, step: int, position: int
) -> np.ndarray:
    """Return all tokens inside the blocks of `sample`: bool [Hp, Wp], True = hidden.

    `sample` keeps a subset of them as targets. The blocks are the same in all frames of the clip.
    Arguments and errors are those of `sample`.
    """
    visible, _ = _drawn(spec, grid, seed, spec_index, step, position)
    return ~visible.reshape(grid[1:])


def _drawn(
    spec: MaskSpec, grid: Grid, seed: int, spec_index: int, step: int, position: int
) -> tuple[np.ndarray, np.random.Generator]:
    """Return bool [Hp * Wp], True = visible, and the generator that draws the kept subsets."""
    grid_hw = grid[1:]
    size = block_size(spec, grid_hw, generator(seed, "mask size", spec_index, step))
    rng = generator(seed, "mask", spec_index, step, position)
    low, high = _visible_range(spec, grid)
    for _ in range(MAX_TRIES):
        visible = _draw(spec, grid_hw, size, rng).ravel()
        if low <= np.count_nonzero(visible) <= high:
            return visible, rng
    raise UserError(
        f"mask {_name(spec)} cannot give context_tokens={spec.context_tokens} and "
        f"target_tokens={spec.target_tokens} with blocks of {_by(size)} tokens on a "
        f"{_by(grid)} grid: lower one of the two numbers"
    )


def possible_sizes(spec: MaskSpec, grid_hw: tuple[int, int]) -> dict[tuple[int, int], float]:
    """Return every block size (height, width) that the aspect range gives, with its probability.

    Height and width are step functions of the aspect ratio, so the range consists of intervals of
    constant size.
    """
    low, high = spec.aspect
    area = _area(spec, grid_hw)
    halves = np.arange(max(grid_hw)) + 0.5
    jumps = np.concatenate([halves**2 / area, area / halves**2])
    edges = np.unique([low, *jumps[(jumps > low) & (jumps < high)], high])
    sizes: dict[tuple[int, int], float] = {}
    for left, right in itertools.pairwise(edges):
        size = _size(spec, grid_hw, (left + right) / 2)
        sizes[size] = sizes.get(size, 0.0) + float(right - left) / (high - low)
    return sizes or {_size(spec, grid_hw, low): 1.0}


@functools.cache
def check(spec: MaskSpec, grid: Grid) -> None:
    """Check a mask specification before the first step, in less than a second.

    Every block size must leave enough visible and enough hidden tokens in at least one draw of 20,
    measured on 1,000 draws.

    Raises:
      UserError: a value is impossible, or a number of tokens too large; the message names the field
        and the largest usable value.
    """
    low, high = spec.aspect
    if spec.blocks < 1 or spec.context_tokens < 1 or spec.target_tokens < 1:
        raise UserError(
            f"mask {_name(spec)}: 'blocks', 'context_tokens' and 'target_tokens' must be at least "
            f"1, not {spec.blocks}, {spec.context_tokens} and {spec.target_tokens}"
        )
    if not 0 < spec.scale < 1:
        raise UserError(f"mask {_name(spec)}: 'scale' must be greater than 0 and less than 1")
    if not 0 < low <= high:
        raise UserError(f"mask {_name(spec)}: 'aspect' must be two ascending positive numbers")
    if spec.keep not in ("random", "raster"):
        raise UserError(
            f"mask {_name(spec)}: 'keep' must be 'random' or 'raster', not {spec.keep!r}"
        )
    if _area(spec, grid[1:]) < 1:
        raise UserError(
            f"mask {_name(spec)}: a block is smaller than one token on a {_by(grid[1:])} grid: "
            "use a larger 'scale' or larger clips"
        )
    _check_lengths(spec, grid)


def _check_lengths(spec: MaskSpec, grid: Grid) -> None:
    """Do the part of `check` that draws masks of every possible block size."""
    frames, grid_hw = grid[0], grid[1:]
    tokens = math.prod(grid_hw)
    fewest, most = _visible_range(spec, grid)
    needed = int(CHECK_DRAWS * MIN_USABLE_SHARE)
    usable = True
    context = targets = tokens
    for size in possible_sizes(spec, grid_hw):
        if 0 in size or math.prod(size) == tokens:
            raise UserError(
                f"mask {_name(spec)}: a block of {_by(size)} tokens is impossible on a "
                f"{_by(grid_hw)} grid: use another 'scale', a narrower 'aspect' or larger clips"
            )
        rng = generator(0, "mask check")
        visible = np.sort([_draw(spec, grid_hw, size, rng).sum() for _ in range(CHECK_DRAWS)])
        usable &= bool(np.count_nonzero((visible >= fewest) & (visible <= most)) >= needed)
        # The largest numbers that `needed` draws give while they satisfy the other number.
        with_targets, with_context = visible[visible <= most], visible[visible >= fewest]
        context = min(context, with_targets[-needed] if len(with_targets) >= needed else 0)
        targets = min(
            targets, tokens - with_context[needed - 1] if len(with_context) >= needed else 0
        )
    if not usable:
        ways = [f"context_tokens={context * frames}"] if context else []
        ways += [f"target_tokens={targets * frames}"] if targets else []
        raise UserError(
            f"mask {_name(spec)} can hardly give context_tokens={spec.context_tokens} and "
            f"target_tokens={spec.target_tokens} on a {_by(grid)} grid: "
            + (f"use at most {' or '.join(ways)}" if ways else "lower both numbers")
        )


def _area(spec: MaskSpec, grid_hw: tuple[int, int]) -> int:
    """Return the tokens that one block should cover in a frame."""
    return int(math.prod(grid_hw) * spec.scale)


def _size(spec: MaskSpec, grid_hw: tuple[int, int], aspect: float) -> tuple[int, int]:
    """Return (height, width) in tokens of a block of this height / width, cut to the frame."""
    area = _area(spec, grid_hw)
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return min(grid_hw[0], height), min(grid_hw[1], width)


def _draw(
    spec: MaskSpec, grid_hw: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Return bool [Hp, Wp], True = outside all blocks; possibly no token."""
    (rows, columns), (height, width) = grid_hw, size
    visible = np.ones((rows, columns), bool)
    tops = rng.integers(rows - height + 1, size=spec.blocks).tolist()
    lefts = rng.integers(columns - width + 1, size=spec.blocks).tolist()
    for top, left in zip(tops, lefts, strict=True):
        visible[top : top + height, left : left + width] = False
    return visible


def _visible_range(spec: MaskSpec, grid: Grid) -> tuple[int, int]:
    """Return the smallest and the largest usable number of visible tokens per frame."""
    frames, rows, columns = grid
    return -(-spec.context_tokens // frames), rows * columns - -(-spec.target_tokens // frames)


def _keep(
    cells: np.ndarray, grid: Grid, count: int, keep: str, rng: np.random.Generator
) -> np.ndarray:
    """Return `count` ids of the tubes over `cells` (positions in a frame), int32, ascending."""
    frame_starts = np.arange(grid[0], dtype=np.int32) * (grid[1] * grid[2])
    ids = (frame_starts[:, None] + cells.astype(np.int32)).ravel()
    if keep == "raster":
        return ids[:count]
    return np.sort(ids[rng.choice(ids.size, count, replace=False, shuffle=False)])


def _by(lengths: tuple[int, ...]) -> str:
    return "x".join(map(str, lengths))


def _name(spec: MaskSpec) -> str:
    return f"{spec.blocks} x {spec.scale:g}"
