"""Figures of the reports as SVG data URIs: curves, scatter, histogram, confusion matrix and others.

Figures are built without pyplot, which keeps global state. A page contains an SVG as an image, not
inline, so that its ids cannot clash with those of another figure. Its colours are CSS variables,
which change in dark mode.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from echojepa_jax.data.units import of_errors
from echojepa_jax.report.measures import MINUS, Series, number
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import whole

# Okabe and Ito's palette, which colour-blind readers can distinguish.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
)  # fmt: skip
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
INK, FAINT, GRID = "#1f2933", "#8a94a0", "#e4e8ec"
ALARM, ALARM_HATCH, ALARM_TEXT = "#fbeadf", "#eebfa3", "#a34700"
# The colour on a dark page for each colour that changes there.
DARK = {
    INK: "#e3e8ed", GRID: "#2b343e", ALARM: "#33231a", ALARM_HATCH: "#6e4630",
    ALARM_TEXT: "#ffab70", BLUE: "#4fa8e0", VERMILION: "#f0803c", GREEN: "#2fc79a",
    SKY: "#a3ddff",
}  # fmt: skip

MAX_POINTS = 600  # of a curve; more are averaged in groups
CELL_NUMBERS_UP_TO = 12  # classes; a larger confusion matrix has colours only
MAX_NAME = 20  # characters of a class or view in a figure; longer texts break its layout
MAX_VECTOR_POINTS = 4000  # of a scatter; more become a bitmap, so that the page stays small

FIGURE_STYLE: dict[Any, Any] = {
    # Text stays text, in the reader's own fonts, for small files. Layout uses the last font.
    "svg.fonttype": "none",
    "svg.hashsalt": "echojepa_jax",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # names of views and classes may contain $
    "figure.facecolor": "none",
    "savefig.facecolor": "auto",
    "axes.facecolor": "none",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.prop_cycle": cycler(color=COLOURS),
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "hatch.color": ALARM_HATCH,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


class Panel(NamedTuple):
    """One pair of axes.

    title: what is drawn, with its unit.
    lines: by name; names are shown if there is more than one line, or a reference.
    lowest, highest: values that the axis must include; None = only the range of the lines.
    negligible: lines whose values differ by less than this are not drawn.
    reference: height of a dashed line, the value of the encoder at initialisation.
    interval, reference_interval: (low, high) of the last value and of the reference.
    alarm_above: values above it raise an alarm.
    alarm_below_best: values below this share of the best one so far raise an alarm.
    alarm_after: only values of later steps can raise an alarm.
    others: further lines without names, thin and grey, behind the rest.
    """

    title: str
    lines: dict[str, Series]
    lowest: float | None = None
    highest: float | None = None
    negligible: float = 0.0
    reference: float | None = None
    interval: tuple[float, float] | None = None
    reference_interval: tuple[float, float] | None = None
    alarm_above: float | None = None
    alarm_below_best: float | None = None
    alarm_after: float = 0.0
    others: Sequence[Series] = ()


def curves(
    panels: Sequence[Panel], last_step: int, small: bool = False, x_label: str = "step"
) -> str:
    """Panels above each other over the same steps (or another `x_label`), 0..last_step."""
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(3.0, 2.1) if small else (4.6, 2.7), layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
        for ax, panel in zip(axes, panels, strict=True):
            _draw(ax, panel, compact=len(panels) > 1)
        axes[-1].set_xlim(0, max(1, last_step))
        axes[-1].xaxis.set_major_locator(MaxNLocator(4 if small else 6, integer=True))
        axes[-1].set_xlabel(x_label)
        return _svg(figure)


def scatter(
    true: Sequence[float],
    predicted: Sequence[float],
    groups: Sequence[str],
    unit: str,
    limits: tuple[float, float],
) -> str:
    """Predicted over true values [n], coloured by group [n] (the view), with the identity line."""
    with mpl.rc_context(FIGURE_STYLE):
        return _svg(_scatter(true, predicted, groups, unit, limits))


def scatter_picture(
    true: np.ndarray, predicted: np.ndarray, groups: Sequence[str], unit: str
) -> np.ndarray:
    """The same figure as pixels on white, for TensorBoard: uint8 [1, H, W, 3]."""
    with mpl.rc_context(FIGURE_STYLE | {"figure.facecolor": "white"}):
        figure = _scatter(true, predicted, groups, unit, limits_of([*true, *predicted]))
        figure.set_dpi(120)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[None, ..., :3].copy()


def limits_of(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that contains these values; never empty, even if all are equal."""
    margin = 0.04 * (max(values) - min(values)) + 1e-6
    return min(values) - margin, max(values) + margin


