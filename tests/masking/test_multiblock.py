"""Masks against the statistics of the original generator, and the rules of static lengths.

`mask_statistics.npz` holds, per crop size and specification, 10,000 single clips of the original
(each with its own block size) and 300 batches of 128 that share one. Samples are compared by their
p-value: seeds are fixed, and a value below 1e-3 is a difference. That the tests see the differences
that matter is tested too.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from echojepa_jax.masking import multiblock
from echojepa_jax.masking.multiblock import MaskSpec
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.rng import generator
from tests.makers.recordings import FOLDER

FIXTURE = np.load(FOLDER / "mask_statistics.npz")
SAME = 1e-3
DRAWS = 20_000
GRIDS = {"224px": (8, 14, 14), "336px": (8, 21, 21)}
SPECS = {
    "224px_8x0.15": MaskSpec(8, 0.15, 37 * 8, 84 * 8),
    "224px_2x0.7": MaskSpec(2, 0.7, 10 * 8, 137 * 8),
    "336px_8x0.15": MaskSpec(8, 0.15, 92 * 8, 187 * 8),
    "336px_2x0.7": MaskSpec(2, 0.7, 21 * 8, 308 * 8),
}
EVERY_SPEC = pytest.mark.parametrize("key", SPECS)


def grid_of(key: str) -> tuple[int, int, int]:
    return GRIDS[key.split("_")[0]]


def single_clips(spec: MaskSpec, grid: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Block sizes [DRAWS, 2] and visibility maps [DRAWS, Hp, Wp], one size per clip."""
    sizes = np.empty((DRAWS, 2), int)
    maps = np.empty((DRAWS, *grid[1:]), bool)
    for i in range(DRAWS):
        rng = generator(0, "test", i)
        sizes[i] = multiblock.block_size(spec, grid[1:], rng)
        maps[i] = multiblock.visible_map(spec, grid[1:], tuple(sizes[i]), rng)
    return sizes, maps


def p_of_sizes(sizes: np.ndarray, key: str) -> float:
    """Chi-square of homogeneity between our block sizes and the original's."""
    found, counts = np.unique(sizes, axis=0, return_counts=True)
    ours = dict(zip(map(tuple, found.tolist()), counts, strict=True))
    theirs = {(h, w): n for h, w, n in FIXTURE[f"{key}/block_hw_counts"].tolist()}
    table = [[counts.get(size, 0) for size in sorted(ours | theirs)] for counts in (ours, theirs)]
    return stats.chi2_contingency(table).pvalue


def p_of_counts(maps: np.ndarray, key: str) -> float:
    """Kolmogorov-Smirnov on the visible tokens per frame (conservative: counts have ties)."""
    theirs = FIXTURE[f"{key}/visible_per_frame"]
    return stats.ks_2samp(maps.sum((1, 2)), theirs, method="asymp").pvalue


def p_of_map(maps: np.ndarray, key: str) -> float:
    """The largest z-score of a position's probability of being visible, Bonferroni-corrected."""
    theirs, n = FIXTURE[f"{key}/visible_probability_map"].astype(float), 10_000
    ours = maps.mean(0)
    pooled = (theirs * n + ours * DRAWS) / (n + DRAWS)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / DRAWS))
    z = np.divide(np.abs(ours - theirs), error, out=np.zeros_like(error), where=error > 0)
    return min(1.0, 2 * stats.norm.sf(z.max()) * z.size)


@EVERY_SPEC
def test_single_clips_match_the_original(key):
    sizes, maps = single_clips(SPECS[key], grid_of(key))
    assert p_of_sizes(sizes, key) > SAME
    assert p_of_counts(maps, key) > SAME
    assert p_of_map(maps, key) > SAME


@pytest.mark.parametrize("key", ["224px_8x0.15", "224px_2x0.7"])
@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_scale_five_percent_off_is_seen(key, factor):
    wrong = dataclasses.replace(SPECS[key], scale=SPECS[key].scale * factor)
    sizes, maps = single_clips(wrong, grid_of(key))
    assert p_of_sizes(sizes, key) < SAME
    assert p_of_counts(maps, key) < SAME
    assert p_of_map(maps, key) < SAME


