"""What training and validation examples tell about the chosen head, before any test example.

Thresholds of cut-offs, which heads of the grid are good enough to be compared, and what the
training data look like. The test split has no part in any of them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from echojepa_jax.probes import distance
from echojepa_jax.probes import grid as grids
from echojepa_jax.probes.reading import thresholds
from echojepa_jax.probes.task import beats_the_guess
from echojepa_jax.probes.training import Best, Setting, all_outputs, features_in_memory

Tree = Any


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """thresholds: of predictions, by cut-off. heads: parameters of the heads that do better on
    validation than a constant guess, stacked; None if there are not two. familiar: see `distance`.
    """

    thresholds: Mapping[float, float]
    heads: Tree
    familiar: distance.Familiar | None


def held_out(setting: Setting, best: Best) -> HeldOut:
    """Applies all heads of the best epoch to training and validation.

    Features that training has left in memory are used again; otherwise, videos are encoded once
    more, without augmentation.
    """
    examples = [*setting.train, *setting.val]
    features = best.features or features_in_memory(setting)
    outputs = all_outputs(
        setting, best.heads, examples, best.encoder, features, "train and val", embed=True
    )
    readable, first = outputs.readable(), len(setting.train)
    in_val = readable & (np.arange(len(examples)) >= first)
    labels = [example.label for example, ok in zip(examples, in_val, strict=True) if ok]
    decoded = setting.task.decode(outputs.values[in_val])
    task, embeddings = setting.task, outputs.embeddings
    assert embeddings is not None
    found: Mapping[float, float] = {}
    if task.kind == "regression":
        found = thresholds(task, np.array(labels, np.float64), decoded[:, best.head])
    heads = grids.several(best.heads, beats_the_guess(task, labels, decoded))
    familiar = distance.fit(embeddings[readable & ~in_val], embeddings[in_val])
    return HeldOut(found, heads, familiar)