def _scatter(
    true: Sequence[float] | np.ndarray,
    predicted: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    unit: str,
    limits: tuple[float, float],
) -> Figure:
    figure = Figure(figsize=(4.6, 4.2), layout="constrained", dpi=200)
    ax = figure.subplots()
    ax.plot(limits, limits, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    _draw_points(ax, np.asarray(true), np.asarray(predicted), groups)
    suffix = f" ({unit})" if unit else ""
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.set(xlabel=f"true{suffix}", ylabel=f"predicted{suffix}")
    return figure


def histogram(values: Sequence[float], x_label: str) -> str:
    """A histogram of the videos' values [n], which must not all be equal."""
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(3.0, 2.1), layout="constrained")
        ax = figure.subplots()
        ax.hist(values, bins=min(30, max(5, len(set(values)))), color=BLUE)
        ax.set(xlabel=x_label, ylabel="videos")
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        return _svg(figure)


class Dot(NamedTuple):
    """A score with its 95 % interval, which is NaN if there is none."""

    value: float
    low: float
    high: float


def dots(
    rows: Sequence[str], series: Mapping[str, Sequence[Dot]], x_label: str, highest: float | None
) -> str:
    """Scores side by side: a row for each name, a dot with its interval for each series [rows].

    Args:
      highest: the largest possible score; None = there is none. The axis begins at 0.
    """
    with mpl.rc_context(FIGURE_STYLE):
        # Room for every dot, and never more than a line's height between those of one row.
        height = max(4.2, 1 + 0.13 * len(rows) * len(series))
        figure = Figure(figsize=(4.6, height), layout="constrained")
        ax = figure.subplots()
        step = min(0.22, 0.8 / len(series))
        for i, (name, found) in enumerate(series.items()):
            y = np.arange(len(rows)) + step * (i - (len(series) - 1) / 2)
            value, low, high = np.array(found, float).T
            reach = np.nan_to_num([value - low, high - value])
            ax.errorbar(value, y, xerr=reach, fmt="osD^vP"[i % 6], markersize=5, elinewidth=1.4,
                        color=COLOURS[i % len(COLOURS)], label=name)  # fmt: skip
        ax.set_yticks(range(len(rows)), [short(name) for name in rows])
        ax.set_ylim(len(rows) - 0.45, -0.55)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.set(xlabel=x_label, xlim=(min(0.0, ax.get_xlim()[0] if highest else 0.0), highest))
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=min(3, len(series)), handletextpad=0.1)
        return _svg(figure)


def bland_altman(
    true: Sequence[float], predicted: Sequence[float], groups: Sequence[str], unit: str
) -> str:
    """Predicted - true over the mean of both [n], coloured by group [n].

    Lines are the mean difference and the 95 % limits of agreement, with their values at the right.
    """
    # Here, because the report of a training needs neither scikit-learn nor a second to import it.
    from echojepa_jax.probes.clinical import agreement

    x, y = np.asarray(true, float), np.asarray(predicted, float)
    bias, low, high = agreement(true, predicted)
    lines = {bias: "mean"}
    if high - low > 1e-6 * np.abs(y).max():  # otherwise their labels would overlap
        lines |= {low: f"{MINUS}1.96 SD", high: "+1.96 SD"}
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(4.6, 4.2), layout="constrained", dpi=200)
        ax = figure.subplots()
        _draw_points(ax, (x + y) / 2, y - x, groups)
        for height, name in lines.items():
            style = "solid" if name == "mean" else (0, (4, 3))
            ax.axhline(height, color=INK, linewidth=1, linestyle=style)
        right = ax.secondary_yaxis("right")
        texts = [f"{name}\n{number(value)}".replace("-", MINUS) for value, name in lines.items()]
        right.set_yticks(list(lines), texts)
        right.tick_params(length=0, labelsize=8.5)
        right.spines[:].set_visible(False)
        suffix, of_difference = (f" ({u})" if u else "" for u in (unit, of_errors(unit)))
        ax.set(
            xlabel=f"mean of true and predicted{suffix}",
            ylabel=f"predicted {MINUS} true{of_difference}",
        )
        return _svg(figure)


