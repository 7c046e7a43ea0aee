"""A mask of either kind: multi-block for embeddings (V-JEPA), or of a fixed ratio (VideoMAE)."""

import numpy as np

from echojepa_jax.masking import multiblock, ratio

Mask = multiblock.MaskSpec | ratio.RatioMask


def check_mask(mask: Mask, grid: tuple[int, int, int]) -> None:
    """Raises UserError if the mask can hardly leave and hide as many tokens as it says.

    Args:
      grid: (T', Hp, Wp).
    """
    if isinstance(mask, multiblock.MaskSpec):
        multiblock.check(mask, grid)  # the other kind was made for its grid


def hidden_tokens(
    mask: Mask, grid: tuple[int, int, int], seed: int, spec_index: int, step: int, position: int
) -> np.ndarray:
    """All that a mask hides of a clip, kept as a target or not.

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
    mask: Mask, grid: tuple[int, int, int], seed: int, spec_index: int, step: int, position: int
) -> tuple[np.ndarray, np.ndarray]:
    """The visible and the hidden ids of one clip, int32, ascending, as many as the mask says.

    Args:
      grid: (T', Hp, Wp). spec_index: number of the mask, if a step has several.
      position: of the clip in the global batch.
    """
    if isinstance(mask, ratio.RatioMask):
        return ratio.sample(mask, grid, seed, spec_index, step, position)
    return multiblock.sample(mask, grid, seed, spec_index, step, position)
