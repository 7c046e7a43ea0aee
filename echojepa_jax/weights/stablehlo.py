"""Exports the encoder's forward pass as a StableHLO program, for serving without this package.

The weights are a separate file and the program's first argument: the programs of all number formats
share them and stay small.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from echojepa_jax.models.pixels import normalise
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import write_json
from echojepa_jax.weights.card import model_card
from echojepa_jax.weights.pretrained import Pretrained
from echojepa_jax.weights.read import CARD, CONFIG, config_of
from echojepa_jax.weights.write import new_folder, save_tensors

PLATFORMS = ("cpu", "cuda", "tpu")
NUMBERS = ("float32", "bfloat16")


def write_stablehlo(weights: Pretrained, out: Path) -> None:
    """Makes the folder `out` with `encoder_float32.stablehlo`, `encoder_bfloat16.stablehlo`, the
    weights as safetensors, and a card that shows how to call them.

    A program takes the weights by name and uint8 clips [B, T, H, W, 3] for any B, and returns
    tokens, float32 [B, N, D]. It runs on CPU, CUDA and TPU.

    Raises:
      UserError: there is no encoder, or `out` cannot be made.
    """
    if "encoder" not in weights.params:
        raise UserError("--format=stablehlo exports one encoder's forward pass: use --part=target")
    weights = weights.only("encoder")
    flat = flatten_dict(weights.params["encoder"], sep=".")
    with new_folder(out) as folder:
        for number in NUMBERS:
            (folder / f"encoder_{number}.stablehlo").write_bytes(_program(weights, number))
        save_tensors(flat, folder)
        write_json(folder / CONFIG, config_of(weights) | {"format": "echojepa_jax StableHLO"})
        (folder / CARD).write_text(model_card(weights, "stablehlo"))


def _program(weights: Pretrained, number: str) -> bytearray:
    encoder, clip = weights.make_encoder(jnp.dtype(number)), weights.clip

    def forward(named: dict[str, jax.Array], clips: jax.Array) -> jax.Array:
        params = unflatten_dict(named, sep=".")
        tokens: Any = encoder.apply({"params": params}, normalise(clips, clip.mean, clip.std))
        return tokens

    shapes = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype)
        for name, value in flatten_dict(weights.params["encoder"], sep=".").items()
    }
    (batch,) = jax.export.symbolic_shape("b")
    clips = jax.ShapeDtypeStruct((batch, clip.frames, clip.size, clip.size, 3), jnp.uint8)
    exported = jax.export.export(jax.jit(forward), platforms=PLATFORMS)(shapes, clips)
    return exported.serialize()
