"""The report of an evaluation suite: one HTML page with all its tables and their pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from echojepa_jax.evaluation.overlays import Overlay
from echojepa_jax.evaluation.readings import Reading
from echojepa_jax.evaluation.tables import Result, tables
from echojepa_jax.report import probe_clinical
from echojepa_jax.report.evaluation_pictures import picture_of
from echojepa_jax.report.page import about_run, without_folders, write_page
from echojepa_jax.report.pictures import Picture, jpeg
from echojepa_jax.report.probe_clinical import Table
from echojepa_jax.utils.counts import counted

REPORT = "report.html"
_GAP = 4  # pixels between two frames of a strip


def write_evaluation_report(workdir: Path, result: Result) -> Path:
    """Writes `report.html` into the workdir of a suite and returns its path."""
    names = [facts.name for facts in result.models]
    pictures = {task: picture_of(task, rows) for task, rows in result.rows.items()}
    values = {
        "verdict": f"{counted(len(result.rows), 'task')}, {counted(len(names), 'model')}: "
        + ", ".join(names),
        "good": True,
        "cards": [],
        "first": names[0],
        "tables": [
            (
                table.title,
                table.note,
                pictures.get(table.title),
                table.columns,
                [list(map(without_folders, row)) for row in table.rows],
                [
                    (film, without_folders(film.name), jpeg(film.picture))
                    for film in result.films.get(table.title, ())
                ],
            )
            for table in tables(result)
        ],
        "readings": {task: _readings(found) for task, found in result.readings.items()},
        "strips": {task: _strips(found) for task, found in result.overlays.items()},
    }
    return write_page(workdir, "evaluation.html.jinja", values | about_run(workdir), REPORT)


def _readings(found: Mapping[str, Reading]) -> list[tuple[str, str, list[Picture], list[Table]]]:
    """Of each model: its name, how many are scored, pictures and tables."""
    return [
        (
            model,
            probe_clinical.counted(one.found, "test examples"),
            probe_clinical.pictures(one.found, one.true, one.predicted, one.kind, one.unit),
            probe_clinical.tables(one.found, one.kind, one.unit),
        )
        for model, one in found.items()
    ]


def _strips(overlays: Sequence[Overlay]) -> list[Picture]:
    """One picture for each model: its frames beside each other."""
    strips = []
    for model in dict.fromkeys(one.model for one in overlays):
        mine = [one for one in overlays if one.model == model]
        gap = np.zeros((mine[0].picture.shape[0], _GAP, 3), np.uint8)
        parts = [part for one in mine for part in (one.picture, gap)]
        frames = ", ".join(one.about for one in mine)
        strips.append(Picture(model, jpeg(np.hstack(parts[:-1])), f"{model} on {frames}.", frames))
    return strips
