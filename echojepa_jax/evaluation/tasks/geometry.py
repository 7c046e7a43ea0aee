"""The shape of the embeddings of test videos: features that collapse show it here, without labels.

An embedding is the mean over the tokens and clips of a video.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.evaluation.cells import MEASURE, Cell
from echojepa_jax.evaluation.data import Data
from echojepa_jax.evaluation.tasks import fields
from echojepa_jax.train.evaluators.health import effective_rank

FIELDS = {"data": fields.DATA}


def needs(options: ConfigDict) -> list[tuple[str, Perturbation | None]]:
    """The features that the task reads: names of data sets, each with what is done to it."""
    return [(options.data, None)]


def examples(data: Mapping[str, Data], options: ConfigDict) -> list[int]:
    """Rows of the test videos."""
    mine = data[options.data]
    return [row for row, s in enumerate(mine.samples) if s.split == mine.splits[2]]


def measures(embeddings: np.ndarray) -> dict[str, float]:
    """Measures of embeddings [n, D] of n > 1 videos.

    Returns:
      "effective_rank": exp of the entropy of the singular values of the centred embeddings, which
      is 1 for a line and at most min(n - 1, D); "mean_cosine": mean over all pairs, 1 if all point
      the same way; "variance": mean over dimensions.
    """
    centred = jnp.asarray(embeddings - embeddings.mean(axis=0), jnp.float32)
    norms = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-30)
    total = np.square((embeddings / norms).sum(axis=0)).sum()
    count = len(embeddings)
    return {
        "effective_rank": float(effective_rank(centred)),
        "mean_cosine": float((total - count) / (count * (count - 1))),
        "variance": float(embeddings.var(axis=0).mean()),
    }


def run(data: Mapping[str, Data], options: ConfigDict, probe: ConfigDict, seed: int) -> list[Cell]:
    """One cell; neither probe nor seed matter."""
    mine = data[options.data]
    features = mine.features[None].averaged()
    test = examples(data, options)
    rejected = sum(s.split == mine.splits[2] for s in mine.rejected)
    found = []
    for row in test:
        clips = features.at[features.place[row]]
        clips = clips[features.there[clips]]
        if len(clips):
            # Of "motion" and "steps", the first part is the mean.
            found.append(features.tokens[clips].mean(axis=(0, 1))[: mine.width])
    return [
        Cell(
            {"embeddings": "test videos"},
            MEASURE,
            not_scored=len(test) - len(found) + rejected,
            measures=measures(np.array(found, np.float64)),
        )
    ]
