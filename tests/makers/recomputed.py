"""The numbers of a suite's tables, computed again from its files of results with scikit-learn.

Resamples are a plain loop over drawn patients. Of the package, only the source of random numbers is
used.
"""

import json
import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics

from echojepa_jax.utils.rng import generator

Cell = dict[str, Any]
Example = tuple[str, str]
"""Its patient and its name."""
Scored = dict[str, np.ndarray]
GUESS = {
    "regression": "mean of training",
    "classification": "commonest class",
    "segmentation": "mean mask of training",
}
MASKS = ("dice", "hd95", "limit", "cut_off")
MAIN = {"regression": "mae", "classification": "accuracy", "segmentation": "dice"}


def table(workdir: Path, task: str, models: Sequence[str]) -> dict[tuple[str, ...], dict[str, Any]]:
    """By variant, model and score: a number for each column of tables.csv; NaN = an empty field.

    Args:
      models: the first one is the one that others are compared with.
    """
    config = json.loads((workdir / "config.json").read_text())
    seeds = config["tasks"][task]["seeds"]
    variants = list(_variants(workdir / "results" / task, models, seeds))
    every = [cell for v, _ in variants for mine in v.values() for cell in mine]
    patients = sorted({patient for cell in every for patient in cell["patients"]})
    rng = generator(config["seed"], "bootstrap", task)
    draws = rng.integers(len(patients), size=(config["bootstrap"], len(patients))).tolist()
    draws = [range(len(patients)), *draws]

    scored: dict[tuple[str, str], Scored] = {}
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for v, failed in variants:
        first = v[models[0]]
        kind, name = first[0]["kind"], _text(first[0]["variant"])
        guess = {} if kind == "measure" else {GUESS[kind]: first}
        for model, mine in (v | guess).items():
            each = [_in_every_draw(cell, model in guess, patients, draws) for cell in mine]
            mean = {score: np.mean([one[score] for one in each], axis=0) for score in each[0]}
            scored[name, model] = mean
            sizes = {
                "examples": len(mine[0]["patients"]),
                "patients": len(set(mine[0]["patients"])),
                "not_scored": mine[0]["not_scored"],
                "failed": len(failed.get(model, ())),
                "seeds": len(mine),
            }
            for score, values in mean.items():
                line = found[name, model, score] = sizes | _interval("", values)
                if score != MAIN.get(kind):
                    continue
                if model != models[0]:
                    line |= _interval("difference", values - scored[name, models[0]][score])
                if against := mine[0]["against"]:
                    line |= _interval("change", values - scored[_text(against), model][score])
                if model not in guess and len(mine) > 1:
                    line["seed_sd"] = np.std([one[score][0] for one in each], ddof=1)
    if config["tasks"][task]["kind"] == "robustness":
        found |= dict(_degradation(scored, found))
    return found


def _variants(
    results: Path, models: Sequence[str], seeds: Sequence[int]
) -> Iterator[tuple[dict[str, list[Cell]], dict[str, set[Example]]]]:
    """For each variant, the cells of all seeds by model, and the examples in which a model failed.

    No model is scored on these.
    """
    files = {m: [(results / m / f"seed{s}.json").read_text() for s in seeds] for m in models}
    cells = {m: [json.loads(text)["cells"] for text in texts] for m, texts in files.items()}
    for i in range(len(cells[models[0]][0])):
        mine = {m: [of_seed[i] for of_seed in by_seed] for m, by_seed in cells.items()}
        failed = {m: set().union(*map(_failed, some)) for m, some in mine.items()}
        lost = set().union(*failed.values())
        yield {m: [_without(cell, lost) for cell in some] for m, some in mine.items()}, failed


def _text(variant: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in variant.items() if value)


def _failed(cell: Cell) -> set[Example]:
    """Examples for which a model has no number."""
    if cell["kind"] != "regression":
        return set()
    examples = zip(cell["patients"], cell["ids"], cell["predicted"], strict=True)
    return {(patient, name) for patient, name, value in examples if math.isnan(value)}


def _without(cell: Cell, lost: set[Example]) -> Cell:
    names = list(zip(cell["patients"], cell["ids"], strict=True))
    kept = [row for row, name in enumerate(names) if name not in lost]
    cut = {k: [cell[k][row] for row in kept] for k in ("patients", "predicted")}
    cut["true"] = [cell["true"][row] for row in kept] if cell["true"] else []
    return cell | cut | {"not_scored": cell["not_scored"] + len(names) - len(kept)}


