"""Model FLOPs of a clip: the one way they are counted here, for MFU, plans and benchmarks.

Useful work only: what is computed again (remat) and what is padded does not count. A compiled
program's own analysis would count a loop over layers once.
"""

import dataclasses

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
    networks = make_networks(config)
    encoder, predictor = networks.encoder, networks.predictor
    data = config.data
    frames, height, width = encoder.grid(data.frames, data.size, data.size)
    context, predicted = 0.0, 0.0
    for mask in config.masks.values():
        context += _of(encoder, mask.context_tokens)
        predicted += _of(predictor, mask.context_tokens + mask.target_tokens)
    return ClipFlops(
        target=_of(encoder, frames * height * width),
        context=FORWARD_AND_BACKWARD * context,
        predictor=FORWARD_AND_BACKWARD * predicted,
    )


def _of(network: Encoder | Predictor, tokens: int) -> float:
    return transformer(tokens, network.width, network.depth, network.mlp_hidden)
