"""The model card of exported weights: what they are, their input, how to load them."""

import importlib.resources
import json

import jinja2

from echojepa_jax.models.family import VIDEOMAE
from echojepa_jax.utils.trees import count_parameters
from echojepa_jax.weights.pretrained import Pretrained


def model_card(weights: Pretrained, form: str) -> str:
    """The card in Markdown.

    Args:
      form: how the weights are stored: a format of `write.py`, or "stablehlo".
    """
    text = importlib.resources.files(__package__).joinpath("model_card.md.jinja").read_text("utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    parts = [
        (part, count_parameters(weights.params[part]), mark)
        for part, mark in weights.fingerprints().items()
    ]
    return environment.from_string(text).render(
        form=form,
        mae=weights.shape.family == VIDEOMAE,
        shape=weights.shape,
        predictor=weights.predictor_shape,
        clip=weights.clip,
        parts=parts,
        origin=weights.origin,
        tokens=(weights.clip.frames // weights.shape.tubelet)
        * (weights.clip.size // weights.shape.patch) ** 2,
        json=json.dumps,
    )
