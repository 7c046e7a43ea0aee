"""Scores of predictions, with 95 % intervals from a bootstrap over patients."""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn import metrics as sk

from echojepa_jax.utils.rng import generator

Scores = Mapping[str, float]
INTERVAL = (2.5, 97.5)


def regression_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """MAE, RMSE, R2 and Pearson's r of numbers [n]; NaN where one is not defined."""
    varies = len(true) > 1 and np.ptp(true) > 0
    correlates = varies and np.ptp(predicted) > 0
    return {
        "mae": float(sk.mean_absolute_error(true, predicted)),
        "rmse": float(sk.root_mean_squared_error(true, predicted)),
        "r2": float(sk.r2_score(true, predicted)) if varies else np.nan,
        "pearson": float(np.corrcoef(true, predicted)[0, 1]) if correlates else np.nan,
    }


def class_scores(true: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro F1 and AUROC (one class against the rest, mean).

    Args:
      true: class numbers, int [n].
      probabilities: [n, classes]. Classes that do not occur in `true` do not enter the means.
    """
    predicted, present = probabilities.argmax(axis=1), np.unique(true)
    with warnings.catch_warnings():
        # A class that is predicted but does not occur: what it means is said above.
        warnings.simplefilter("ignore")
        aucs = [
            sk.roc_auc_score(true == k, probabilities[:, k]) for k in present if len(present) > 1
        ]
        return {
            "accuracy": float(sk.accuracy_score(true, predicted)),
            "balanced_accuracy": float(sk.balanced_accuracy_score(true, predicted)),
            "macro_f1": float(sk.f1_score(true, predicted, labels=present, average="macro")),
            "auroc": float(np.mean(aucs)) if aucs else np.nan,
        }


def with_intervals(
    scores: Callable[[np.ndarray, np.ndarray], Scores],
    true: np.ndarray,
    predicted: np.ndarray,
    patients: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, float | None]]:
    """{score: {"value", "low", "high"}}; None where a number is not defined.

    The examples of a patient are drawn together: they are not independent of each other.

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
        sample = np.array(drawn[name])[np.isfinite(drawn[name])] if drawn[name] else np.array([])
        low, high = np.percentile(sample, INTERVAL) if len(sample) else (np.nan, np.nan)
        result[name] = {"value": _plain(value), "low": _plain(low), "high": _plain(high)}
    return result


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
