"""Scores of predictions."""

import warnings

import numpy as np
from sklearn import metrics as sk


def regression_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """MAE, RMSE, R2 and Pearson's r of numbers [n]; NaN if a score is not defined."""
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
      probabilities: [n, classes]. The means leave out classes that do not occur in `true`.
    """
    predicted, present = probabilities.argmax(axis=1), np.unique(true)
    with warnings.catch_warnings():
        # It warns about a class that is predicted but does not occur; such classes are left out.
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
