"""Families of networks: V-JEPA 2, V-JEPA 2.1 and VideoMAE, and which classes make their parts."""

from typing import Any

from echojepa_jax.models.mae import DecoderMae, EncoderMae
from echojepa_jax.models.predictor import Predictor
from echojepa_jax.models.v21 import COLOURS, EncoderV21, PredictorV21, trained_side
from echojepa_jax.models.vit import Encoder

V2, V21, VIDEOMAE = FAMILIES = "v2", "v2.1", "videomae"
"""The values of `model.family`."""

_ENCODERS: dict[str, type[Encoder]] = {V2: Encoder, V21: EncoderV21, VIDEOMAE: EncoderMae}


def make_encoder(family: str, **settings: Any) -> Encoder:
    """The encoder of a family; for `settings` see `Encoder`."""
    return _ENCODERS[family](**settings)


def make_predictor(
    family: str, *, levels: int, tubelet: int, patch: int, out_width: int, **settings: Any
) -> Predictor:
    """The predictor of a family, or VideoMAE's decoder; for `settings` see `Predictor`.

    levels: number of levels of the encoder that are read and predicted; 1 except for V-JEPA 2.1.
    tubelet, patch: of the encoder.
    out_width: width of the predicted embeddings; VideoMAE predicts the pixels of a token instead.
    """
    if family == VIDEOMAE:
        return DecoderMae(out_width=tubelet * patch**2 * COLOURS, **settings)
    if family == V21:
        side = trained_side(patch)
        return PredictorV21(out_width=out_width, levels=levels, trained_side=side, **settings)
    return Predictor(out_width=out_width, **settings)


def family_of(encoder: Encoder) -> str:
    """The family of an encoder."""
    return next(family for family, kind in _ENCODERS.items() if type(encoder) is kind)
