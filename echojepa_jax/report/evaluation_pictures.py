"""Pictures of an evaluation: for each task, the main score of every model with its interval."""

import math
from collections.abc import Sequence

from echojepa_jax.evaluation.cells import MEASURE
from echojepa_jax.evaluation.rows import Row
from echojepa_jax.evaluation.tables import score_title
from echojepa_jax.report import plots
from echojepa_jax.report.pictures import Picture

SHARES = ("accuracy", "dice", "auroc")
"""Scores that are at most 1."""
NO_DOT = plots.Dot(math.nan, math.nan, math.nan)


def picture_of(task: str, rows: Sequence[Row]) -> Picture | None:
    """Draws the main score of a task: a line for each variant, a dot for each model.

    Returns None for measures without labels, which have several units.
    """
    first = rows[0]
    if first.kind == MEASURE:
        return None
    drawn = [row for row in rows if row.main == first.main]
    fields = [name for name in first.variant if len({row.variant[name] for row in drawn}) > 1]
    variants = list(dict.fromkeys(_name(row, fields, task) for row in drawn))
    found: dict[str, dict[str, plots.Dot]] = {}
    for row in drawn:
        dot = plots.Dot(*row.values[row.main])
        found.setdefault(row.model, {})[_name(row, fields, task)] = dot
    series = {
        model: [dots.get(variant, NO_DOT) for variant in variants] for model, dots in found.items()
    }
    title = score_title(first, first.main)
    highest = 1.0 if first.main in SHARES else None
    uri = plots.dots(variants, series, title, highest)
    alt = f"{title} of {len(series)} models in {len(variants)} variants of {task}."
    return Picture(f"{task}: {title}", uri, alt, "With 95 % intervals over patients.")


def _name(row: Row, fields: Sequence[str], task: str) -> str:
    """What distinguishes the variant of a row within its task."""
    return " ".join(row.variant[name] for name in fields if row.variant[name]) or task
