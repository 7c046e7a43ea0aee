"""Scores of cells over all resamples of patients at once.

A resample says how often each patient counts. Row 0 counts everybody once, so it gives the score
itself. All cells of a task share the resamples: differences between models, and between a degraded
and a clean video, are paired.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from echojepa_jax.evaluation.cells import MEASURE, SEGMENTATION, Cell
from echojepa_jax.utils.bootstrap import INTERVAL
from echojepa_jax.utils.rng import generator

REGRESSION = ("mae", "rmse", "r2", "pearson", "bias")
CLASSIFICATION = ("accuracy", "balanced_accuracy", "auroc")
MASKS = ("dice", "hd95", "limit", "cut_off")
MAIN = {
    "regression": "mae",
    "classification": "accuracy",
    SEGMENTATION: "dice",
    MEASURE: "effective_rank",
}


def resamples(patients: Sequence[str], count: int, seed: int, task: str) -> np.ndarray:
    """How often each of the patients counts: float64 [1 + count, P]; row 0 is ones."""
    rng, size = generator(seed, "bootstrap", task), len(patients)
    weights = np.ones((1 + count, size))
    for row, drawn in enumerate(rng.integers(size, size=(count, size)), start=1):
        weights[row] = np.bincount(drawn, minlength=size)
    return weights


def scores(
    cell: Cell, predicted: Sequence[Any], patients: Sequence[str], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Every score of a cell in every resample: {name: float64 [1 + count]}; NaN = not defined.

    Args:
      predicted: what is scored: of the cell, or a guess for each of its examples.
      patients: of the columns of `weights`, among which are those of the cell.
    """
    if cell.kind == MEASURE:
        # Measures of features are not of patients: they have no interval.
        alone = np.where(np.arange(len(weights)) == 0, 1.0, np.nan)
        return {name: value * alone for name, value in cell.measures.items()}
    if not cell.patients:
        names = [*{"regression": REGRESSION, SEGMENTATION: MASKS}.get(cell.kind, CLASSIFICATION)]
        names += map(auroc_below, cell.cutoffs)
        return {name: np.full(len(weights), np.nan) for name in names}
    column = {patient: i for i, patient in enumerate(patients)}
    owner = np.zeros((len(cell.patients), len(patients)))
    owner[np.arange(len(owner)), [column[patient] for patient in cell.patients]] = 1
    with np.errstate(invalid="ignore", divide="ignore"):
        counts = weights @ owner.T
        if cell.kind == SEGMENTATION:
            # Means over frames.
            sums = counts @ np.array(predicted, np.float64)
            return dict(zip(MASKS, sums.T / counts.sum(axis=1), strict=True))
        true, found = np.array(cell.true, np.float64), np.array(predicted, np.float64)
        if cell.kind == "classification" and found.ndim == 1:
            # A vote says nothing of the other classes, so it has no AUROC.
            shares = np.eye(len(cell.classes))[found.astype(int)]
            none = {"auroc": np.full(len(weights), np.nan)}
            return _classification(true, shares, owner, weights) | none
        if cell.kind == "classification":
            return _classification(true, found, owner, weights)
        return _regression(true, found, counts) | {
            auroc_below(cutoff): auroc(true < cutoff, -found, counts) for cutoff in cell.cutoffs
        }


def auroc_below(cutoff: float) -> str:
    """The name of the AUROC of detecting true values below a cut-off."""
    return f"auroc_below_{cutoff:g}"


def auroc(positive: np.ndarray, score: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUROC in every resample, float64 [R]: the share of pairs of a positive and another example in
    which the positive one has the higher score; of equal scores, a half.

    Args:
      positive: bool [n]. score: [n]. counts: how often each example counts, [R, n].
    """
    order = np.argsort(score[~positive], kind="stable")
    others = score[~positive][order]
    # How many of the others have one of the first k scores: [R, k].
    below = np.cumsum(counts[:, ~positive][:, order], axis=1)
    below = np.concatenate([np.zeros((len(counts), 1)), below], axis=1)
    lower, upper = (np.searchsorted(others, score[positive], side) for side in ("left", "right"))
    mine = counts[:, positive]
    wins = np.sum(mine * (below[:, lower] + below[:, upper]), axis=1) / 2
    return wins / (mine.sum(axis=1) * below[:, -1])


def _regression(true: np.ndarray, found: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    # Away from zero by a common amount, squares would lose digits.
    centre = true.mean() if len(true) else 0.0
    t, p = true - centre, found - centre
    away = p - t
    columns = [np.ones_like(t), np.abs(away), away, away**2, t, t**2, p, p**2, t * p]
    n, absolute, bias, squares, t1, t2, p1, p2, tp = (counts @ np.stack(columns, 1)).T
    t_var, p_var = t2 - t1**2 / n, p2 - p1**2 / n
    nothing = 1e-12 * np.maximum(1.0, n)  # rounding is no spread
    t_var, p_var = (np.where(v > nothing, v, np.nan) for v in (t_var, p_var))
    values = (
        absolute / n,
        np.sqrt(squares / n),
        1 - squares / t_var,
        (tp - t1 * p1 / n) / np.sqrt(t_var * p_var),
        bias / n,
    )
    return dict(zip(REGRESSION, values, strict=True))


def _classification(
    true: np.ndarray, found: np.ndarray, owner: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    right = found.argmax(axis=1) == true
    n = weights @ owner.sum(axis=0)
    recalls, areas = [], []
    for k in range(found.shape[1]):
        is_k = true == k
        positive, negative = owner[is_k], owner[~is_k]
        count = weights @ positive.sum(axis=0)
        recalls.append((weights @ owner[is_k & right].sum(axis=0)) / count)
        # The share of pairs of patients' examples that are in the right order.
        ours, others = found[is_k, k], found[~is_k, k]
        wins = (ours[:, None] > others) + 0.5 * (ours[:, None] == others)
        by_patient = positive.T @ wins @ negative
        pairs = count * (weights @ negative.sum(axis=0))
        areas.append(np.einsum("rp,pq,rq->r", weights, by_patient, weights, optimize=True) / pairs)
    values = ((weights @ owner[right].sum(axis=0)) / n, _mean(recalls), _mean(areas))
    return dict(zip(CLASSIFICATION, values, strict=True))


def _mean(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the classes that occur: rows of float64 [R] -> [R]."""
    stacked = np.array(rows)
    there = np.isfinite(stacked)
    return np.where(there, stacked, 0).sum(axis=0) / np.where(
        there.any(axis=0), there.sum(0), np.nan
    )


def over_seeds(found: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean of the scores of several seeds: {name: [1 + count]}."""
    return {name: np.mean([scored[name] for scored in found], axis=0) for name in found[0]}


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The score itself and its 95 % interval; NaN where there is none."""
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(drawn, INTERVAL) if len(drawn) else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)
