"""Weights in memory: parameters, the architecture that they belong to, and their input."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from echojepa_jax.models.family import VIDEOMAE, make_encoder, make_predictor
from echojepa_jax.models.pixels import IMAGENET_MEAN, IMAGENET_STD, Colour
from echojepa_jax.models.predictor import Predictor
from echojepa_jax.models.vit import Encoder, EncoderShape
from echojepa_jax.ops.attention import fastest
from echojepa_jax.weights import videomae, vjepa2
from echojepa_jax.weights.vjepa2 import Row, Tree

PARTS = ("encoder", "context_encoder", "predictor")
"""Possible parts; `encoder` is the one to use (the target encoder, if there are two)."""


@dataclasses.dataclass(frozen=True)
class PredictorShape:
    """Sizes of a predictor, see `models.predictor.Predictor`, or of VideoMAE's decoder.

    levels: number of levels of the encoder that the predictor reads and predicts.
    out_width: width of a predicted level; 0 = that of the encoder. In a distilled model it is the
      width of the teacher's encoder. VideoMAE's decoder predicts the pixels of a token.
    """

    width: int
    depth: int
    heads: int
    mlp_hidden: int
    mask_tokens: int
    levels: int = 1
    out_width: int = 0


@dataclasses.dataclass(frozen=True)
class ClipInput:
    """The clips that an encoder was trained on; other lengths and sizes work as well.

    frames: of a clip. size: its height and width in pixels. sample_by, sample_value: the spacing of
    its frames, see data/clips/sampling.py. mean, std: of pixels in 0..1, per colour.
    """

    frames: int = 16
    size: int = 224
    sample_by: str = "fps"
    sample_value: float = 8.0
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Parameters of some of `PARTS` as trees of float32 NumPy arrays.

    origin: where they come from, for the model card.
    """

    shape: EncoderShape
    predictor_shape: PredictorShape | None
    clip: ClipInput
    params: Mapping[str, Tree]
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def make_encoder(self, dtype: Any = jnp.float32, **settings: Any) -> Encoder:
        """The network of the encoder or context encoder; for `settings` see `Encoder`."""
        return make_encoder(**dataclasses.asdict(self.shape), dtype=dtype, **settings)

    def make_fast_encoder(self, dtype: str) -> Encoder:
        """The encoder in type `dtype`, with the fastest attention for this process's devices."""
        attention = fastest(dtype, self.shape.width // self.shape.heads)
        return self.make_encoder(jnp.dtype(dtype), attention=attention)

    def make_predictor(self, dtype: Any = jnp.float32) -> Predictor:
        """The network of the predictor."""
        assert self.predictor_shape is not None, "there is a predictor"
        sizes = dataclasses.asdict(self.predictor_shape)
        sizes["out_width"] = sizes["out_width"] or self.shape.width
        shape = self.shape
        return make_predictor(
            shape.family, tubelet=shape.tubelet, patch=shape.patch, dtype=dtype, **sizes
        )

    def only(self, *parts: str) -> "Pretrained":
        """A copy with these parts only; parts that are missing are ignored."""
        params = {name: self.params[name] for name in parts if name in self.params}
        return dataclasses.replace(self, params=params)

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of every part."""
        return {part: fingerprint(tree) for part, tree in self.params.items()}


def rows_of(shape: EncoderShape, predictor: PredictorShape | None, part: str) -> tuple[Row, ...]:
    """The table of a part's names in PyTorch."""
    if shape.family == VIDEOMAE:
        return videomae.rows_of(part, shape.tubelet, shape.patch)
    levels = predictor.levels if predictor else 1
    return vjepa2.rows_of(part, shape.tubelet, shape.patch, shape.family, levels)


def expected_shapes(shape: EncoderShape, predictor: PredictorShape | None, part: str) -> Tree:
    """The parameter tree of a part, with shapes as leaves."""
    weights = Pretrained(shape, predictor, ClipInput(), {})
    key, ids = jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
    if part == "predictor":
        levels = predictor.levels if predictor else 1
        context = jnp.zeros((1, 1, levels * shape.width))
        init, inputs = weights.make_predictor().init, (context, [ids], [ids])
        return jax.eval_shape(lambda: init(key, *inputs, (1, 1, 1)))["params"]
    clips = jnp.zeros((1, shape.tubelet, shape.patch, shape.patch, 3))
    return jax.eval_shape(lambda: weights.make_encoder().init(key, clips, ids))["params"]


def fingerprint(tree: Tree) -> str:
    """SHA-256 over names, shapes and bits of a parameter tree; it identifies the weights."""
    digest = hashlib.sha256()
    for path, value in sorted(flatten_dict(tree).items()):
        array = np.ascontiguousarray(value)
        digest.update(f"{'/'.join(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
