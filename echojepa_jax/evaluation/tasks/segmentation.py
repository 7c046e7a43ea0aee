"""Structures of the left heart in traced frames, by linear heads on the tokens of the frame.

The encoder sees a clip that has the frame; the mask belongs to the tubelet that starts with it.
Masks, true and found, have the size of the clip: what the clip's crop leaves out is not scored.
Dice and Hausdorff distance are of single frames, see `evaluation.masks`. A structure that a frame's
tracing lacks is not scored there; one that the crop has cut away counts as not scored. The ejection
fraction is that of the volumes of both LV masks of a video, compared with the label; with the true
masks it shows what the method of discs costs.
"""

import base64
import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data.sample import Sample, by_name
from echojepa_jax.data.tracings import ED, ES, STRUCTURES, cut_off, spacing_in_clip
from echojepa_jax.data.units import unit_of
from echojepa_jax.evaluation.cells import SEGMENTATION, Cell
from echojepa_jax.evaluation.data import MASKS, TRACED, Data, What
from echojepa_jax.evaluation.fit_masks import Frames, at_tokens, commonest, fit, predict
from echojepa_jax.evaluation.masks import dice, ejection_fraction, hausdorff95, volume
from echojepa_jax.evaluation.tasks import fields
from echojepa_jax.evaluation.truth import Traced
from echojepa_jax.probes.examples import patient_of
from echojepa_jax.probes.reading import cutoffs
from echojepa_jax.probes.task import Task
from echojepa_jax.utils.config_fields import TEXTS, Field, Rule
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown

LINEAR, PLACED = HEADS = ("linear", "linear+place")
_PICTURES = 3  # videos whose masks are kept for the report

FIELDS = {
    "data": fields.DATA,
    "views": fields.VIEWS,
    "structures": Field(
        TEXTS,
        f"structures to find, some of {', '.join(STRUCTURES[1:])}; everything else is background",
        Rule(
            lambda names: (
                bool(names) and set(names) <= {*STRUCTURES[1:]} and len({*names}) == len(names)
            ),
            f"must name some of {', '.join(STRUCTURES[1:])}, each once",
        ),
    ),
    "heads": Field(
        TEXTS,
        f"heads of the probes: {LINEAR}, or {PLACED}, which also has a bias for each place of a "
        "token, so that it knows the mean mask",
        Rule(
            lambda names: bool(names) and set(names) <= {*HEADS} and len({*names}) == len(names),
            f"must name some of {', '.join(HEADS)}, each once",
        ),
    ),
    "ef": Field(
        str,
        "label of the ejection fraction in percent, which is compared with that of the LV "
        "masks; '' = none",
    ),
}


def needs(options: ConfigDict) -> list[tuple[str, What]]:
    """The features that the task reads: names of data sets, each with what is done to it."""
    return [(options.data, TRACED)]


def examples(data: Mapping[str, Data], options: ConfigDict) -> list[np.ndarray]:
    """The traced frames of the task's views in each split: places in `Data.traced`.

    Raises:
      UserError: a split has none, or no training video has the label of the ejection fraction.
    """
    mine = data[options.data]
    parts = [_rows(mine, options, split) for split in mine.splits]
    for split, rows in zip(mine.splits, parts, strict=True):
        if not len(rows):
            of_views = f" of the views {', '.join(options.views)}" if options.views else ""
            raise UserError(
                f"the split {split!r} of data.{mine.name} has no traced frame{of_views}: remove "
                "this task, or choose other views"
            )
    if options.ef and "LV" in options.structures:
        _mean_ef(mine, options, parts[0])
    return parts


def run(data: Mapping[str, Data], options: ConfigDict, probe: ConfigDict, seed: int) -> list[Cell]:
    """Cells for structures and heads, then for the ejection fraction: of masks found, and true."""
    mine = data[options.data]
    frames, readable = _frames(mine, options)
    parts = [rows[readable[rows]] for rows in examples(data, options)]
    _check(frames, parts, mine, options)
    train, val, test = parts
    truth = _truth(mine, options, frames, test)
    guess = commonest(frames, train)
    fitted = {
        head: fit(frames, train, val, probe, seed, by_place=head == PLACED)
        for head in options.heads
    }
    found = {head: predict(one, test, probe.batch) for head, one in fitted.items()}
    cells = [
        _of_structure(k, name, head, mine, truth, found[head], guess, fitted[head].chosen)
        for k, name in enumerate(options.structures, start=1)
        for head in options.heads
    ]
    cells[0].pictures.extend(_pictures(mine, truth, found[options.heads[0]]))
    if options.ef and "LV" in options.structures:
        lv = 1 + options.structures.index("LV")
        mean = _mean_ef(mine, options, train)
        for head in options.heads:
            masks, chosen = found[head] == lv, fitted[head].chosen
            cells.append(_of_ef("found", head, mine, options, truth, masks, mean, chosen))
        cells.append(_of_ef("true", "", mine, options, truth, truth.masks == lv, mean, {}))
    return cells


