"""How far to trust each test prediction of a suite's probe, by what the program `probe` measures.

These are columns of the cell whose clinical reading the report shows.
"""

from collections.abc import Sequence

import numpy as np

from echojepa_jax.evaluation.data import Divided
from echojepa_jax.evaluation.fit import Fitted
from echojepa_jax.probes import distance
from echojepa_jax.probes.examples import Example, slots
from echojepa_jax.probes.predict import Features, head_outputs, mean_tokens, spreads, with_doubt
from echojepa_jax.probes.reading import DOUBTS


def doubts(fitted: Fitted, features: Features, parts: Divided) -> dict[str, np.ndarray]:
    """Spread over clips and views, spread over heads of the grid, distance from the training data.

    Returns:
      {name: float64 [E]} for the names `DOUBTS` and the test examples; NaN = not known.
    """
    head_fn, params = with_doubt(fitted.params, fitted.heads)
    seen = fitted.look.of(features)
    outputs, present = head_outputs(head_fn, fitted.head, params, parts.test, seen)
    found = spreads(fitted.task.decode(outputs.values), present)
    # The distance is one of tokens as the encoder gives them, whatever the head sees.
    train, val, test = (_embeddings(features, p) for p in (parts.train, parts.val, parts.test))
    familiar = distance.fit(*(part[np.isfinite(part).all(axis=1)] for part in (train, val)))
    far = np.full(len(test), np.nan) if familiar is None else familiar.distances(test)
    return dict(zip(DOUBTS, (*found, far), strict=True))


def _embeddings(features: Features, examples: Sequence[Example]) -> np.ndarray:
    """The embedding of each example, see `mean_tokens`: [E, D]; NaN if it cannot be read."""
    rows = slots(examples, features.usable(), None)
    tokens, present = features.averaged().gather(rows)
    return np.where(present.any(axis=1, keepdims=True), mean_tokens(tokens, present), np.nan)
