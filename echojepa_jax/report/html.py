"""The report of a run: one HTML page without any file beside it, from the files of its workdir."""

import importlib.resources
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from echojepa_jax.report import examples, pictures
from echojepa_jax.report.measures import (
    DASH,
    MINUS,
    Metrics,
    alarms,
    health_summary,
    label,
    last,
    number,
    percent,
    probe_scores,
    read_series,
    score,
)
from echojepa_jax.train.health import JUDGED_FROM
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.writers import FILE_NAME, read_lines


class Card(NamedTuple):
    """A key number."""

    label: str
    value: str
    note: str = ""


class Refused(NamedTuple):
    """Files that were left out for one reason."""

    stage: str
    kind: str
    reason: str
    files: int
    example: str


def write_report(workdir: Path) -> Path:
    """Writes `report.html` into the workdir of a finished or interrupted run and returns its path.

    Only `metrics.jsonl` must be there; what the other files would show is left out without them.

    Raises:
      UserError: there are no metrics.
    """
    metrics = read_series(read_lines(workdir / FILE_NAME))
    if not metrics:
        raise UserError(f"{workdir / FILE_NAME} is missing or empty: train first, then report")
    config = _read_json(workdir / "config.json")
    probe = _read_json(workdir / "probe.json")
    refused = _refused(read_lines(workdir / "quarantine.jsonl"))

    step = int(max(series.steps[-1] for series in metrics.values()))
    optim = config.get("optim", {})
    total = optim.get("epochs", 0) * optim.get("updates_per_epoch", 0)
    judged_from = JUDGED_FROM * (total or step)
    page = _template().render(
        name=workdir.resolve().name,
        verdict=_verdict(step, total),
        complete=step >= total,
        alarms=alarms(metrics, judged_from),
        cards=[*_probe_cards(metrics, probe), *_training_cards(metrics, refused)],
        training=pictures.training(metrics, step),
        health=pictures.health(metrics, step, judged_from),
        health_summary=health_summary(metrics),
        probe_curves=pictures.probe_curves(metrics, step),
        probe_results=pictures.probe_results(probe),
        examples=pictures.masked_clips(workdir / "examples.npz"),
        # As CSS colours: what lies over the pixels of a token.
        legend={
            "context": "rgba(0, 0, 0, 0)",
            "target": f"rgba{(*examples.TARGET_COLOUR, examples.TARGET_OPACITY)}",
            "dropped": f"rgba{(*examples.DROPPED_COLOUR, examples.DROPPED_OPACITY)}",
        },
        facts=list(_flat(_read_json(workdir / "manifest.json"))),
        config=list(_flat(config)),
        refused=refused,
    )
    path = workdir / "report.html"
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(page, encoding="utf-8")
    os.replace(scratch, path)
    return path


def _template() -> jinja2.Template:
    text = importlib.resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _verdict(step: int, total: int) -> str:
    if not total:
        return f"reached step {step:,}"
    return f"{'complete' if step >= total else 'not finished'}: {step:,} of {total:,} steps"


def _training_cards(metrics: Metrics, refused: Sequence[Refused]) -> list[Card]:
    cards = []
    if "loss" in metrics:
        losses = metrics["loss"].finite()
        note = f"{number(losses[0])} at the start" if len(losses) else ""
        cards.append(Card("Final loss", number(last(metrics, "loss")), note))
    if "clips_per_second" in metrics:
        rate = number(metrics["clips_per_second"].median())
        cards.append(Card("Throughput", f"{rate} clips/s", "median"))
    if "data_wait_share" in metrics:
        share = percent(metrics["data_wait_share"].median())
        cards.append(Card("Data wait", share, "of step time, median"))
    if "skipped_steps" in metrics:
        skipped = int(last(metrics, "skipped_steps"))
        cards.append(Card("Skipped steps", f"{skipped:,}", "loss or gradient not finite"))
    if "padded_share" in metrics:
        share = percent(last(metrics, "padded_share"))
        cards.append(Card("Padded clips", share, "video too short for a clip"))
    if refused or "quarantined" in metrics:
        stills = sum(row.files for row in refused if row.kind == "still")
        bad = sum(row.files for row in refused) - stills
        cards.append(Card("Quarantined", f"{bad:,} files", f"and {stills:,} single-frame stills"))
    return cards


def _probe_cards(metrics: Metrics, probe: Mapping[str, Any]) -> list[Card]:
    """The probe on the trained encoder beside the same probe on the encoder at initialisation."""
    cards = []
    for target, kind, series, before in probe_scores(metrics):
        now = last({"score": series}, "score")
        if kind == "mae":
            unit = probe.get("regression", {}).get(target, {}).get("unit", "")
            title, value, reference = "MAE", number(now, unit), number(before, unit)
        elif kind == "r2":
            title, value, reference = "R²", score(now), score(before)
        else:
            title, value, reference = "accuracy", percent(now), percent(before)
        note = "" if math.isnan(before) else f"{reference} at initialisation"
        if kind == "mae" and before > 0:
            note += f" ({100 * (now / before - 1):+.1f} %)".replace("-", MINUS)
        cards.append(Card(f"{label(target)} {title}", value, note))
    return cards


def _refused(lines: Sequence[Mapping[str, Any]]) -> list[Refused]:
    """Counts files by reason; what follows a colon is one file's detail."""
    groups: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for line in lines:
        reason, _, detail = line["reason"].partition(": ")
        groups[line["stage"], line["kind"], reason][line["path"]] = detail
    rows = [
        Refused(*group, files=len(details), example=_without_folders(next(iter(details.values()))))
        for group, details in groups.items()
    ]
    return sorted(rows, key=lambda row: -row.files)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Rows (dotted name, value) of nested dictionaries."""
    for key, value in tree.items():
        name = f"{prefix}{_without_folders(key)}"
        if isinstance(value, Mapping):
            yield from _flat(value, name + ".")
        elif isinstance(value, list):
            yield name, ", ".join(_without_folders(str(item)) for item in value) or DASH
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, f"{value:,}"
        else:
            yield name, _without_folders(str(value)) or DASH


def _without_folders(text: str) -> str:
    """Shortens absolute paths: a report is shown to others, and folders may name people."""
    return re.sub(r"(?<![\w./])/(?:[^\s/'\",]+/)+", "…/", text)
