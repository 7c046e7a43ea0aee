"""The report of a probe run: one HTML page from the files of its workdir."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echojepa_jax.data.units import of_errors
from echojepa_jax.report import probe_pictures
from echojepa_jax.report.measures import DASH, number, percent, read_series, score
from echojepa_jax.report.page import (
    Card,
    flat,
    read_json,
    refused_files,
    without_folders,
    write_page,
)
from echojepa_jax.report.probe_tables import (
    REGRESSION,
    Prediction,
    classes_of,
    grid,
    outcomes,
    read_predictions,
    worst,
)
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.metrics_writer import FILE_NAME, read_lines

SHOWN_WORST, SHOWN_UNREADABLE = 10, 20

TITLES = {
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "pearson": "Pearson's r",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "auroc": "AUROC",
}
BASELINES = {"mae": "always the mean of training", "accuracy": "always the commonest class"}
MAIN = {REGRESSION: "mae", "classification": "accuracy"}
WORDS = {"mae": "MAE", "accuracy": "accuracy"}  # inside a sentence
SHARES = ("accuracy", "balanced_accuracy")


def write_probe_report(workdir: Path) -> Path:
    """Writes `report.html` into the workdir of a probe run or an evaluation; returns its path.

    Only `metrics.json` must be there; what the other files would show is left out without them.

    Raises:
      UserError: there is no metrics.json.
    """
    results = read_json(workdir / "metrics.json")
    if not results:
        raise UserError(f"{workdir / 'metrics.json'} is missing: a probe run writes it at its end")
    config = read_json(workdir / "config.json")
    metrics = read_series(read_lines(workdir / FILE_NAME))
    task, test = results["task"], results["test"]
    kind, unit = task["kind"], task.get("unit", "")
    chosen = results.get("chosen") or {}
    # With views, an example is a study.
    what = "studies" if config.get("task", {}).get("views") else "videos"
    rows = read_predictions(workdir / "predictions.csv", kind)
    readable = [row for row in rows if not row.problem]
    unreadable = [row for row in rows if row.problem]
    classes = classes_of(readable, task.get("classes") or [])

    pictures = []
    for some, name in (
        (readable, what),
        (read_predictions(workdir / "studies.csv", kind), "means of studies"),
    ):
        if kind == REGRESSION:
            pictures += probe_pictures.regression(some, unit, name)
        else:
            pictures += probe_pictures.classification(some, classes, name)
    main = MAIN[kind]
    baseline = _float(test.get("baseline", {}).get(main))
    value = _float(test["scores"][main]["value"])
    better = value < baseline if kind == REGRESSION else value > baseline
    helpless = math.isfinite(baseline) and not better
    values = {
        "verdict": _verdict(task, test, what) + ("; no better than a guess" if helpless else ""),
        "good": not helpless,
        "cards": _cards(test, results.get("study"), what, unit),
        "pictures": pictures,
        "outcomes": [
            (row.name, f"{row.examples:,}", percent(row.sensitivity), percent(row.precision))
            for row in outcomes(readable, classes if kind != REGRESSION else [])
        ],
        "learning": probe_pictures.learning(metrics, chosen.get("head", ""), kind, unit, baseline),
        "choice": _choice(chosen, kind, unit),
        "score_title": WORDS[main],
        "grid": [
            (row.name, _text(main, row.best, unit), f"{row.epoch or DASH}", row.chosen)
            for row in grid(metrics, chosen.get("head", ""), kind)
        ],
        "regression": kind == REGRESSION,
        "worst": [_row(row, kind, unit) for row in worst(readable, kind, SHOWN_WORST)],
        "unreadable": [(row.id, row.problem) for row in unreadable[:SHOWN_UNREADABLE]],
        "unreadable_more": len(unreadable[SHOWN_UNREADABLE:]),
        "facts": list(flat(read_json(workdir / "manifest.json"))),
        "config": list(flat(config)),
        "refused": refused_files(workdir),
    }
    return write_page(workdir, "probe.html.jinja", values)


def _verdict(task: Mapping[str, Any], test: Mapping[str, Any], what: str) -> str:
    name, unit = MAIN[task["kind"]], task.get("unit", "")
    value = _text(name, test["scores"][name]["value"], unit)
    interval = _interval(name, test["scores"][name])
    between = f" ({interval})" if interval else ""
    return (
        f"{without_folders(task['target'])}: {WORDS[name]} {value}{between} "
        f"on {test['examples']:,} {what} of {test['patients']:,} patients"
    )


def _cards(
    test: Mapping[str, Any], study: Mapping[str, Any] | None, what: str, unit: str
) -> list[Card]:
    """Every score with its interval, then those of studies, then what could not be read."""
    cards = []
    for part, suffix in ((test, ""), (study, ", mean of a study")):
        if not part:
            continue
        for name, found in part["scores"].items():
            notes = [_interval(name, found)]
            if name in part.get("baseline", {}):
                notes.append(f"{_text(name, part['baseline'][name], unit)} {BASELINES[name]}")
            if suffix and name in BASELINES:
                notes.append(f"{part['examples']:,} studies of {part['patients']:,} patients")
            title = TITLES.get(name, name) + suffix
            value = _text(name, found["value"], unit)
            cards.append(Card(title, value, "; ".join(filter(None, notes))))
    if test.get("unreadable"):
        cards.append(Card("Unreadable", f"{test['unreadable']:,} {what}", "without a prediction"))
    return cards


def _interval(name: str, found: Mapping[str, Any]) -> str:
    low, high = found.get("low"), found.get("high")
    if low is None or high is None:
        return ""
    # The unit stands with the value.
    return f"95 % interval {_text(name, low).removesuffix(' %')} to {_text(name, high)}"


def _choice(chosen: Mapping[str, Any], kind: str, unit: str) -> str:
    """How the head that was tested came to be."""
    if not chosen.get("head"):
        return ""
    name = MAIN[kind]
    reached = f"{WORDS[name]} {_text(name, chosen.get('val_score'), unit)}"
    return (
        f"Head {chosen['head']} after epoch {chosen['epoch']:,} of {chosen['epochs']:,} was chosen "
        f"by its validation score, {reached}."
    )


def _row(row: Prediction, kind: str, unit: str) -> tuple[str, str, str, str]:
    if kind == REGRESSION:
        spread = number(row.spread, of_errors(unit))
        return row.id, number(row.true, unit), number(row.predicted, unit), spread
    return row.id, row.target, row.prediction, number(row.spread)


def _text(name: str, value: float | None, unit: str = "") -> str:
    """A score as people write it; a dash if it is not defined."""
    if name in ("mae", "rmse"):
        return number(_float(value), of_errors(unit))
    return percent(_float(value)) if name in SHARES else score(_float(value))


def _float(value: float | None) -> float:
    return math.nan if value is None else value
