"""Masks that hide a fixed share of the tokens, as in VideoMAE: tubes, or random tokens.

A tube mask hides the same places of the frame for the whole clip. A random mask hides tokens
anywhere in space and time, which is an easier task, because the same place is often visible a
moment before. Every clip hides the same number of tokens. Masks are a pure function of (seed,
specification, step, position in the global batch), and need NumPy only.
"""

import dataclasses
import math

import numpy as np

from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.rng import generator

KINDS = TUBE, RANDOM = "tube", "random"


@dataclasses.dataclass(frozen=True)
class RatioMask:
    """A mask for grids of one size.

    kind: one of `KINDS`. context_tokens, target_tokens: numbers of visible and hidden tokens.
    """

    kind: str
    context_tokens: int
    target_tokens: int


def ratio_mask(kind: str, ratio: float, grid: tuple[int, int, int]) -> RatioMask:
    """The mask that hides the share `ratio` of a frame's places (tube) or a clip's tokens (random).

    Args:
      ratio: between 0 and 1; the number of hidden tokens is rounded down.
      grid: (T', Hp, Wp).

    Raises:
      UserError: the mask hides no token, or all of them.
    """
    frames, tokens = grid[0], math.prod(grid)
    hidden = frames * int(ratio * (tokens // frames)) if kind == TUBE else int(ratio * tokens)
    if not 0 < hidden < tokens:
        raise UserError(
            f"a {kind} mask of {ratio:g} hides {hidden} of {tokens} tokens: choose a ratio that "
            "hides some tokens, but not all"
        )
    return RatioMask(kind, tokens - hidden, hidden)


def sample(
    mask: RatioMask,
    grid: tuple[int, int, int],
    seed: int,
    spec_index: int,
    step: int,
    position: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of one clip, ascending: int32 [context_tokens] and int32 [target_tokens].

    grid: (T', Hp, Wp), the grid for which the mask was made.
    """
    rng = generator(seed, "mask", spec_index, step, position)
    frames, tokens = grid[0], math.prod(grid)
    repeats = frames if mask.kind == TUBE else 1
    hidden = np.zeros(tokens // repeats, bool)
    hidden[rng.choice(hidden.size, mask.target_tokens // repeats, replace=False)] = True
    hidden = np.tile(hidden, repeats)
    ids = np.arange(tokens, dtype=np.int32)
    return ids[~hidden], ids[hidden]
