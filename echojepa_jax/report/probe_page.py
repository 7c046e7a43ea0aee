"""The report of a probe run: one HTML page from the files of its workdir."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from echojepa_jax.data.units import of_errors
from echojepa_jax.probes import worst as worst_examples
from echojepa_jax.probes.files import WORST
from echojepa_jax.report import probe_clinical, probe_pictures
from echojepa_jax.report.measures import (
    DASH,
    interval,
    number,
    or_nan,
    percent,
    read_series,
    score,
    seconds_in_all,
)
from echojepa_jax.report.page import Card, about_run, read_json, without_folders, write_page
from echojepa_jax.report.pictures import jpeg
from echojepa_jax.report.probe_tables import (
    REGRESSION,
    Prediction,
    best,
    classes_of,
    grid,
    read_predictions,
    worst,
)
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.metrics_writer import FILE_NAME, read_lines
from echojepa_jax.utils.progress import duration

SHOWN_UNREADABLE = 20

TITLES = {
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "pearson": "Pearson's r",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "auroc": "AUROC",
    "majority_accuracy": "Accuracy of the majority of videos",
}
BASELINES = {
    "mae": "if the training mean is always predicted",
    "accuracy": "if the most common class is always predicted",
}
MAIN = {REGRESSION: "mae", "classification": "accuracy"}
WORDS = {"mae": "MAE", "accuracy": "accuracy"}  # inside a sentence
SHARES = ("accuracy", "balanced_accuracy", "majority_accuracy")


def write_probe_report(workdir: Path) -> Path:
    """Writes `report.html` into the workdir of a probe run or an evaluation; returns its path.

    Only `metrics.json` is required; sections whose files are missing are left out.

    Raises:
      UserError: metrics.json is missing.
    """
    results = read_json(workdir / "metrics.json")
    if not results:
        raise UserError(
            f"{workdir / 'metrics.json'} is missing: finish the probe run, which writes it"
        )
    config, manifest = read_json(workdir / "config.json"), read_json(workdir / "manifest.json")
    lines = read_lines(workdir / FILE_NAME)
    metrics = read_series(lines)
    task, test = results["task"], results["test"]
    kind, unit = task["kind"], task.get("unit", "")
    chosen = results.get("chosen") or {}
    # With views, each example is a study.
    what = "studies" if config.get("task", {}).get("views") else "videos"
    rows = read_predictions(workdir / "predictions.csv", kind)
    readable = [row for row in rows if not row.problem]
    true, predicted = np.array([(row.true, row.predicted) for row in readable]).reshape(-1, 2).T
    unreadable = [row for row in rows if row.problem]
    classes = classes_of(readable, task.get("classes") or [])

    reading = results.get("clinical") or {}
    groups = []
    for some, name in (
        (readable, what),
        (read_predictions(workdir / "studies.csv", kind), "means of studies"),
    ):
        if kind == REGRESSION:
            pictures = probe_pictures.regression(some, unit, name)
        else:
            pictures = probe_pictures.classification(some, classes, name)
        if some is readable and readable:
            pictures += probe_pictures.scores_by_view(readable, kind, unit)
        groups.append(pictures)
    main = MAIN[kind]
    baseline = or_nan(test.get("baseline", {}).get(main))
    value = or_nan(test["scores"][main]["value"])
    better = value < baseline if kind == REGRESSION else value > baseline
    helpless = math.isfinite(baseline) and not better
    cards = _cards(test, results.get("study"), kind, what, unit)
    if lines:
        took = duration(seconds_in_all(lines, manifest.get("started", "")))
        cards.append(Card("Duration", took, "of training, without the final test"))
    films = dict(chain(*worst_examples.read_worst(workdir / WORST)))
    values = {
        "verdict": _verdict(task, test, what)
        + ("; not better than the baseline" if helpless else ""),
        "good": not helpless,
        "cards": cards,
        "scores": _score_rows(test, results.get("study"), unit),
        "what": what,
        "pictures": list(filter(None, groups)),
        "reading": probe_clinical.tables(reading, kind, unit),
        "reading_pictures": probe_clinical.pictures(reading, true, predicted, kind, unit),
        "counted": probe_clinical.counted(reading, what),
        "learning": probe_pictures.learning(metrics, chosen.get("head", ""), kind, unit, baseline),
        "choice": _choice(chosen, kind, unit),
        "score_title": WORDS[main],
        "grid": [
            (row.name, _text(main, row.best, unit), f"{row.epoch or DASH}", row.chosen)
            for row in grid(metrics, chosen.get("head", ""), kind)
        ],
        "regression": kind == REGRESSION,
        "worst": _cases(readable, worst(readable, kind, worst_examples.COUNT), films, kind, unit),
        "best": _cases(
            readable,
            [i for i in best(readable, kind, worst_examples.BEST_COUNT) if i in films],
            *(films, kind, unit),
        ),
        "unreadable": [(row.id, row.problem) for row in unreadable[:SHOWN_UNREADABLE]],
        "unreadable_more": len(unreadable[SHOWN_UNREADABLE:]),
    }
    return write_page(workdir, "probe.html.jinja", values | about_run(workdir))


def _verdict(task: Mapping[str, Any], test: Mapping[str, Any], what: str) -> str:
    name, unit = MAIN[task["kind"]], task.get("unit", "")
    value = _text(name, test["scores"][name]["value"], unit)
    interval = _interval(name, test["scores"][name])
    between = f" ({interval})" if interval else ""
    return (
        f"{without_folders(task['target'])}: {WORDS[name]} {value}{between} "
        f"on {test['examples']:,} {what} of {counted(test['patients'], 'patient')}"
    )


def _cards(
    test: Mapping[str, Any], study: Mapping[str, Any] | None, kind: str, what: str, unit: str
) -> list[Card]:
    """Cards with the main score of examples and of studies, and the unreadable examples."""
    main, second = MAIN[kind], "r2" if kind == REGRESSION else "auroc"
    cards = []
    for part, suffix in ((test, ""), (study, ", mean of a study")):
        if not part:
            continue
        notes = [_interval(main, part["scores"][main])]
        if main in part.get("baseline", {}):
            notes.append(f"{_text(main, part['baseline'][main], unit)} {BASELINES[main]}")
        if second in part["scores"]:
            found = part["scores"][second]
            notes.append(f"{TITLES[second]} {_text(second, found['value'])}")
        if suffix:
            notes.append(
                f"{counted(part['examples'], 'study')} of {counted(part['patients'], 'patient')}"
            )
        value = _text(main, part["scores"][main]["value"], unit)
        cards.append(Card(TITLES[main] + suffix, value, "; ".join(filter(None, notes))))
    if test.get("unreadable"):
        cards.append(Card("Unreadable", f"{test['unreadable']:,} {what}", "without a prediction"))
    return cards


def _score_rows(
    test: Mapping[str, Any], study: Mapping[str, Any] | None, unit: str
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows (score, (value, interval) of examples and of studies)."""
    parts = [part["scores"] for part in (test, study) if part]
    return [
        (
            TITLES.get(name, name),
            [
                (_text(name, part[name]["value"], unit), _bounds(name, part[name]))
                if name in part
                else (DASH, DASH)
                for part in parts
            ],
        )
        for name in dict.fromkeys(name for part in parts for name in part)
    ]