@dataclasses.dataclass(frozen=True)
class _Truth:
    """The test frames that can be read.

    masks: classes of pixels, uint8 [n, size, size]. by_tokens: the same as well as tokens can show
    them. lost: percent of the area of each structure of the task that the clip's crop leaves out,
    float64 [n, structures]; NaN = not traced. missing: see `_missing`.
    """

    traced: Sequence[Traced]
    masks: np.ndarray
    by_tokens: np.ndarray
    lost: np.ndarray
    missing: int


def _truth(data: Data, options: ConfigDict, frames: Frames, test: np.ndarray) -> _Truth:
    traced = [data.traced[row] for row in test]
    masks = frames.masks(test)
    by_tokens = at_tokens(masks, len(options.structures) + 1, frames.tokens.shape[1])
    samples = [data.samples[row] for row, _ in traced]
    pairs = zip(samples, traced, strict=True)
    shares = np.array([cut_off(tracing.labels(s.height, s.width)) for s, (_, tracing) in pairs])
    lost = 100 * shares[:, [STRUCTURES.index(name) for name in options.structures]]
    return _Truth(traced, masks, by_tokens, lost, _missing(data, options, traced))


def _frames(data: Data, options: ConfigDict) -> tuple[Frames, np.ndarray]:
    """All frames with their masks, and which can be read: bool [frames]."""
    classes = np.zeros(len(STRUCTURES), int)
    for k, name in enumerate(options.structures, start=1):
        classes[STRUCTURES.index(name)] = k
    features, masks = data.features[TRACED], data.features[MASKS]
    return Frames(features.tokens, masks.tokens, classes), features.there & masks.there


def _wanted(sample: Sample, options: ConfigDict, split: str) -> bool:
    return sample.split == split and (not options.views or sample.view in options.views)


def _rows(data: Data, options: ConfigDict, split: str) -> np.ndarray:
    """The frames of a split and of the task's views."""
    rows = [
        row
        for row, (sample, _) in enumerate(data.traced)
        if _wanted(data.samples[sample], options, split)
    ]
    return np.array(rows, int)


def _check(frames: Frames, parts: Sequence[np.ndarray], data: Data, options: ConfigDict) -> None:
    for split, rows in zip(data.splits, parts, strict=True):
        there = {k for row in rows for k in np.unique(frames.masks(np.array([row]))).tolist()}
        for k, name in enumerate(options.structures, start=1):
            if k not in there:
                raise UserError(
                    f"no traced frame of the split {split!r} of data.{data.name} shows the "
                    f"structure {name!r}: leave it out of the task, or use other splits"
                )


def _missing(data: Data, options: ConfigDict, traced: Sequence[Traced]) -> int:
    """Test frames that cannot be read, or are not in their video, and test videos without one.

    Rejected test videos count, too.
    """
    test = data.splits[2]
    rejected = sum(_wanted(s, options, test) for s in data.rejected)
    rows = {row for row, s in enumerate(data.samples) if _wanted(s, options, test)}
    all_frames = [row for row, _ in data.traced if row in rows]
    beyond = [row for row in data.beyond if row in rows]
    no_frame = rows - {*all_frames, *beyond}
    return len(all_frames) - len(traced) + len(beyond) + len(no_frame) + rejected


def _spacing(sample: Sample, size: int) -> tuple[tuple[float, float], str]:
    """The size of a pixel of the clip, and its unit: mm, or pixels of the clip if unknown."""
    spacing = spacing_in_clip(sample.spacing, sample.height, sample.width, size)
    return (spacing, "mm") if min(spacing) > 0 else ((1.0, 1.0), "pixels")