def calibration(
    true: Sequence[float], predicted: Sequence[float], slope: float, intercept: float, unit: str
) -> str:
    """True over predicted values [n] with true = intercept + slope x predicted, the line of
    equality, and the means of tenths of the examples by their prediction."""
    x, y = np.asarray(predicted, float), np.asarray(true, float)
    low, high = limits_of([*x, *y])
    ends = np.array([x.min(), x.max()])
    tenths = np.array_split(np.argsort(x, kind="stable"), min(10, len(x)))
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(4.6, 4.2), layout="constrained", dpi=200)
        ax = figure.subplots()
        ax.plot((low, high), (low, high), color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        ax.scatter(x, y, s=12, color=BLUE, alpha=0.35, linewidths=0,
                   rasterized=len(x) > MAX_VECTOR_POINTS)  # fmt: skip
        ax.plot(ends, intercept + slope * ends, color=VERMILION)
        ax.plot([x[part].mean() for part in tenths], [y[part].mean() for part in tenths], "o",
                color=INK, markersize=5, fillstyle="none")  # fmt: skip
        suffix = f" ({unit})" if unit else ""
        ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        ax.set(xlabel=f"predicted{suffix}", ylabel=f"true{suffix}")
        return _svg(figure)


def confusion(true: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> str:
    """The confusion matrix of true [n] and predicted classes [n]; colours are shares of a row."""
    place = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), int)
    for row, column in zip(true, predicted, strict=True):
        counts[place[row], place[column]] += 1
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    # From transparent to blue, which suits light and dark pages.
    colours = LinearSegmentedColormap.from_list("", ["#2a7ab900", "#2a7ab9ff"])
    with mpl.rc_context(FIGURE_STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(4.6, 4.2), layout="constrained")
        ax = figure.subplots()
        # pcolormesh draws vectors; imshow would put a bitmap into the SVG.
        ax.pcolormesh(share, cmap=colours, vmin=0, vmax=1, edgecolors=GRID, linewidth=1)
        if len(classes) <= CELL_NUMBERS_UP_TO:
            for (row, column), count in np.ndenumerate(counts):
                colour = "white" if share[row, column] > 0.6 else INK
                ax.text(column + 0.5, row + 0.5, str(count), color=colour, ha="center", va="center")
        ticks = np.arange(len(classes)) + 0.5
        names = [short(name) for name in classes]
        crowded = len(names) > 5 or sum(len(name) for name in names) > 40
        ax.set_xticks(ticks, names, rotation=45 if crowded else 0)
        ax.set_yticks(ticks, names)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.invert_yaxis()
        ax.set(xlabel="predicted", ylabel="true", aspect="equal")
        return _svg(figure)


def _draw_points(ax: Axes, x: np.ndarray, y: np.ndarray, groups: Sequence[str]) -> None:
    """Draws points [n] with a colour and a shape per group [n], and a legend for several groups."""
    names = sorted(set(groups))
    for i, name in enumerate(names):
        rows = np.array([group == name for group in groups])
        ax.scatter(
            x[rows],
            y[rows],
            s=20,
            marker="osD^vP"[i % 6],
            color=COLOURS[i % len(COLOURS)],
            alpha=0.75,
            linewidths=0,
            label=short(name),
            rasterized=len(x) > MAX_VECTOR_POINTS,
        )
    if len(names) > 1:
        ax.legend(loc="upper left", handletextpad=0.1, borderpad=0)


def short(name: str) -> str:
    """The name of a class or view, cut off if it is too long for a figure."""
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def _draw(ax: Axes, panel: Panel, compact: bool) -> None:
    several = len(panel.lines) > 1 or panel.reference is not None or panel.others
    for name, series in panel.lines.items():
        steps, mean, low, high = _thin(series)
        (line,) = ax.plot(steps, mean, label=name if several else None)
        if len(steps) < len(series.steps):
            ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
        elif len(steps) <= 25:
            # The first and the last marker are on the edge of the axes.
            line.set(marker="o", markersize=3.5, clip_on=False)
        if panel.interval:
            ax.vlines(steps[-1], *panel.interval, color=line.get_color(), linewidth=5, alpha=0.4,
                      clip_on=False)  # fmt: skip
    for i, series in enumerate(panel.others):
        steps, mean, _, _ = _thin(series)
        ax.plot(steps, mean, color=FAINT, linewidth=0.8, alpha=0.6, zorder=1.5,
                label=None if i else "others")  # fmt: skip
    # A cross marks every step whose value was not finite; these steps are equal for all lines.
    first = next(iter(panel.lines.values()))
    lost = first.steps[np.isnan(first.values)]
    if len(lost):
        low_edge = ax.get_xaxis_transform()
        ax.plot(lost, np.zeros(len(lost)), "x", color=VERMILION, transform=low_edge, clip_on=False,
                markersize=5, label="not finite")  # fmt: skip
    if panel.reference is not None:
        ax.axhline(panel.reference, color=FAINT, linestyle=(0, (4, 3)), label="random weights")
    if panel.reference_interval:
        ax.axhspan(*panel.reference_interval, color=FAINT, alpha=0.15, linewidth=0)
    ax.margins(x=0.02, y=0.12)
    _set_limits(ax, panel)
    _draw_alarm(ax, panel)
    ax.set_title(panel.title)
    ax.yaxis.set_major_locator(MaxNLocator(3 if compact else 5))
    ax.yaxis.set_major_formatter("{x:.4g}")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="best")


