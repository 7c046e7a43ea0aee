"""Pictures of clips and their masks, for the report and TensorBoard.

They show which tokens the context encoder sees, and which ones the predictor predicts.
"""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np


class Tint(NamedTuple):
    """The tint of a token: a colour (red, green, blue), and its opacity from 0 to 1."""

    colour: tuple[int, int, int]
    opacity: float


# Targets stay partly visible. Unused tokens fade: visible ones to slate, which differs from the
# black around an ultrasound sector, and hidden ones to dark orange.
TARGET = Tint((230, 159, 0), 0.65)
HIDDEN = Tint((96, 66, 0), 0.75)
CONTEXT = Tint((0, 0, 0), 0.0)
VISIBLE = Tint((58, 68, 84), 0.72)

MAX_FRAMES = 8
MAX_SIDE = 128
GAP = 3
GAP_COLOUR = (138, 148, 160)  # visible on light and on dark pages


def strips(examples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The frames of example clips side by side, without a mask and with each mask.

    Args:
      examples: "clips" uint8 [N, T, H, W, 3], "grid" (T', Hp, Wp), "mask_names" [M], and for each
        mask m "blocks_m" bool [N, Hp, Wp] or [N, T', Hp, Wp], "context_ids_m" [N, Kc] and
        "target_ids_m" [N, Kt].

    Returns:
      uint8 [N, h, w, 3] under "frames" and under "mask NAME".
    """
    clips, grid = examples["clips"], examples["grid"].tolist()
    time = grid[0]
    found = {"frames": np.stack([strip(clip, time) for clip in clips])}
    for m, name in enumerate(examples["mask_names"]):
        parts = (examples[f"{part}_{m}"] for part in ("blocks", "context_ids", "target_ids"))
        found[f"mask {name}"] = np.stack(
            [
                strip(paint(clip, np.broadcast_to(blocks, grid), context, targets), time)
                for clip, blocks, context, targets in zip(clips, *parts, strict=True)
            ]
        )
    return found


def paint(
    clip: np.ndarray, blocks: np.ndarray, context_ids: np.ndarray, target_ids: np.ndarray
) -> np.ndarray:
    """Tints the tokens of a clip: context, target, and unused visible or hidden tokens.

    Args:
      clip: uint8 [T, H, W, 3].
      blocks: bool [T', Hp, Wp], True = hidden; tokens are numbered `(t * Hp + h) * Wp + w`.
      context_ids, target_ids: [Kc], [Kt], the tokens that are used.

    Returns:
      uint8 [T, H, W, 3].
    """
    hidden, visible = (np.array([*tint.colour, tint.opacity]) for tint in (HIDDEN, VISIBLE))
    tints = np.where(blocks.reshape(-1, 1), hidden, visible)
    tints[context_ids] = *CONTEXT.colour, CONTEXT.opacity
    tints[target_ids] = *TARGET.colour, TARGET.opacity
    pixels = tints.reshape(*blocks.shape, 4)
    for axis in range(3):
        pixels = pixels.repeat(clip.shape[axis] // blocks.shape[axis], axis=axis)
    opacity = pixels[..., 3:]
    return np.rint(clip * (1 - opacity) + pixels[..., :3] * opacity).astype(np.uint8)


def strip(clip: np.ndarray, token_frames: int) -> np.ndarray:
    """Frames side by side: the first of each tubelet, at most MAX_FRAMES.

    Args:
      clip: uint8 [T, H, W, 3].
      token_frames: T', tubelets along time.

    Returns:
      uint8 [h, w, 3]; a frame is at most MAX_SIDE pixels high and wide.
    """
    shown = np.linspace(0, token_frames - 1, min(token_frames, MAX_FRAMES)).astype(int)
    return side_by_side(clip[shown * (len(clip) // token_frames)], MAX_SIDE)


def side_by_side(frames: np.ndarray, max_side: int) -> np.ndarray:
    """Frames, uint8 [n, H, W, 3], in a row with gaps: uint8 [h, w, 3]; they are never enlarged."""
    _, height, width, _ = frames.shape
    scale = min(1.0, max_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    gap = np.full((size[1], GAP, 3), GAP_COLOUR, np.uint8)
    row: list[np.ndarray] = []
    for frame in frames:
        row += [cv2.resize(frame, size, interpolation=cv2.INTER_AREA), gap]
    return np.concatenate(row[:-1], axis=1)