def _of_structure(
    k: int,
    name: str,
    head: str,
    data: Data,
    truth: _Truth,
    found: np.ndarray,
    guess: np.ndarray,
    chosen: dict[str, Any],
) -> Cell:
    """The measures of the structure with the number k in every frame that shows it.

    Args:
      found, guess: classes of pixels, [n, size, size] and [size, size].
    """
    true = truth.masks == k
    there, lost = true.any(axis=(1, 2)), truth.lost[:, k - 1]
    rows = np.flatnonzero(there).tolist()
    samples = [data.samples[truth.traced[row][0]] for row in rows]
    spacings = [_spacing(sample, true.shape[1]) for sample in samples]
    # One column cannot have two units.
    in_mm = all(unit == "mm" for _, unit in spacings)

    def measured(masks: np.ndarray, limits: Sequence[float]) -> list[list[float]]:
        return [
            [
                dice(true[row], masks[row]),
                hausdorff95(true[row], masks[row], spacing if in_mm else (1.0, 1.0)),
                limit,
                lost[row],
            ]
            for row, limit, (spacing, _) in zip(rows, limits, spacings, strict=True)
        ]

    limits = [dice(true[row], truth.by_tokens[row] == k) for row in rows]
    frames = [truth.traced[row][1].frame for row in rows]
    return Cell(
        {"structure": name, "head": head},
        SEGMENTATION,
        unit="mm" if in_mm else "pixels",
        ids=[f"{s.name} frame {frame}" for s, frame in zip(samples, frames, strict=True)],
        **_owners(samples),
        predicted=measured(found == k, limits),
        # The guess has no tokens.
        guess=measured(np.broadcast_to(guess == k, true.shape), [math.nan] * len(rows)),
        not_scored=truth.missing + int(np.count_nonzero(np.isfinite(lost) & ~there)),
        chosen=chosen,
    )


def _owners(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "patients": [f"{shown(s.source)}#{patient_of(s)}" for s in samples],
        "studies": [s.study for s in samples],
        "views": [s.view for s in samples],
    }


def _mean_ef(data: Data, options: ConfigDict, frames: np.ndarray) -> float:
    """The mean label of the videos of training frames.

    Raises:
      UserError: not one of them has the label.
    """
    rows = sorted({data.traced[frame][0] for frame in frames})
    labels = [by_name(data.samples[row].targets, options.ef) for row in rows]
    known = [label for label in labels if label is not None]
    if not known:
        raise UserError(
            f"no traced training video of data.{data.name} has the label {options.ef!r}: set ef of "
            "the task to '', or name another label"
        )
    return float(np.mean(known))


def _of_ef(
    name: str,
    head: str,
    data: Data,
    options: ConfigDict,
    truth: _Truth,
    masks: np.ndarray,
    mean: float,
    chosen: dict[str, Any],
) -> Cell:
    """The ejection fraction of every test video with a label and both frames; NaN without an LV.

    masks: of the LV, bool [frames, size, size]. mean: of the labels of training.
    """
    volumes: dict[int, dict[str, float]] = {}
    for (row, tracing), mask in zip(truth.traced, masks, strict=True):
        spacing, _ = _spacing(data.samples[row], mask.shape[0])
        volumes.setdefault(row, {})[tracing.phase] = volume(mask, spacing)
    scored = {}
    for row, of_phase in volumes.items():
        label = by_name(data.samples[row].targets, options.ef)
        if label is not None and {ED, ES} <= of_phase.keys():
            scored[row] = float(label), ejection_fraction(of_phase[ED], of_phase[ES])
    samples = [data.samples[row] for row in scored]
    unit = unit_of(samples, options.ef)
    everything = (*data.samples, *data.rejected)
    expected = sum(_wanted(s, options, data.splits[2]) for s in everything)
    return Cell(
        {"masks": name, "head": head},
        "regression",
        unit=unit,
        ids=[s.name for s in samples],
        **_owners(samples),
        true=[label for label, _ in scored.values()],
        predicted=[found for _, found in scored.values()],
        guess=mean,
        not_scored=expected - len(scored),
        chosen=chosen,
        cutoffs=list(cutoffs(Task("regression", options.ef, mean=mean, unit=unit))),
    )


def _pictures(data: Data, truth: _Truth, found: np.ndarray) -> list[dict[str, Any]]:
    """The masks of a few test videos, evenly spaced in the list, so that nobody picks the best."""
    videos = list(dict.fromkeys(row for row, _ in truth.traced))
    chosen = {videos[i] for i in np.linspace(0, len(videos) - 1, _PICTURES).round().astype(int)}
    return [
        {
            "video": data.samples[row].name,
            "source": shown(data.samples[row].source),
            "frame": tracing.frame,
            "phase": tracing.phase,
            "size": found.shape[1],
            "true": packed(truth.masks[i]),
            "found": packed(found[i]),
        }
        for i, (row, tracing) in enumerate(truth.traced)
        if row in chosen
    ]


def packed(mask: np.ndarray) -> str:
    """Classes of pixels as a short text."""
    return base64.b64encode(zlib.compress(mask.astype(np.uint8).tobytes())).decode()


def unpacked(text: str, size: int) -> np.ndarray:
    """The inverse of `packed`: uint8 [size, size]."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(size, size)
