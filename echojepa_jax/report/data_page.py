"""The page about a prepared set: counts, histograms, and pictures of some videos."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from echojepa_jax.data import shards, splits
from echojepa_jax.data.formats import decode
from echojepa_jax.preparation.verify import SUMMARY
from echojepa_jax.report import plots
from echojepa_jax.report.measures import number
from echojepa_jax.report.page import Card, flat, write_page
from echojepa_jax.report.pictures import Picture, jpeg
from echojepa_jax.utils.counts import counted
from echojepa_jax.utils.progress import duration
from echojepa_jax.utils.rng import generator

SHEET_VIDEOS, SHEET_SIDE = 32, 128


def write_summary(folder: Path, command: str = "") -> Path:
    """Writes `summary.html` into the folder of a prepared set; returns its path.

    Args:
      command: that prepared the set, without private values such as paths.

    Raises:
      UserError: the folder does not contain a prepared set.
    """
    about, rows = shards.about(str(folder)), shards.rows(str(folder))
    measures = _measures(rows)
    values = {
        "verdict": f"{counted(len(rows), 'video')} in {counted(len(about['files']), 'shard')}",
        "good": True,
        "rejected": (),
        "cards": _cards(about, rows),
        "splits": [(name or "no split", f"{count:,}") for name, count in about["splits"].items()],
        "unknown_patients": unknown_patients(about),
        "left_out": [(reason, f"{count:,}") for reason, count in about["left_out"].items()],
        "targets": _targets(about, rows),
        "measures": [(name, _range(values, unit)) for name, (values, unit) in measures.items()],
        "classes": _classes(rows),
        "histograms": _histograms(measures),
        "sheet": _sheet(folder, rows),
        "facts": _facts(about, rows, command),
        "raw": list(flat(about)),
        "config": [],
        "about": "About this set",
    }
    return write_page(folder, "data.html.jinja", values, SUMMARY)


def unknown_patients(about: Mapping[str, Any]) -> str:
    """A sentence about videos whose patient is unknown, "" if there are none."""
    count = about.get("unknown_patients", 0)  # earlier versions did not write it
    if not count:
        return ""
    return f"{splits.UNKNOWN_PATIENTS.format(count=count, total=about['videos']).capitalize()}."


def _cards(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Card]:
    frames = sum(row["frames"] for row in rows)
    patients = {row["patient"] for row in rows} - {""}
    size = sum(about["files"].values())
    rejected = sum(about["left_out"].values())
    seconds = sum(row["frames"] / row["fps"] for row in rows if row["fps"] > 0)
    length = counted(frames, "frame") + (f", {duration(seconds)} in all" if seconds else "")
    return [
        Card("Videos", f"{len(rows):,}", length),
        Card("Patients", f"{len(patients):,}" if patients else "unknown"),
        Card(
            "Size",
            f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB",
            f"{size / frames / 1e3:.3g} KB per frame",
        ),
        Card("Rejected", counted(rejected, "file"), "see the reasons below" if rejected else ""),
    ]


def _facts(
    about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], command: str
) -> list[tuple[str, str]]:
    grey = sum(row["grey"] for row in rows)
    facts = {
        "Command": command,
        "Source": about["kind"],
        "Frames": f"up to {about['size']} x {about['size']} pixels, JPEG quality "
        f"{about['jpeg_quality']}",
        "Pixels": "only the ultrasound sector is kept; the rest is black"
        if about["clean"]
        else "as in the source; nothing was blackened",
        "Colours": f"{counted(grey, 'grey video')}, {len(rows) - grey:,} with colours",
    }
    return [(name, value) for name, value in facts.items() if value]


def _targets(
    about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str, str]]:
    """Rows (name, number of videos, mean, range) of the numeric labels."""
    found = []
    for name in sorted({name for row in rows for name in row["targets"]}):
        values = np.array([row["targets"][name] for row in rows if name in row["targets"]])
        unit = about["units"].get(name, "")
        spread = f"{number(values.min())} to {number(values.max(), unit)}"
        found.append((name, f"{len(values):,}", number(values.mean(), unit), spread))
    return found


def _classes(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """For each label that is text: its name, and the number of videos of each class."""
    found = []
    for name in sorted({name for row in rows for name in row["classes"]}):
        counts = Counter(row["classes"][name] for row in rows if name in row["classes"])
        found.append((name, [(text, f"{count:,}") for text, count in counts.most_common()]))
    return found


def _measures(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], str]]:
    """Measures of all videos: title -> (values, unit)."""
    timed = [row for row in rows if row["fps"] > 0]
    found: dict[str, tuple[list[float], str]] = {
        "Frame rate": ([row["fps"] for row in timed], "frames/s"),
        "Length": ([row["frames"] / row["fps"] for row in timed], "seconds"),
        "Frames of a video": ([row["frames"] for row in rows], "frames"),
        "Size of a video": ([row["bytes"] / 1e6 for row in rows], "MB"),
    }
    return {title: (values, unit) for title, (values, unit) in found.items() if values}


def _range(values: Sequence[float], unit: str) -> str:
    whole = all(value == round(value) for value in values)
    low, middle, high = (
        f"{value:,.0f}" if whole else number(float(value))
        for value in (min(values), np.median(values), max(values))
    )
    if not _varies(values):
        return f"{middle} {unit} in all videos"
    return f"{low} to {high} {unit}, median {middle}"


def _varies(values: Sequence[float]) -> bool:
    return max(values) - min(values) > 1e-3 * max(values)


def _histograms(measures: Mapping[str, tuple[list[float], str]]) -> list[Picture]:
    return [
        Picture(title, plots.histogram(values, unit), f"{title}: {_range(values, unit)}.")
        for title, (values, unit) in measures.items()
        if _varies(values)
    ]


def _sheet(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """The middle frames of some videos, drawn with a fixed seed."""
    chosen = generator(0, "contact sheet").permutation(len(rows))[:SHEET_VIDEOS]
    found = []
    for row in (rows[k] for k in sorted(chosen)):
        path = str(folder / f"{row['shard']}#{row['record']}")
        (frame,) = decode.decode(path, np.array([row["frames"] // 2]))
        small = cv2.resize(frame, (SHEET_SIDE, SHEET_SIDE), interpolation=cv2.INTER_AREA)
        title = row["view"] or row["split"]
        found.append(Picture(title, jpeg(small), f"The middle frame of a video. {title}".strip()))
    return found