def _bounds(name: str, found: Mapping[str, Any]) -> str:
    return _interval(name, found).removeprefix("95 % interval ") or DASH


def _cases(
    readable: Sequence[Prediction],
    chosen: Sequence[int],
    pictures: Mapping[int, np.ndarray],
    kind: str,
    unit: str,
) -> list[dict[str, str]]:
    """Predictions as texts, each with its picture as a data URI, or ""."""
    rows = []
    for i in chosen:
        row = readable[i]
        true, predicted, spread = row.target, row.prediction, number(row.spread)
        if kind == REGRESSION:
            true, predicted = number(row.true, unit), number(row.predicted, unit)
            spread = number(row.spread, of_errors(unit))
        picture = jpeg(pictures[i]) if i in pictures else ""
        rows.append(
            {"id": row.id, "view": row.view, "true": true, "predicted": predicted,
             "spread": spread, "picture": picture}
        )  # fmt: skip
    return rows


def _interval(name: str, found: Mapping[str, Any]) -> str:
    return interval((found.get("low"), found.get("high")), partial(_text, name))


def _choice(chosen: Mapping[str, Any], kind: str, unit: str) -> str:
    """A sentence about how the tested head was chosen."""
    if not chosen.get("head"):
        return ""
    name = MAIN[kind]
    reached = f"{WORDS[name]} {_text(name, chosen.get('val_score'), unit)}"
    return (
        f"Head {chosen['head']} after epoch {chosen['epoch']:,} of {chosen['epochs']:,} was chosen "
        f"by its validation score, {reached}."
    )


def _text(name: str, value: float | None, unit: str = "") -> str:
    """A score as text, with its unit; a dash if it is not defined."""
    if name in ("mae", "rmse"):
        return number(or_nan(value), of_errors(unit))
    return percent(or_nan(value)) if name in SHARES else score(or_nan(value))