def _in_every_draw(
    cell: Cell, guessed: bool, patients: Sequence[str], draws: Sequence[Sequence[int]]
) -> Scored:
    """Every score of everybody, then of each draw of patients: {score: [1 + draws]}."""
    if cell["kind"] == "measure":  # of no patients
        return {score: np.array([value]) for score, value in cell["measures"].items()}
    predicted = cell["predicted"]
    if guessed:
        alike = [cell["guess"]] * len(predicted)
        predicted = cell["guess"] if cell["kind"] == "segmentation" else alike
    true, predicted = np.array(cell["true"], float), np.array(predicted, float)
    rows_of = [np.flatnonzero(np.array(cell["patients"]) == name) for name in patients]

    @cache
    def of(draw: tuple[int, ...]) -> dict[str, float]:
        rows = np.concatenate([rows_of[i] for i in draw])
        if cell["kind"] == "segmentation":
            return dict(zip(MASKS, predicted[rows].mean(axis=0), strict=True))
        if cell["kind"] == "classification":
            return _classification(true[rows], predicted[rows])
        return _regression(true[rows], predicted[rows], cell["cutoffs"])

    # Scores do not depend on the order, so there are few different draws of few patients.
    each = [of(tuple(sorted(draw))) for draw in draws]
    return {score: np.array([one[score] for one in each]) for score in each[0]}


def _regression(true: np.ndarray, found: np.ndarray, cutoffs: Sequence[float]) -> dict[str, float]:
    some, varies = len(true) > 0, len(true) > 0 and np.ptp(true) > 0
    follows = varies and np.ptp(found) > 0
    values = {
        "mae": metrics.mean_absolute_error(true, found) if some else math.nan,
        "rmse": metrics.root_mean_squared_error(true, found) if some else math.nan,
        "r2": metrics.r2_score(true, found) if varies else math.nan,
        "pearson": np.corrcoef(true, found)[0, 1] if follows else math.nan,
        "bias": np.mean(found - true) if some else math.nan,
    }
    return values | {f"auroc_below_{c:g}": _area(true < c, -found) for c in cutoffs}


def _area(positive: np.ndarray, score: np.ndarray) -> float:
    both = 0 < np.count_nonzero(positive) < len(positive)
    return metrics.roc_auc_score(positive, score) if both else math.nan


def _classification(true: np.ndarray, shares: np.ndarray) -> dict[str, float]:
    if not len(true):
        return dict.fromkeys(("accuracy", "balanced_accuracy", "auroc"), math.nan)
    said = shares.argmax(axis=1)
    recalls = [metrics.recall_score(true == k, said == k) for k in np.unique(true)]
    areas = [_area(true == k, shares[:, int(k)]) for k in np.unique(true)]
    return {
        "accuracy": metrics.accuracy_score(true, said),
        "balanced_accuracy": float(np.mean(recalls)),
        "auroc": float(np.mean(areas)),
    }


def _interval(name: str, values: np.ndarray) -> dict[str, float]:
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(drawn, (2.5, 97.5)) if len(drawn) else (math.nan, math.nan)
    prefix = f"{name}_" if name else ""
    return {name or "value": values[0], f"{prefix}low": low, f"{prefix}high": high}


def _degradation(
    scored: dict[tuple[str, str], Scored], found: dict[tuple[str, ...], dict[str, Any]]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """How much larger errors are on degraded videos, in percent: of the paper's kinds, and all."""
    clean = "perturbation=none"
    kinds = {v: v.partition(";")[0].partition("=")[2] for v, _ in scored}
    degraded = [v for v, kind in kinds.items() if kind not in ("none", "h264")]
    papers = [v for v in degraded if kinds[v] in ("radial_attenuation", "shadow")]
    for name, chosen in (("mean of the paper's kinds", papers), ("mean of all kinds", degraded)):
        for model in [model for variant, model in scored if variant == clean and chosen]:
            base = scored[clean, model]["mae"]
            more = [100 * (scored[variant, model]["mae"] / base - 1) for variant in chosen]
            sizes = ("examples", "patients", "not_scored", "failed", "seeds")
            line = {size: found[clean, model, "mae"][size] for size in sizes}
            key = f"perturbation={name}; severity=all", model, "degradation"
            yield key, line | _interval("", np.mean(more, axis=0))
