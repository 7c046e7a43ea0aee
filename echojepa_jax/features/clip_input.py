"""How videos are cut into clips for an encoder, as recorded in its weights."""

import logging

from echojepa_jax.data.clips.sampling import WAYS, ClipSpec
from echojepa_jax.models.family import VIDEOMAE
from echojepa_jax.models.pixels import Colour
from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights.pretrained import ClipInput, Pretrained

log = logging.getLogger(__name__)


def clip_spec(
    weights: Pretrained,
    frames: int = 0,
    size: int = 0,
    by: str = "",
    value: float = 0.0,
    prefix: str = "",
) -> ClipSpec:
    """Clips like those that the weights were trained on, except for values other than 0 and "".

    Args:
      prefix: of the values' names in messages: "--" for flags, "data." for fields.

    Raises:
      UserError: the encoder cannot take such clips.
    """
    own, shape = weights.clip, weights.shape
    if by not in ("", *WAYS):
        raise UserError(f"{prefix}sample_by is {by!r}, but it must be one of {', '.join(WAYS)}")
    if by and not value:
        raise UserError(f"{prefix}sample_by={by} needs {prefix}sample_value as well")
    frames, size = frames or own.frames, size or own.size
    for name, given, unit in (("frames", frames, shape.tubelet), ("size", size, shape.patch)):
        if given < 1 or given % unit:
            near = max(1, round(given / unit)) * unit
            raise UserError(
                f"{prefix}{name} is {given}, but it must be a multiple of {unit}, the encoder's "
                f"{'tubelet' if name == 'frames' else 'patch'}; the nearest is {near}"
            )
    if shape.family == VIDEOMAE and (frames, size) != (own.frames, own.size):
        log.warning(
            "VideoMAE's positions belong to clips of %d frames of %d px: with %d frames of %d px "
            "the encoder gets positions that it was not trained on",
            *(own.frames, own.size, frames, size),
        )
    if value < 0:
        raise UserError(f"{prefix}sample_value is {value:g}, but it must be positive")
    return ClipSpec(frames, size, by or own.sample_by, value or own.sample_value)


def clip_input(clip: ClipSpec, mean: Colour, std: Colour) -> ClipInput:
    """What weights record about the clips that they were trained on."""
    return ClipInput(clip.frames, clip.size, clip.by, float(clip.value), mean, std)
