"""What a clinician asks of predictions: agreement, calibration, detection, groups, doubt.

Every function takes arrays of examples [n]. `probes/reading.py` applies them to a probe's results.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from echojepa_jax.utils.scores import auroc, average_precision, ranks

EF_NAMES = (
    *("ef", "lvef", "lv_ef", "ejection_fraction", "left_ventricular_ejection_fraction"),
    *("biplane_lvef", "lvef_biplane", "lvef_3d"),
)
EF_CUTOFFS = (50.0, 40.0)
EF_RANGES = (30.0, 40.0, 50.0, 60.0)
AGE_GROUPS = (1.0, 6.0, 12.0, 18.0, 40.0, 65.0, 80.0)
QUARTERS = 4
SHARES = np.arange(5, 101, 5) / 100


def is_ejection_fraction(target: str, unit: str, mean: float) -> bool:
    """Whether a target is an ejection fraction in percent: the only kind that has cut-offs.

    Its name must be one of EF_NAMES, and its unit "%". Without a unit, the mean of the training
    labels must be above 1, because a fraction or a z-score is below.

    Args:
      target: the name of the label, in any case, with any of " ", "-" and "_" between words.
      mean: of the training labels.
    """
    name = target.casefold().replace("-", "_").replace(" ", "_")
    return name in EF_NAMES and (unit == "%" or (not unit and mean > 1))


def agreement(
    true: Sequence[float] | np.ndarray, predicted: Sequence[float] | np.ndarray
) -> tuple[float, float, float]:
    """Mean difference predicted - true [n], and its 95 % limits of agreement for normally
    distributed differences (Bland and Altman 1986); the limits are NaN for a single pair.
    """
    difference = np.asarray(predicted, float) - np.asarray(true, float)
    bias = float(difference.mean())
    reach = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else np.nan
    return bias, bias - reach, bias + reach


def calibration_line(true: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the least-squares line true = intercept + slope x predicted.

    Of calibrated predictions they are 1 and 0. A slope below 1 means that predictions are further
    apart than the truth. NaN if all predictions are equal.
    """
    if len(true) < 2 or np.ptp(predicted) == 0:
        return np.nan, np.nan
    away = predicted - np.mean(predicted)
    slope = float(np.sum(away * (true - np.mean(true))) / np.sum(away**2))
    return slope, float(np.mean(true) - slope * np.mean(predicted))


def areas(positive: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """AUROC and average precision of detecting `positive` bool [n] by a high score [n].

    NaN if all examples, or none of them, are positive.
    """
    if positive.all() or not positive.any():
        return np.nan, np.nan
    return auroc(positive, score), average_precision(positive, score)


def rates(positive: np.ndarray, called: np.ndarray) -> tuple[float, float]:
    """Sensitivity and specificity of calls, both bool [n]; NaN without any such example."""
    sensitivity = np.mean(called[positive]) if positive.any() else np.nan
    specificity = np.mean(~called[~positive]) if not positive.all() else np.nan
    return float(sensitivity), float(specificity)


def threshold_below(true: np.ndarray, predicted: np.ndarray, cutoff: float) -> float:
    """The threshold t for which "predicted < t" best detects "true < cutoff".

    Best is the largest sensitivity + specificity (Youden 1950); of equally good thresholds the
    one nearest to the cut-off. Thresholds are in the middle between two predictions. To be applied
    to other examples than these. NaN if no or every true value is below the cut-off, or all
    predictions are equal.
    """
    positive, found = true < cutoff, np.unique(predicted)
    if positive.all() or not positive.any() or len(found) < 2:
        return np.nan
    possible = (found[1:] + found[:-1]) / 2
    hits = np.searchsorted(np.sort(predicted[positive]), possible) / positive.sum()
    alarms = np.searchsorted(np.sort(predicted[~positive]), possible) / (~positive).sum()
    worth = (hits - alarms).round(12)
    return float(possible[np.lexsort((np.abs(possible - cutoff), -worth))[0]])


def range_names(edges: Sequence[float]) -> list[str]:
    """Names of the ranges between edges: "below 30", "30 to 40", ..., "60 and above"."""
    middle = [f"{a:.4g} to {b:.4g}" for a, b in itertools.pairwise(edges)]
    return [f"below {edges[0]:.4g}", *middle, f"{edges[-1]:.4g} and above"]


def ranges(values: np.ndarray, edges: Sequence[float]) -> list[str]:
    """The name of the range of each value [n]; an edge is in the range above. "" for NaN."""
    names, place = range_names(edges), np.digitize(values, edges)
    return ["" if np.isnan(v) else names[i] for v, i in zip(values, place, strict=True)]


def quarters(values: np.ndarray) -> list[float]:
    """The edges between quarters of the values [n]: at most 3, as equal values stay together."""
    return np.unique(np.quantile(values, np.arange(1, QUARTERS) / QUARTERS)).tolist()


def rank_correlation(doubt: np.ndarray, error: np.ndarray) -> float:
    """Spearman's rank correlation; NaN if one of the two does not vary."""
    if len(doubt) < 2 or np.ptp(doubt) == 0 or np.ptp(error) == 0:
        return np.nan
    return float(np.corrcoef(ranks(doubt), ranks(error))[0, 1])


def abstaining(doubt: np.ndarray, error: np.ndarray) -> list[tuple[float, float]]:
    """Mean error of the examples with the least doubt, for several shares that are kept.

    The curve of risk over coverage (El-Yaniv and Wiener 2010). A share is rounded up to whole
    examples. Of equal doubts, those that come first are kept first.

    Args:
      doubt: [n], such as a spread. error: [n], absolute errors, or 1 for a wrong class.

    Returns:
      (share, mean error) for each of SHARES; the last share is all.
    """
    sums = np.cumsum(error[np.argsort(doubt, kind="stable")])
    # 0.15 * 20 is a little more than 3.
    counts = np.ceil((SHARES * len(error)).round(9)).astype(int)
    return [
        (float(share), float(sums[count - 1] / count))
        for share, count in zip(SHARES, counts, strict=True)
    ]


def class_table(true: np.ndarray, shares: np.ndarray) -> list[dict[str, float]]:
    """Each class against the rest: examples, and scores of the most probable class.

    Args:
      true: class numbers, int [n]. shares: probabilities [n, classes].

    Returns:
      For each class `examples`, `sensitivity`, `specificity`, `precision`, `f1`, `auroc` and
      `average_precision`; NaN if a score is not defined.
    """
    chosen, rows = shares.argmax(axis=1), []
    for k in range(shares.shape[1]):
        positive, called = true == k, chosen == k
        sensitivity, specificity = rates(positive, called)
        area, precision_area = areas(positive, shares[:, k])
        some, hits = positive.sum() + called.sum(), np.sum(positive & called)
        rows.append(
            {
                "examples": int(positive.sum()),
                "sensitivity": sensitivity,
                "specificity": specificity,
                "precision": float(np.mean(positive[called])) if called.any() else np.nan,
                "f1": float(2 * hits / some) if some else np.nan,
                "auroc": area,
                "average_precision": precision_area,
            }
        )
    return rows
