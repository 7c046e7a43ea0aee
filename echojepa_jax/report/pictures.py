"""Shared parts of all reports' pictures: titles, descriptions, and which panels to draw."""

import base64
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from echojepa_jax.report import plots
from echojepa_jax.report.measures import number, or_nan
from echojepa_jax.report.plots import Dot, Panel
from echojepa_jax.utils.bootstrap import with_intervals

RESAMPLES = 1000  # of the bootstrap over patients, for scores by view
FLAT = 1e-3  # lines that vary by a smaller share of their size are shown as a number
JPEG_QUALITY = 88  # a quarter of the size of PNG on speckle
MAX_VIEWS = 6


class Picture(NamedTuple):
    """An image (a data URI) with its title, its description as text, and a note."""

    title: str
    uri: str
    alt: str
    note: str = ""


def is_worth_drawing(panel: Panel) -> bool:
    """Whether a line has at least two points, and the values of all lines vary visibly."""
    finite = [series.finite() for series in panel.lines.values()]
    if max(len(values) for values in finite) < 2:
        return False
    values = np.concatenate(finite)
    return bool(np.ptp(values) > max(FLAT * np.abs(values).max(), panel.negligible))


def by_view(
    title: str,
    scores: Mapping[str, np.ndarray],
    views: Sequence[str],
    patients: Sequence[Any] | None,
    unit: str,
    highest: float | None = None,
    text: Callable[[float], str] = number,
) -> list[Picture]:
    """Mean scores of each view with 95 % intervals from a bootstrap over patients.

    Args:
      scores: by the name of a series, the score of each example [n].
      views: [n]. patients: [n]; None = unknown, without intervals.
      highest: the best possible score; None = there is none.

    Returns:
      One picture; none if there is only one view.
    """
    names = common_views(views)
    if len(set(names)) < 2:
        return []
    rows = {name: np.array([view == name for view in names]) for name in sorted(set(names))}

    def dot(values: np.ndarray, chosen: np.ndarray) -> Dot:
        ids = [str(patient) for patient in np.array(patients or [""] * len(names))[chosen]]
        found = with_intervals(
            lambda _, x: {"mean": float(np.mean(x))}, values[chosen], values[chosen], ids,
            RESAMPLES, 0,
        )["mean"]  # fmt: skip
        return Dot(*(or_nan(x) for x in found.values()))

    found = {
        name: [dot(np.asarray(values, float), chosen) for chosen in rows.values()]
        for name, values in scores.items()
    }
    labels = [f"{name} ({chosen.sum():,})" for name, chosen in rows.items()]
    parts = [
        f"{view} {text(dot.value)}{f' ({name})' if len(found) > 1 else ''}"
        for name, dots in found.items()
        for view, dot in zip(rows, dots, strict=True)
    ]
    alt = f"{title}: {', '.join(parts)}."
    note = "Bars are 95 % intervals." if patients else ""
    return [Picture(title, plots.dots(labels, found, unit, highest), alt, note)]


def common_views(views: Sequence[str]) -> list[str]:
    """The view of every example [n]; rare views share one name if there are too many views."""
    counts = Counter(views)
    if len(counts) == 1:
        return [""] * len(views)
    kept = {view for view, _ in counts.most_common(MAX_VIEWS - (len(counts) > MAX_VIEWS))}
    return [(view or "no view") if view in kept else "other views" for view in views]


def jpeg(picture: np.ndarray) -> str:
    """A picture, uint8 [h, w, 3], as a data URI."""
    # Full colour resolution, because otherwise a tint blurs over the edges of tokens.
    quality = [
        cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def curves(
    title: str,
    panels: Sequence[Panel],
    step: int,
    note: str = "",
    small: bool = False,
    unit: str = "step",
) -> Picture:
    """Panels over steps (or another unit); the description has the ends of each line."""
    courses = []
    for panel in panels:
        for name, series in panel.lines.items():
            values = series.finite() if len(series.finite()) else np.array([math.nan])
            what = name if len(panel.lines) > 1 else panel.title
            course = f"{what} from {number(values[0])} to {number(values[-1])}"
            courses.append(course.strip())
    alt = f"{title} over {step:,} {unit}s: {'; '.join(courses)}."
    return Picture(title, plots.curves(panels, step, small, unit), alt, note)