@EVERY_SPEC
@pytest.mark.parametrize("aspect", [(0.75, 1.35), (2 / 3, 1.5), (0.7125, 1.425)])
def test_a_wrong_aspect_range_is_seen(key, aspect):
    wrong = dataclasses.replace(SPECS[key], aspect=aspect)
    rng = generator(0, "aspect")
    sizes = [multiblock.block_size(wrong, grid_of(key)[1:], rng) for _ in range(DRAWS)]
    assert p_of_sizes(np.array(sizes), key) < SAME


@EVERY_SPEC
def test_possible_sizes_are_those_of_the_original(key):
    expected = multiblock.possible_sizes(SPECS[key], grid_of(key)[1:])
    seen = {(h, w): n for h, w, n in FIXTURE[f"{key}/block_hw_counts"].tolist()}
    assert set(seen) == set(expected)
    assert sum(expected.values()) == pytest.approx(1)
    probabilities = np.array([expected[size] for size in seen])
    assert stats.chisquare(list(seen.values()), probabilities * 10_000).pvalue > SAME


def truncated_lengths(spec, grid, *, shared_size: bool) -> np.ndarray:
    """Context and targets per frame, [300, 2], of batches of 128 cut to their shortest clip."""
    lengths = []
    for step in range(300):
        rng = generator(1, "batch", step)
        size = multiblock.block_size(spec, grid[1:], rng)
        visible = []
        for _ in range(128):
            if not shared_size:
                size = multiblock.block_size(spec, grid[1:], rng)
            visible.append(multiblock.visible_map(spec, grid[1:], size, rng).sum())
        lengths.append((min(visible), grid[1] * grid[2] - max(visible)))
    return np.array(lengths)


@EVERY_SPEC
def test_batches_of_128_truncate_as_the_original_did(key):
    theirs = FIXTURE[f"{key}/batch128_kept_per_frame_context_target"]
    ours = truncated_lengths(SPECS[key], grid_of(key), shared_size=True)
    for column in (0, 1):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > SAME


def test_a_block_size_per_clip_is_seen_in_truncated_lengths():
    key = "224px_2x0.7"
    theirs = FIXTURE[f"{key}/batch128_kept_per_frame_context_target"]
    wrong = truncated_lengths(SPECS[key], grid_of(key), shared_size=False)
    assert stats.ks_2samp(wrong[:, 0], theirs[:, 0]).pvalue < SAME


@EVERY_SPEC
@pytest.mark.parametrize("keep", ["random", "raster"])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), step=st.integers(0, 10**6), position=st.integers(0, 4095))
def test_samples_have_static_lengths_and_disjoint_ids(key, keep, seed, step, position):
    spec, grid = dataclasses.replace(SPECS[key], keep=keep), grid_of(key)
    context, targets = multiblock.sample(spec, grid, seed, 1, step, position)
    assert context.shape == (spec.context_tokens,)
    assert targets.shape == (spec.target_tokens,)
    for ids in (context, targets):
        assert ids.dtype == np.int32
        assert (np.diff(ids) > 0).all()
        assert ids[0] >= 0
        assert ids[-1] < np.prod(grid)
    # Tubes: where a clip has a context token, it has no target at any time.
    cells = grid[1] * grid[2]
    assert not set(context % cells) & set(targets % cells)
    blocks = multiblock.blocks(spec, grid, seed, 1, step, position).ravel()
    assert blocks[targets % cells].all()
    assert not blocks[context % cells].any()
    again = multiblock.sample(spec, grid, seed, 1, step, position)
    assert (again[0] == context).all()
    assert (again[1] == targets).all()


def first_map(spec: MaskSpec, grid: tuple[int, int, int], seed: int, position: int) -> np.ndarray:
    """The first visibility map that `sample` draws for a clip of step 0."""
    size = multiblock.block_size(spec, grid[1:], generator(seed, "mask size", 0, 0))
    return multiblock.visible_map(spec, grid[1:], size, generator(seed, "mask", 0, 0, position))


