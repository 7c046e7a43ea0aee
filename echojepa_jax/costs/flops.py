"""Model FLOPs of a clip, for MFU, plans and benchmarks.

Only useful work counts, without recomputation (remat) and padding. The analysis of a compiled
program cannot be used, because it counts a loop over layers once.
"""

import dataclasses
import math
from collections.abc import Sequence

from ml_collections import ConfigDict

from echojepa_jax.masking.masks import Mask
from echojepa_jax.models.predictor import Predictor
from echojepa_jax.models.v21 import COLOURS, PredictorV21
from echojepa_jax.models.vit import Encoder
from echojepa_jax.train.config import image_mask, mask_specs
from echojepa_jax.train.state import make_networks

# A backward pass costs twice its forward pass.
FORWARD_AND_BACKWARD = 3


@dataclasses.dataclass(frozen=True)
class ClipFlops:
    """FLOPs of one clip in a training step, by part; all but the target encoder with gradients.

    target, context, predictor: of the blocks. VideoMAE has no target encoder, and its decoder is
    the predictor. outside: of the layers before and after the blocks.
    """

    target: float
    context: float
    predictor: float
    outside: float = 0.0

    @property
    def total(self) -> float:
        return self.target + self.context + self.predictor + self.outside


def transformer(tokens: int, width: int, depth: int, mlp_hidden: int) -> float:
    """A forward pass on one sequence: 2 n L D^2 (4 + 2 r) + 4 n^2 L D, with r = mlp_hidden / D."""
    products = 2 * tokens * depth * width**2 * (4 + 2 * mlp_hidden / width)
    attention = 4 * tokens**2 * depth * width
    return products + attention


def of_clip(config: ConfigDict) -> ClipFlops:
    """FLOPs of one clip of this config's training step."""
    data = config.data
    return _of_one(config, data.frames, data.size, list(mask_specs(config).values()))


def of_encoder(config: ConfigDict) -> float:
    """FLOPs of the encoder's forward pass on all tokens of a clip."""
    encoder, data = make_networks(config).encoder, config.data
    return _of(encoder, math.prod(encoder.grid(data.frames, data.size, data.size)))


def of_image(config: ConfigDict) -> ClipFlops | None:
    """FLOPs of one image of the step; None if it has no images."""
    if "images" not in config:
        return None
    return _of_one(config, 1, config.images.size, [image_mask(config)])


def of_step(config: ConfigDict) -> float:
    """FLOPs of a training step, over all its clips and images."""
    total, image = of_clip(config).total * config.optim.global_batch, of_image(config)
    return total + (image.total * config.images.global_batch if image else 0.0)


def _of_one(config: ConfigDict, frames: int, size: int, masks: Sequence[Mask]) -> ClipFlops:
    networks = make_networks(config)
    encoder, predictor = networks.encoder, networks.predictor
    everything = math.prod(encoder.grid(frames, size, size))
    everything = everything if networks.objective.has_target else 0
    pixels = (1 if frames == 1 else encoder.tubelet) * encoder.patch**2 * COLOURS
    levels = networks.objective.levels
    context, predicted, outside = 0.0, 0.0, 0.0
    for mask in masks:
        visible, hidden = mask.context_tokens, mask.target_tokens
        context += _of(encoder, visible)
        predicted += _of(predictor, visible + hidden)
        outside += _dense(visible, pixels, encoder.width)
        if levels > 1:
            outside += _dense(visible, levels * encoder.width, encoder.width)
        outside += _dense(visible, encoder.width, predictor.width)
        found = visible + hidden if isinstance(predictor, PredictorV21) else hidden
        outside += _dense(found, predictor.width, levels * predictor.out_width)
    return ClipFlops(
        target=_of(encoder, everything),
        context=FORWARD_AND_BACKWARD * context,
        predictor=FORWARD_AND_BACKWARD * predicted,
        outside=FORWARD_AND_BACKWARD * outside + _dense(everything, pixels, encoder.width),
    )


def _dense(tokens: int, inputs: int, outputs: int) -> float:
    return 2.0 * tokens * inputs * outputs


def _of(network: Encoder | Predictor, tokens: int) -> float:
    return transformer(tokens, network.width, network.depth, network.mlp_hidden)
