"""Scores of predictions; those of predictions that contain a NaN are NaN.

Written here because a bootstrap computes them thousands of times, and scikit-learn needs
milliseconds in each call to check its inputs. `evaluation.scores` computes them for all resamples
at once, of examples for which every model has a number.
"""

import numpy as np


def regression_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """MAE, RMSE, R2 and Pearson's r of numbers [n]; NaN if a score is not defined."""
    varies = len(true) > 1 and np.ptp(true) > 0
    correlates = varies and np.ptp(predicted) > 0
    error = np.subtract(true, predicted, dtype=float)
    squares = np.mean(error**2)
    return {
        "mae": float(np.mean(np.abs(error))),
        "rmse": float(np.sqrt(squares)),
        "r2": float(1 - squares / np.var(true, dtype=float)) if varies else np.nan,
        "pearson": float(np.corrcoef(true, predicted)[0, 1]) if correlates else np.nan,
    }


def class_scores(true: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro F1 and AUROC (one class against the rest, mean).

    Args:
      true: class numbers, int [n].
      probabilities: [n, classes]. The means leave out classes that do not occur in `true`.
    """
    classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    present, count = np.unique(true, return_counts=True)
    if np.isnan(probabilities).any():
        return dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "auroc"), np.nan)
    hits = np.bincount(true[true == predicted], minlength=classes)[present]
    calls = np.bincount(predicted, minlength=classes)[present]
    areas = [auroc(true == k, probabilities[:, k]) for k in present if len(present) > 1]
    return {
        "accuracy": float(np.mean(true == predicted)),
        "balanced_accuracy": float(np.mean(hits / count)),
        "macro_f1": float(np.mean(2 * hits / (count + calls))),
        "auroc": float(np.mean(areas)) if areas else np.nan,
    }


def auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """The area under the ROC curve of detecting `positive` bool [n], some of them, by a high score.

    It is the share of pairs of a positive and a negative that the score puts in order; equal
    scores count half.
    """
    count = np.count_nonzero(positive)
    pairs = count * (len(positive) - count)
    return float((ranks(score)[positive].sum() - count * (count + 1) / 2) / pairs)


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """The mean precision over `positive` bool [n], with the score [n] of each as threshold."""
    if np.isnan(score).any():
        return np.nan
    values, group = np.unique(np.negative(score, dtype=float), return_inverse=True)
    hits = np.bincount(group[positive], minlength=len(values))
    precision = np.cumsum(hits) / np.cumsum(np.bincount(group))
    return float(np.sum(hits * precision) / hits.sum())


def ranks(values: np.ndarray) -> np.ndarray:
    """The place of each of the values [n] in ascending order, from 1; equal ones share the mean.

    As by scipy.stats.rankdata, which takes a second to import: with a NaN, all places are NaN.
    """
    if np.isnan(values).any():
        return np.full(len(values), np.nan)
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]
