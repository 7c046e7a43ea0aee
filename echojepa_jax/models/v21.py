"""Encoder and predictor of V-JEPA 2.1: where they differ from V-JEPA 2.

Several layers of the encoder (levels) are targets, each after its own norm. Images have their own
patch embedding, and a learned vector is added that marks tokens of images or of videos. The rotary
embedding is a true rotation, and positions are scaled to the same range for frames of all sizes.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from echojepa_jax.models.blocks import WEIGHT_INIT, Dense, LayerNorm, stack_of
from echojepa_jax.models.predictor import Predictor, cut_at
from echojepa_jax.models.vit import Encoder, cut
from echojepa_jax.ops.gelu import gelu
from echojepa_jax.ops.rotary import Grid, scaled_rotary_angles
from echojepa_jax.parallel.mesh import gathered

LEVELS = 4
MODALITIES = ("video", "image")
COLOURS = 3
# The third level of the original's giant is not the evenly spaced one, which would be 35.
_UNEVEN = {48: (11, 23, 37, 47)}


def levels_of(depth: int) -> tuple[int, ...]:
    """The layers, 0-based, whose results are the levels of an encoder of this depth."""
    if depth in _UNEVEN:
        return _UNEVEN[depth]
    return tuple(-(-depth * (i + 1) // LEVELS) - 1 for i in range(LEVELS))


def trained_side(patch: int) -> int:
    """Tokens along a side of the frames that positions are scaled to (256 or 252 pixels)."""
    return 18 if patch == 14 else 16


class EncoderV21(Encoder):
    """The transformer of `Encoder` with one norm per level, and images as a second input.

    A clip of a single frame is an image.
    """

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """Tokens along time, height and width of such clips; an image has one along time."""
        times = 1 if frames == 1 else frames // self.tubelet
        return times, height // self.patch, width // self.patch

    @nn.compact
    def __call__(
        self,
        clips: jax.Array,
        ids: jax.Array | None = None,
        segments: Sequence[int] = (),
        levels: int = 1,
    ) -> jax.Array:
        """Embeds all tokens of the clips, or those at `ids`; for the arguments see `Encoder`.

        Args:
          levels: 4 = all levels, for training; 1 = the last level.

        Returns:
          float32 [B, K or N, levels x width], the first level first.
        """
        image = clips.shape[1] == 1
        tubelet = 1 if image else self.tubelet
        tokens, ids, order = cut(clips.astype(self.dtype), ids, tubelet, self.patch, self.attention)
        # The parameters of both inputs are created, whichever input is used.
        names = {"video": "patch_embed", "image": "patch_embed_image"}
        frames = {"video": self.tubelet, "image": 1}
        vectors = {kind: modality(self, kind, self.width) for kind in MODALITIES}
        used = "image" if image else "video"
        embed = Dense(self.width, WEIGHT_INIT, self.dtype, order, name=names[used])
        x = embed(tokens) + vectors[used].astype(self.dtype)
        if self.is_initializing():
            (other,) = set(MODALITIES) - {used}
            features = frames[other] * self.patch**2 * COLOURS
            Dense(self.width, WEIGHT_INIT, self.dtype, name=names[other])(
                jnp.zeros((1, 1, features), self.dtype)
            )
        left = stack_of(self, self.drop_path)(
            x,
            scaled_rotary_angles(
                ids,
                self.grid(*clips.shape[1:4]),
                self.width // self.heads,
                trained_side(self.patch),
            ),
            segments,
            levels_of(self.depth) if levels > 1 else (),
        )
        # The result feeds a loss or a probe, so it has full precision.
        norms = [LayerNorm(jnp.float32, name=f"norm{level}") for level in range(LEVELS)]
        if self.is_initializing():
            for norm in norms[:-1]:
                norm(x)
        if levels == 1:
            return norms[-1](left)
        return jnp.concatenate([norm(x) for norm, x in zip(norms, left, strict=True)], axis=-1)


class PredictorV21(Predictor):
    """The transformer of `Predictor`; it predicts the visible tokens as well.

    Attributes:
      levels: number of levels of the encoder; they are concatenated in inputs and predictions.
      trained_side: for the encoder's patch, see the function `trained_side`.
    """

    levels: int = LEVELS
    trained_side: int = 16

    @nn.compact
    # The result differs from that of `Predictor`; each objective knows its predictor.
    def __call__(  # type: ignore[override]
        self,
        context: jax.Array,
        context_ids: Sequence[jax.Array],
        target_ids: Sequence[jax.Array],
        grid: Grid,
        image: bool = False,
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Predicts the target encoder's embeddings at `target_ids` and at `context_ids`.

        Args:
          context: [B, Kc_1 + ... + Kc_M, levels x width of the encoder].
          context_ids: M arrays int [B, Kc]. target_ids: M arrays int [B, Kt].
          grid: (T', Hp, Wp). image: whether the clips are images.

        Returns:
          M arrays [B, Kt, levels x out_width], and M arrays [B, Kc, levels x out_width].
        """
        if self.levels > 1:
            wide = Dense(
                context.shape[-1] // self.levels, WEIGHT_INIT, self.dtype, name="embed_levels"
            )
            context = gelu(wide(context))
        embedded = Dense(self.width, WEIGHT_INIT, self.dtype, name="embed")(context)
        vectors = {kind: modality(self, kind, self.width) for kind in MODALITIES}
        visible, masked = self.through_blocks(
            embedded,
            context_ids,
            target_ids,
            lambda ids: scaled_rotary_angles(
                ids, grid, self.width // self.heads, self.trained_side
            ),
            vectors["image" if image else "video"],
        )
        norm = LayerNorm(self.dtype, name="norm")
        found = []
        for name, parts in (("proj", masked), ("proj_context", visible)):
            out = Dense(self.levels * self.out_width, WEIGHT_INIT, self.dtype, name=name)
            lengths = [part.shape[1] for part in parts]
            found.append(cut_at(out(norm(jnp.concatenate(parts, axis=1))), lengths))
        return found[0], found[1]


def modality(module: nn.Module, kind: str, width: int) -> jax.Array:
    """The learned vector [width] that is added to all tokens of videos, or of images."""
    init = nn.initializers.normal(1e-6)
    return gathered(module.param(f"{kind}_embed", init, (width,), jnp.float32))
