"""Maps of embeddings: a point for each video, coloured by a label; a panel for each label."""

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from echojepa_jax.features.embedding_map import (
    FOLDS,
    Embeddings,
    Labels,
    Projection,
    Separation,
    find_labels,
    project,
    read_embeddings,
    separation,
)
from echojepa_jax.report.measures import percent, score
from echojepa_jax.report.plots import COLOURS, FAINT, FIGURE_STYLE, save, short

MAX_CLASSES = 12
TITLE_WIDTH = 52  # characters of a line above a panel
MARKERS = "os"  # the second six classes have the same colours and another shape


def write_map(
    folder: Path, names: Sequence[str], file: Path, method: str = "pca", table: Path | None = None
) -> str:
    """Draws a map of the embeddings in a folder; returns sentences about it.

    Args:
      folder: of `embed`. names: labels to colour by, a panel each. file: .png, .svg or .pdf.
      method: "pca" or "umap". table: see `find_labels`.

    Raises:
      UserError: there are no embeddings or labels, umap-learn is missing, or the file cannot be
        written.
    """
    embeddings = read_embeddings(folder)
    labels = [find_labels(embeddings, name, table) for name in names]
    found = [_separation(embeddings, one) for one in labels]
    map_ = project(embeddings.values, method)
    save(draw(map_, labels, found), file)
    told = [f"{one.name}: {_sentence(f)}" for one, f in zip(labels, found, strict=True) if f]
    return "; ".join([f"{file} shows {len(embeddings.names):,} videos", *told])


def _separation(embeddings: Embeddings, labels: Labels) -> Separation | None:
    if labels.are_numbers:
        return None
    classes = [None if value is None else str(value) for value in labels.values]
    return separation(embeddings.values, classes, embeddings.patients())


def _sentence(found: Separation) -> str:
    """The numbers that are defined, as words."""
    parts = []
    if math.isfinite(found.silhouette):
        parts.append(f"silhouette {score(found.silhouette)}")
    if math.isfinite(found.accuracy):
        parts.append(
            f"logistic regression {percent(found.accuracy)} correct in {FOLDS} folds by patient "
            f"(commonest class {percent(found.commonest)})"
        )
    return ", ".join(parts) or "too few videos of two classes to measure their separation"


def draw(map_: Projection, labels: Sequence[Labels], found: Sequence[Separation | None]) -> Figure:
    """Panels side by side, one for each label [n].

    Args:
      found: numbers on each label; None = there are none, as for labels that are numbers.
    """
    columns = min(3, len(labels))
    rows = -(-len(labels) // columns)
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(5.4 * columns, 4.6 * rows), layout="constrained", dpi=130)
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.ravel()[len(labels) :]:
            ax.set_axis_off()
        for ax, one, numbers in zip(axes.ravel(), labels, found, strict=False):
            _draw_panel(ax, map_, one, numbers)
        note = f"{len(map_.points):,} videos, a point each"
        figure.suptitle(f"Embeddings: {note}", x=0.01, ha="left", fontsize=10.5)
    return figure


def _draw_panel(ax: Axes, map_: Projection, labels: Labels, found: Separation | None) -> None:
    x, y = map_.points.T
    ax.set(xlabel=map_.axes[0], ylabel=map_.axes[1], xticks=[], yticks=[])
    title = f"by {short(labels.name)}"
    if found:
        title += "\n" + textwrap.fill(_sentence(found), TITLE_WIDTH)
    ax.set_title(title)
    size = float(np.clip(6000 / len(x), 3, 22))
    known = np.array([value is not None for value in labels.values])
    settings: dict[str, Any] = {"s": size, "linewidths": 0, "rasterized": len(x) > 2000}
    missing = f"unknown ({np.count_nonzero(~known):,})"
    if not known.all():
        ax.scatter(x[~known], y[~known], color=FAINT, alpha=0.4, label=missing, **settings)
    if labels.are_numbers:
        values = [value for value in labels.values if value is not None]
        points = ax.scatter(x[known], y[known], c=values, cmap="viridis", **settings)
        unit = f" ({labels.unit})" if labels.unit else ""
        bar = ax.figure.colorbar(points, ax=ax, pad=0.02, fraction=0.05)
        bar.set_label(f"{short(labels.name)}{unit}")
        bar.outline.set_visible(False)
    else:
        for place, (name, members) in enumerate(_groups(labels)):
            ax.scatter(
                x[members],
                y[members],
                color=COLOURS[place % len(COLOURS)],
                marker=MARKERS[place // len(COLOURS)],
                alpha=0.7,
                label=f"{short(name)} ({len(members):,})",
                **settings,
            )
    if not (labels.are_numbers and known.all()):
        legend = ax.legend(loc="upper left", bbox_to_anchor=(1, 1), handletextpad=0.1, borderpad=0)
        for handle in filter(None, legend.legend_handles):
            handle.set(sizes=[22], alpha=1)


def _groups(labels: Labels) -> list[tuple[str, list[int]]]:
    """The classes by name, with their points; rare classes share one group."""
    counts = Counter(str(value) for value in labels.values if value is not None)
    several = len(counts) > MAX_CLASSES
    kept = {name for name, _ in counts.most_common(MAX_CLASSES - several)}
    groups: dict[str, list[int]] = {name: [] for name in sorted(kept)}
    for row, value in enumerate(labels.values):
        if value is not None:
            name = str(value) if str(value) in kept else "others"
            groups.setdefault(name, []).append(row)
    return list(groups.items())
