"""Scores with 95 % intervals from a bootstrap over patients."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from echojepa_jax.utils.rng import generator

Scores = Mapping[str, float]
INTERVAL = (2.5, 97.5)


def with_intervals(
    scores: Callable[[np.ndarray, np.ndarray], Scores],
    true: np.ndarray,
    predicted: np.ndarray,
    patients: Sequence[str] | np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, float | None]]:
    """Returns {score: {"value", "low", "high"}}; None for a number that is not defined.

    All examples of a patient are drawn together, because they are not independent.

    Args:
      true, predicted: [n, ...]. patients: [n].
    """
    values = scores(true, predicted)
    rows_of: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        rows_of.setdefault(patient, []).append(row)
    groups = [np.array(rows) for rows in rows_of.values()]
    rng = generator(seed, "bootstrap")
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(resamples if len(groups) > 1 else 0):
        rows = np.concatenate([groups[g] for g in rng.integers(len(groups), size=len(groups))])
        for name, value in scores(true[rows], predicted[rows]).items():
            drawn[name].append(value)
    result = {}
    for name, value in values.items():
        sample = np.array(drawn[name])
        sample = sample[np.isfinite(sample)]
        # A score that is not defined has no interval, also if some resamples have a score.
        defined = len(sample) and np.isfinite(value)
        low, high = np.percentile(sample, INTERVAL) if defined else (np.nan, np.nan)
        result[name] = {"value": _plain(value), "low": _plain(low), "high": _plain(high)}
    return result


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
