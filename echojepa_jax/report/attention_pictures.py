"""Pictures of attention maps: the frames of a clip, and each map over them."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from echojepa_jax.data.sample import Sample
from echojepa_jax.features.attention import AttentionMap, attention_maps, clips_of
from echojepa_jax.features.encode import FrozenEncoder
from echojepa_jax.probes.attention import check_attentive, probe_maps
from echojepa_jax.probes.examples import label_of
from echojepa_jax.probes.saved import SavedProbe
from echojepa_jax.probes.task import Task
from echojepa_jax.report.measures import number
from echojepa_jax.report.page import without_folders
from echojepa_jax.report.plots import INK, save
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.progress import with_progress

log = logging.getLogger(__name__)

MAX_COLUMNS = 8
WEAKEST = 1.5  # times uniform attention
SHARPEST = 99.5  # percentile of a map that gets the last colour, so that one token does not rule
# From transparent, for uniform attention or less, to bright; the frame shows through all of it.
_BASE = mpl.colormaps["inferno"](np.linspace(0.15, 1, 256))
_BASE[:, 3] = 0.75 * np.sqrt(np.linspace(0, 1, 256))
COLOURS = mpl.colors.ListedColormap(_BASE)
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
}


def draw(maps: Sequence[AttentionMap], title: str) -> Figure:
    """A row of frames, the first of each tubelet, and below it the maps of that clip.

    The colours of a row begin at uniform attention (1) and end near its largest value, or at
    WEAKEST: attention that is nearly uniform looks so. Of many tubelets, MAX_COLUMNS are shown.

    Args:
      maps: at least one; those of one clip follow each other.
      title: one or two lines.
    """
    rows: list[AttentionMap | np.ndarray] = []
    for place, one in enumerate(maps):
        if not place or one.frames is not maps[place - 1].frames:
            rows.append(one.frames)
        rows.append(one)
    times = len(maps[0].values)
    shown = np.unique(np.linspace(0, times - 1, MAX_COLUMNS).astype(int))
    side = 1.3  # inches of a frame
    figure = Figure(
        figsize=(side * len(shown) + 2, side * len(rows) + 0.7), layout="constrained", dpi=110
    )
    with mpl.rc_context(_STYLE):
        figure.suptitle(title, x=0.01, ha="left", parse_math=False)
        axes = figure.subplots(
            len(rows), len(shown) + 1, squeeze=False, width_ratios=[1.0] * len(shown) + [0.07]
        )
        for row, line in zip(rows, axes, strict=True):
            if isinstance(row, AttentionMap):
                _draw_map(row, line, shown)
            else:
                _draw_frames(row, line, shown, len(row) // times)
    return figure


def _draw_frames(frames: np.ndarray, axes: np.ndarray, shown: np.ndarray, each: int) -> None:
    """each: frames of a tubelet."""
    *axes_of_frames, last = axes
    for ax, tubelet in zip(axes_of_frames, shown, strict=True):
        first = tubelet * each + 1
        ax.set_title(f"{first}\N{EN DASH}{first + each - 1}" if each > 1 else f"{first}")
        _draw_frame(ax, frames[tubelet * each])
    _name(axes[0], "frames")
    last.set_axis_off()


def _draw_map(one: AttentionMap, axes: np.ndarray, shown: np.ndarray) -> None:
    *axes_of_frames, last = axes
    each = len(one.frames) // len(one.values)
    highest = max(WEAKEST, float(np.percentile(one.values, SHARPEST)))
    scale = mpl.colors.Normalize(1.0, highest, clip=True)
    for ax, tubelet in zip(axes_of_frames, shown, strict=True):
        _draw_frame(ax, one.frames[tubelet * each])
        # One token is one even square, as large as it is.
        height, width = one.frames.shape[1:3]
        ax.imshow(
            one.values[tubelet], cmap=COLOURS, norm=scale, interpolation="nearest",
            extent=(0, width, height, 0),
        )  # fmt: skip
    _name(axes[0], one.name.replace(" in ", "\nin ").replace(", ", ",\n"))
    bar = axes[0].figure.colorbar(mpl.cm.ScalarMappable(scale, COLOURS), cax=last)
    last.set_facecolor("black")  # as around the picture of the heart
    last.tick_params(length=2)
    bar.outline.set_visible(False)
    bar.locator = mpl.ticker.MaxNLocator(3)
    bar.set_label("times uniform")


def _draw_frame(ax: Axes, frame: np.ndarray) -> None:
    height, width, _ = frame.shape
    ax.imshow(frame, extent=(0, width, height, 0))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _name(ax: Axes, name: str) -> None:
    ax.set_ylabel(name, rotation=0, ha="right", va="center")


# --- a folder of pictures ---------------------------------------------------------------------


Example = Mapping[str, Sample]
"""A video of each view of a study; of a single video, the view is ""."""


def write_encoder_maps(
    encoder: FrozenEncoder, samples: Sequence[Sample], out: Path, count: int, rollout: bool
) -> str:
    """Writes a picture of the encoder's attention for some videos, spread over the samples.

    Args:
      out: a new or empty folder. count: of pictures; 0 = all.
      rollout: see `attention_maps`.

    Returns:
      A sentence about what was written.

    Raises:
      UserError: `out` is not empty, or not one video can be decoded.
    """
    heads = encoder.network.heads
    about = f"attention of the encoder's last layer, mean of {heads} heads"

    def make(example: Example) -> tuple[list[AttentionMap], str]:
        (sample,) = example.values()
        return attention_maps(encoder, clips_of(encoder, sample)[0], rollout), about

    return _write([{"": sample} for sample in samples], make, out, count)


def write_probe_maps(
    probe: SavedProbe, encoder: FrozenEncoder, samples: Sequence[Sample], out: Path, count: int
) -> str:
    """The same for the attention of a probe, by video or, if it has several views, by study.

    Raises:
      UserError: as above; or the head has no attention, or no video is of the probe's views.
    """
    check_attentive(probe)
    about = f"attention of the probe, mean of {probe.head.heads} heads"

    def make(example: Example) -> tuple[list[AttentionMap], str]:
        clips = {view: clips_of(encoder, sample) for view, sample in example.items()}
        predicted, maps = probe_maps(probe, encoder, clips)
        return maps, f"{_verdict(probe.task, predicted, next(iter(example.values())))}; {about}"

    return _write(_examples(samples, probe.views), make, out, count)


def _examples(samples: Sequence[Sample], views: Sequence[str]) -> list[Example]:
    """Videos or, if there are views, the first video of each view of every study."""
    if not views:
        return [{"": sample} for sample in samples]
    studies: dict[tuple[str, str], dict[str, Sample]] = {}
    for sample in samples:
        if sample.study and sample.view in views:
            studies.setdefault((sample.source, sample.study), {}).setdefault(sample.view, sample)
    if not studies:
        raise UserError(
            f"no video shows one of the probe's views, {', '.join(views)}, in a named study: "
            "name another --source"
        )
    return list(studies.values())


def _verdict(task: Task, predicted: Any, sample: Sample) -> str:
    """What was predicted, and the true label if it is known."""
    label = label_of(sample, task.target)
    if task.kind == "regression":
        known = f", true {number(label, task.unit)}" if isinstance(label, float) else ""
        return f"{task.target} predicted {number(float(predicted), task.unit)}{known}"
    best = int(np.argmax(predicted))
    known = "" if label is None else f", true {label}"
    return f"{task.target} predicted {task.classes[best]} ({100 * predicted[best]:.0f} %){known}"


def _write(
    examples: Sequence[Example],
    make: Callable[[Example], tuple[list[AttentionMap], str]],
    out: Path,
    count: int,
) -> str:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: name a new folder")
    if count < 0:
        raise UserError(f"--videos={count} must not be negative; 0 draws all of them")
    wanted = min(count or len(examples), len(examples))
    chosen = np.linspace(0, len(examples) - 1, wanted).astype(int)
    written, problem = 0, ""
    for place, row in enumerate(with_progress(chosen, len(chosen), "pictures")):
        example = examples[row]
        first = next(iter(example.values()))
        by_study = "" not in example
        name = first.study if by_study else first.name
        try:
            maps, about = make(example)
        except UserError as error:
            problem = str(error)
            log.warning("no picture: %s", problem)
            continue
        view = "" if by_study or not first.view else f", {first.view}"
        short = re.sub(r"[^\w.-]+", "_", name)[-100:]
        file = out / f"{place:03d}_{short}.png"
        save(draw(maps, f"{without_folders(name)}{view}\n{about}"), file)
        written += 1
    if not written:
        raise UserError(f"no picture could be made: {problem}")
    lost = len(chosen) - written
    missing = f"; {lost} more could not be made, see the log" if lost else ""
    return f"{out} shows {written} of {len(examples)} examples{missing}"
