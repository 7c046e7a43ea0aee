"""Random weights."""

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from echojepa_jax.models.vit import EncoderShape
from echojepa_jax.weights.pretrained import ClipInput, PredictorShape, Pretrained, expected_shapes

TINY = EncoderShape(width=24, depth=2, heads=2, mlp_hidden=48, patch=8)
PREDICTOR = PredictorShape(width=12, depth=1, heads=1, mlp_hidden=24, mask_tokens=3)


def random_weights(
    shape: EncoderShape = TINY,
    predictor: PredictorShape | None = PREDICTOR,
    parts: tuple[str, ...] = ("encoder", "predictor"),
    clip: ClipInput | None = None,
) -> Pretrained:
    """Weights with random bits in every array."""
    rng = np.random.default_rng(0)
    params = {}
    for part in parts:
        leaves = flatten_dict(expected_shapes(shape, predictor, part))
        flat = {path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in leaves.items()}
        params[part] = unflatten_dict(flat)
    return Pretrained(shape, predictor, clip or ClipInput(frames=4, size=32), params)
