"""Masks of a fixed share of the tokens, as VideoMAE has them: tubes, or tokens at random.

A tube mask hides the same places of the frame for the whole clip. A random one hides tokens
anywhere in space and time, which is the easier task: what is hidden now was often visible a moment
before. Every clip hides the same number of tokens. Everything is a pure function of (seed,
specification, step, position in the global batch), and only NumPy is needed.
"""

import dataclasses
import math

import numpy as np

from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.rng import generator

KINDS = TUBE, RANDOM = "tube", "random"


@dataclasses.dataclass(frozen=True)
class RatioMask:
    """A mask of one kind on grids of one size.

    kind: one of `KINDS`. context_tokens, target_tokens: visible and hidden tokens of a clip.
    """

    kind: str
    context_tokens: int
    target_tokens: int


def ratio_mask(kind: str, ratio: float, grid: tuple[int, int, int]) -> RatioMask:
    """The mask that hides `ratio` of a frame's places (tube) or of a clip's tokens (random).

    Args:
      ratio: between 0 and 1; what it hides is rounded down.
      grid: (T', Hp, Wp).

    Raises:
      UserError: it hides nothing, or leaves nothing.
    """
    frames, tokens = grid[0], math.prod(grid)
    hidden = frames * int(ratio * (tokens // frames)) if kind == TUBE else int(ratio * tokens)
    if not 0 < hidden < tokens:
        raise UserError(
            f"a {kind} mask of {ratio:g} hides {hidden} of {tokens} tokens: choose a ratio that "
            "hides some and leaves some"
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
    """The ids of one clip, ascending: int32 [context_tokens] and int32 [target_tokens].

    grid is (T', Hp, Wp), the one that the mask was made for.
    """
    rng = generator(seed, "mask", spec_index, step, position)
    frames, tokens = grid[0], math.prod(grid)
    repeats = frames if mask.kind == TUBE else 1
    hidden = np.zeros(tokens // repeats, bool)
    hidden[rng.choice(hidden.size, mask.target_tokens // repeats, replace=False)] = True
    hidden = np.tile(hidden, repeats)
    ids = np.arange(tokens, dtype=np.int32)
    return ids[~hidden], ids[hidden]
