"""Model FLOPs of a clip: the one way they are counted here, for MFU, plans and benchmarks.

Useful work only: what is computed again (remat) and what is padded does not count. A compiled
program's own analysis would count a loop over layers once.
"""

import dataclasses
import math

from ml_collections import ConfigDict

from echojepa_jax.models.predictor import Predictor
from echojepa_jax.models.vit import Encoder
from echojepa_jax.train.state import make_networks

# A backward pass costs twice its forward pass.
FORWARD_AND_BACKWARD = 3


@dataclasses.dataclass(frozen=True)
class ClipFlops:
    """FLOPs of one clip in a training step, by part; context and predictor with gradients."""

    target: float
    context: float
    predictor: float

    @property
    def total(self) -> float:
        return self.target + self.context + self.predictor


def transformer(tokens: int, width: int, depth: int, mlp_hidden: int) -> float:
    """A forward pass on one sequence: 2 n L D^2 (4 + 2 r) + 4 n^2 L D, with r = mlp_hidden / D."""
    products = 2 * tokens * depth * width**2 * (4 + 2 * mlp_hidden / width)
    attention = 4 * tokens**2 * depth * width
    return products + attention


def of_clip(config: ConfigDict) -> ClipFlops:
    """FLOPs of one clip of this config's training step."""
    data = config.data
    return _of_one(config, data.frames, data.size, list(config.masks.values()))


def of_image(config: ConfigDict) -> ClipFlops | None:
    """FLOPs of one image of the step; None if it has no images."""
    if "images" not in config:
        return None
    return _of_one(config, 1, config.images.size, [config.images.mask])


def of_step(config: ConfigDict) -> float:
    """FLOPs of a training step, over all its clips and images."""
    total, image = of_clip(config).total * config.optim.global_batch, of_image(config)
    return total + (image.total * config.images.global_batch if image else 0.0)


def _of_one(config: ConfigDict, frames: int, size: int, masks: list[ConfigDict]) -> ClipFlops:
    networks = make_networks(config)
    encoder, predictor = networks.encoder, networks.predictor
    context, predicted = 0.0, 0.0
    for mask in masks:
        context += _of(encoder, mask.context_tokens)
        predicted += _of(predictor, mask.context_tokens + mask.target_tokens)
    return ClipFlops(
        target=_of(encoder, math.prod(encoder.grid(frames, size, size))),
        context=FORWARD_AND_BACKWARD * context,
        predictor=FORWARD_AND_BACKWARD * predicted,
    )


def _of(network: Encoder | Predictor, tokens: int) -> float:
    return transformer(tokens, network.width, network.depth, network.mlp_hidden)