@pytest.mark.parametrize("key", ["224px_8x0.15", "224px_2x0.7"])
def test_raster_keeps_the_first_ids_and_random_all_times(key):
    grid, cells = grid_of(key), 14 * 14
    spec = dataclasses.replace(SPECS[key], context_tokens=8 * 8, target_tokens=50 * 8)
    times = np.zeros(8)
    for position in range(100):
        visible = first_map(spec, grid, 3, position)
        if visible.sum() < 8:
            continue  # this one is drawn again
        tubes = (np.arange(8)[:, None] * cells + np.flatnonzero(visible)).ravel()
        raster = dataclasses.replace(spec, keep="raster")
        assert (multiblock.sample(raster, grid, 3, 0, 0, position)[0] == tubes[: 8 * 8]).all()
        context, _ = multiblock.sample(spec, grid, 3, 0, 0, position)
        assert set(context) <= set(tubes)
        times += np.bincount(context // cells, minlength=8)
    assert times.sum() > 90 * 64
    assert stats.chisquare(times).pvalue > SAME


def hull(ids: np.ndarray, cells: int, columns: int) -> tuple[int, int]:
    """Height and width of the rectangle around the masked positions of one block."""
    rows, cols = np.divmod(np.unique(ids % cells), columns)
    return int(np.ptp(rows) + 1), int(np.ptp(cols) + 1)


def test_one_step_shares_a_block_size_and_steps_differ():
    grid, cells = (8, 14, 14), 14 * 14
    spec = MaskSpec(1, 0.3, 8, 8 * 48)

    def shape(step: int, position: int) -> tuple[int, int]:
        return hull(multiblock.sample(spec, grid, 0, 0, step, position)[1], cells, 14)

    shapes = [{shape(step, position) for position in range(6)} for step in range(30)]
    assert all(len(shape) == 1 for shape in shapes)
    assert len(set.union(*shapes)) > 3


def test_specifications_steps_positions_and_seeds_draw_independently():
    spec, grid = SPECS["224px_8x0.15"], (8, 14, 14)
    base = (0, 0, 0, 0)
    others = [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    context = multiblock.sample(spec, grid, *base)[0]
    for other in others:
        assert not np.array_equal(context, multiblock.sample(spec, grid, *other)[0])


@EVERY_SPEC
def test_recipe_passes_the_check(key):
    multiblock.check(SPECS[key], grid_of(key))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"blocks": 0}, "blocks"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"target_tokens": -8}, "target_tokens"),
        ({"scale": 0.0}, "scale"),
        ({"scale": 1.0}, "scale"),
        ({"scale": 0.004}, "scale"),
        ({"scale": 0.999}, "scale"),
        ({"aspect": (1.5, 0.75)}, "aspect"),
        ({"keep": "first"}, "keep"),
        ({"context_tokens": 196 * 8}, "context_tokens"),
        ({"target_tokens": 196 * 8}, "target_tokens"),
        ({"context_tokens": 120 * 8, "target_tokens": 120 * 8}, "lower|at most"),
    ],
)
def test_impossible_values_are_named(change, field):
    spec = dataclasses.replace(SPECS["224px_8x0.15"], **change)
    with pytest.raises(UserError, match=field):
        multiblock.check(spec, (8, 14, 14))


@pytest.mark.parametrize(
    ("field", "other"), [("context_tokens", 84 * 8), ("target_tokens", 37 * 8)]
)
def test_the_suggested_value_works(field, other):
    spec = dataclasses.replace(SPECS["224px_8x0.15"], **{field: 1400})
    with pytest.raises(UserError, match=rf"at most {field}=\d+") as caught:
        multiblock.check(spec, (8, 14, 14))
    suggested = int(str(caught.value).rsplit("=", 1)[1].rstrip("."))
    assert suggested > 400
    usable = dataclasses.replace(spec, **{field: suggested})
    multiblock.check(usable, (8, 14, 14))
    for step in range(50):
        context, _ = multiblock.sample(usable, (8, 14, 14), 0, 0, step, 0)
        assert context.size == usable.context_tokens
    with pytest.raises(UserError, match=field):
        multiblock.check(dataclasses.replace(spec, **{field: suggested + 8}), (8, 14, 14))


def test_hopeless_draws_end_with_a_sentence():
    spec = dataclasses.replace(SPECS["224px_8x0.15"], context_tokens=196 * 8)
    with pytest.raises(UserError, match=r"8 x 0\.15.*context_tokens=1568"):
        multiblock.sample(spec, (8, 14, 14), 0, 0, 0, 0)
    with pytest.raises(UserError, match="scale"):
        multiblock.visible_map(spec, (4, 4), (4, 4), generator(0))