def _set_limits(ax: Axes, panel: Panel) -> None:
    """Makes the axis include the panel's lowest and highest value, without a margin there."""
    values = np.concatenate([series.finite() for series in (*panel.lines.values(), *panel.others)])
    marks = [panel.reference, *(panel.interval or ()), *(panel.reference_interval or ())]
    values = np.r_[values, [mark for mark in marks if mark is not None]]
    low, high = ax.get_ylim()
    if panel.lowest is not None and not (values < panel.lowest).any():
        low = panel.lowest
    if panel.highest is not None and not (values > panel.highest).any():
        high = panel.highest
    ax.set_ylim(low, high)


def _draw_alarm(ax: Axes, panel: Panel) -> None:
    """Hatches the zone that raises an alarm, and makes room for it if the curve is far away."""
    if panel.alarm_above is None and panel.alarm_below_best is None:
        return
    (series,) = panel.lines.values()
    judged = series.steps > panel.alarm_after
    if not np.isfinite(series.values[judged]).any():
        return
    # The zone extends to the right edge of the axes.
    steps = np.array([panel.alarm_after, *series.steps[judged], 2 * series.steps[-1] + 1])
    if panel.alarm_above is not None:
        edge = panel.alarm_above
        low, high = ax.get_ylim()
        # The edge and the text under it must be inside the axes; text outside changes the layout.
        low = min(low, edge - 0.2 * (high - edge))
        if panel.highest is None:
            high = max(high, edge + 0.2 * (edge - low))
        ax.set_ylim(low, high)
        zone = ax.fill_between(steps, edge, high)
        # Under the zone, which may be thin.
        text, height, va = f"alarm above {edge:g}", edge, "top"
        transform = ax.get_yaxis_transform()
    else:
        best = np.fmax.accumulate(series.values[judged])
        zone = ax.fill_between(steps, 0, panel.alarm_below_best * np.r_[best[0], best, best[-1]])
        text, height, va = "alarm", 0.05, "bottom"
        transform = ax.transAxes
    zone.set(facecolor=ALARM, edgecolor=ALARM_HATCH, hatch="///", linewidth=0, zorder=0.5)
    ax.text(0.985, height, text, transform=transform, ha="right", va=va, color=ALARM_TEXT,
            fontsize=8.5)  # fmt: skip


def _thin(series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """At most MAX_POINTS points (steps, mean, smallest, largest); a group with only NaNs is NaN."""
    size = -(-len(series.steps) // MAX_POINTS)
    if size <= 1:
        return series.steps, series.values, series.values, series.values
    starts = np.arange(0, len(series.steps), size)
    finite = np.isfinite(series.values)
    count = np.add.reduceat(finite.astype(float), starts)
    total = np.add.reduceat(np.where(finite, series.values, 0.0), starts)
    mean = np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)
    low = np.fmin.reduceat(series.values, starts)
    high = np.fmax.reduceat(series.values, starts)
    return series.steps[starts], mean, low, high


def save(figure: Figure, file: Path) -> None:
    """Writes a figure on white, in the format that the file's name ends with.

    Raises:
      UserError: there is no such format, or the file cannot be written.
    """
    known = sorted(FigureCanvasAgg.filetypes)
    if file.suffix.lower().removeprefix(".") not in known:
        raise UserError(f"{file} must end in .png, .svg or .pdf, which names the kind of picture")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as partial:
            figure.savefig(partial, format=file.suffix[1:].lower(), facecolor="white")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}") from error


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    svg = buffer.getvalue().decode()
    light, dark = "", ""
    for i, (colour, on_dark) in enumerate(DARK.items()):
        svg = svg.replace(colour, f"var(--c{i})")
        light += f"--c{i}:{colour};"
        dark += f"--c{i}:{on_dark};"
    rules = f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    svg = svg.replace("</defs>", f"<style>{rules}</style></defs>", 1)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
