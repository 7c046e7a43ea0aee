"""One interface to both kinds of masks: multi-block (V-JEPA), and of a fixed ratio (VideoMAE)."""

import numpy as np

from echojepa_jax.masking import multiblock, ratio
from echojepa_jax.masking.multiblock import Grid

Mask = multiblock.MaskSpec | ratio.RatioMask


def check_mask(mask: Mask, grid: Grid) -> None:
    """Checks that a mask can have its numbers of visible and hidden tokens on a grid.

    Args:
      grid: (T', Hp, Wp).

    Raises:
      UserError: the numbers are impossible or hardly possible.
    """
    if isinstance(mask, multiblock.MaskSpec):
        multiblock.check(mask, grid)  # a RatioMask was made for its grid, and needs no check


def hidden_tokens(
    mask: Mask, grid: Grid, seed: int, spec_index: int, step: int, position: int
) -> np.ndarray:
    """All tokens of a clip that a mask hides, also those that are not used as targets.

    The arguments are those of `sample_mask`.

    Returns:
      bool, True = hidden: [Hp, Wp] if it is the same in all frames, else [T', Hp, Wp].
    """
    if isinstance(mask, multiblock.MaskSpec):
        return multiblock.blocks(mask, grid, seed, spec_index, step, position)
    _, targets = ratio.sample(mask, grid, seed, spec_index, step, position)
    hidden = np.zeros(grid, bool)
    hidden.flat[targets] = True
    return hidden


def sample_mask(
    mask: Mask, grid: Grid, seed: int, spec_index: int, step: int, position: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the mask of one clip.

    Args:
      grid: (T', Hp, Wp).
      spec_index: number of the mask specification, if a step has several.
      position: position of the clip in the global batch.

    Returns:
      Context ids int32 [context_tokens] and target ids int32 [target_tokens], both ascending.
    """
    if isinstance(mask, ratio.RatioMask):
        return ratio.sample(mask, grid, seed, spec_index, step, position)
    return multiblock.sample(mask, grid, seed, spec_index, step, position)
