"""VideoMAE's masks: as many tokens as it hides, in tubes or anywhere."""

import numpy as np
import pytest

from echojepa_jax.masking.ratio import RANDOM, TUBE, ratio_mask, sample
from echojepa_jax.utils.errors import UserError

GRID = (8, 14, 14)


@pytest.mark.parametrize(
    ("kind", "grid", "visible", "hidden"),
    [
        (TUBE, GRID, 160, 1408),
        (RANDOM, GRID, 157, 1411),
        (TUBE, (8, 21, 21), 360, 3168),
        (TUBE, (8, 8, 8), 56, 456),
    ],
)
def test_a_mask_hides_nine_in_ten_places_or_tokens(kind, grid, visible, hidden):
    mask = ratio_mask(kind, 0.9, grid)
    assert (mask.context_tokens, mask.target_tokens) == (visible, hidden)
    seen, unseen = sample(mask, grid, 0, 0, 3, 5)
    assert (seen.dtype, len(seen), len(unseen)) == (np.int32, visible, hidden)
    assert (np.diff(seen) > 0).all()
    assert (np.diff(unseen) > 0).all()
    both = np.sort(np.concatenate([seen, unseen]))
    np.testing.assert_array_equal(both, np.arange(np.prod(grid)))


def test_tubes_hide_the_same_places_of_every_frame_and_random_masks_do_not():
    def places(kind):
        seen, _ = sample(ratio_mask(kind, 0.9, GRID), GRID, 0, 0, 0, 0)
        return [set(seen[seen // 196 == t] % 196) for t in range(8)]

    assert all(frame == places(TUBE)[0] for frame in places(TUBE))
    assert any(frame != places(RANDOM)[0] for frame in places(RANDOM))


@pytest.mark.parametrize("kind", [TUBE, RANDOM])
def test_masks_are_uniform_and_depend_on_seed_step_and_position_alone(kind):
    mask = ratio_mask(kind, 0.9, GRID)
    first = sample(mask, GRID, 0, 0, 1, 2)
    np.testing.assert_array_equal(first[0], sample(mask, GRID, 0, 0, 1, 2)[0])
    for other in ((1, 0, 1, 2), (0, 1, 1, 2), (0, 0, 2, 2), (0, 0, 1, 3)):
        assert (first[0] != sample(mask, GRID, *other)[0]).any()
    draws = 2000
    hidden = np.zeros(np.prod(GRID))
    for position in range(draws):
        hidden[sample(mask, GRID, 0, 0, 0, position)[1]] += 1
    share = mask.target_tokens / hidden.size
    deviations = (hidden / draws - share) / np.sqrt(share * (1 - share) / draws)
    assert np.abs(deviations).max() < 5


@pytest.mark.parametrize(("kind", "ratio"), [(TUBE, 0.001), (RANDOM, 0.0001), (TUBE, 1.0)])
def test_a_mask_that_hides_nothing_or_all_is_an_error(kind, ratio):
    with pytest.raises(UserError, match=r"hides .* of 1568 tokens"):
        ratio_mask(kind, ratio, GRID)
