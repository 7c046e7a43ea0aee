"""Families of networks, V-JEPA 2 and V-JEPA 2.1: which classes make their encoder and predictor."""

from typing import Any

from echojepa_jax.models.predictor import Predictor
from echojepa_jax.models.v21 import EncoderV21, PredictorV21, trained_side
from echojepa_jax.models.vit import Encoder

V2, V21 = FAMILIES = "v2", "v2.1"
"""As `model.family` names them."""


def make_encoder(family: str, **settings: Any) -> Encoder:
    """The encoder of a family; for `settings` see `Encoder`."""
    return (EncoderV21 if family == V21 else Encoder)(**settings)


def make_predictor(family: str, *, levels: int, patch: int, **settings: Any) -> Predictor:
    """The predictor of a family; for `settings` see `Predictor`.

    levels: of the encoder that come in and are predicted, 1 for V-JEPA 2. patch: of the encoder.
    """
    if family == V21:
        return PredictorV21(levels=levels, trained_side=trained_side(patch), **settings)
    return Predictor(**settings)


def family_of(encoder: Encoder) -> str:
    """The family that an encoder is of."""
    return V21 if isinstance(encoder, EncoderV21) else V2
