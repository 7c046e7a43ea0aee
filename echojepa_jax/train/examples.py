"""Example clips of a run with their masks: for the report, and for TensorBoard."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data.clips.pipeline import Batch
from echojepa_jax.masking import pictures
from echojepa_jax.masking.masks import hidden_tokens
from echojepa_jax.train.config import mask_specs
from echojepa_jax.train.state import Networks

FILE = "examples.npz"
COUNT = 4


def save_examples(
    folder: Path, batch: Batch, config: ConfigDict, networks: Networks
) -> dict[str, np.ndarray]:
    """Writes examples.npz into a workdir.

    Args:
      batch: the global batch of step 0, as the input pipeline creates it for this config.

    Returns:
      Pictures for TensorBoard by name, uint8 [clips, h, w, 3].
    """
    clips, masks = batch["clips"][:COUNT], mask_specs(config)
    grid = networks.encoder.grid(config.data.frames, config.data.size, config.data.size)
    arrays: dict[str, Any] = {
        "clips": np.broadcast_to(clips, (*clips.shape[:-1], 3)),  # grey ones have one channel
        "grid": np.array(grid),
        "mask_names": np.array(list(masks)),
    }
    for m, mask in enumerate(masks.values()):
        arrays[f"context_ids_{m}"] = batch["context_ids"][m][:COUNT]
        arrays[f"target_ids_{m}"] = batch["target_ids"][m][:COUNT]
        arrays[f"blocks_{m}"] = np.stack(
            [hidden_tokens(mask, grid, config.seed, m, 0, i) for i in range(len(clips))]
        )
    np.savez_compressed(folder / FILE, **arrays)
    return {f"examples/{name}": strips for name, strips in pictures.strips(arrays).items()}
