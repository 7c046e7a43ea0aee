"""Normalises pixels for an encoder; no other module does."""

import jax
import jax.numpy as jnp

Colour = tuple[float, float, float]

# Those of ImageNet, with which the weights of V-JEPA 2 were trained.
IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)


def normalise(clips: jax.Array, mean: Colour, std: Colour) -> jax.Array:
    """uint8 [..., 3] -> float32 [..., 3]: (pixels in 0..1 - mean) / std.

    Grey clips [..., 1] become three colours.

    Raises:
      TypeError: clips are not uint8, so they may have been normalised before (F02).
    """
    if clips.dtype != jnp.uint8:
        raise TypeError(f"clips must be uint8 pixels, not {clips.dtype}: they are normalised here")
    return (clips.astype(jnp.float32) / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)
