"""The page about a prepared data set: counts, histograms, and a contact sheet of its pictures."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from echojepa_jax.data import shards, splits
from echojepa_jax.data.formats import video_record
from echojepa_jax.preparation.verify import SUMMARY
from echojepa_jax.report import plots
from echojepa_jax.report.measures import number
from echojepa_jax.report.page import Card, flat, write_page
from echojepa_jax.report.pictures import Picture
from echojepa_jax.utils.rng import generator

SHEET_ROWS, SHEET_COLUMNS, SHEET_SIDE = 4, 8, 112


def write_summary(folder: Path) -> Path:
    """Writes `summary.html` into the folder of a prepared set; returns its path.

    Raises:
      UserError: there is no such set.
    """
    about, rows = shards.about(str(folder)), shards.rows(str(folder))
    left_out = about["left_out"]
    values = {
        "verdict": f"{len(rows):,} videos in {len(about['files']):,} shards",
        "good": True,
        "refused": (),
        "cards": _cards(about, rows),
        "splits": [(name, f"{count:,}") for name, count in about["splits"].items()],
        "unknown_patients": unknown_patients(about),
        "left_out": [(reason, f"{count:,}") for reason, count in left_out.items()],
        "targets": _targets(about, rows),
        "histograms": _histograms(rows),
        "sheet": _sheet(folder, rows),
        "facts": list(
            flat({name: about[name] for name in ("kind", "size", "jpeg_quality", "clean")})
        ),
        "config": [],
    }
    return write_page(folder, "data.html.jinja", values, SUMMARY)


def unknown_patients(about: Mapping[str, Any]) -> str:
    """A sentence on videos whose patient is unknown, "" if there are none."""
    count = about.get("unknown_patients", 0)  # sets that were prepared earlier do not tell
    if not count:
        return ""
    return f"{splits.UNKNOWN_PATIENTS.format(count=count, total=about['videos']).capitalize()}."


def _cards(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Card]:
    frames = sum(row["frames"] for row in rows)
    patients = {row["patient"] for row in rows} - {""}
    size = sum(about["files"].values())
    refused = sum(about["left_out"].values())
    grey = sum(row["grey"] for row in rows)
    return [
        Card("Videos", f"{len(rows):,}", f"{frames:,} frames"),
        Card("Patients", f"{len(patients):,}" if patients else "unknown"),
        Card("Size", f"{size / 1e9:.3g} GB", f"{size / frames / 1e3:.3g} KB a frame"),
        Card("Left out", f"{refused:,} files", "see below" if refused else ""),
        Card("Grey", f"{grey:,} videos", f"and {len(rows) - grey:,} with colours"),
    ]


def _targets(
    about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str, str]]:
    """For each label: its name, how many videos have it, mean and range."""
    found = []
    for name in sorted({name for row in rows for name in row["targets"]}):
        values = np.array([row["targets"][name] for row in rows if name in row["targets"]])
        unit = about["units"].get(name, "")
        spread = f"{number(values.min())} to {number(values.max(), unit)}"
        found.append((name, f"{len(values):,}", number(values.mean(), unit), spread))
    return found


def _histograms(rows: Sequence[Mapping[str, Any]]) -> list[Picture]:
    timed = [row for row in rows if row["fps"] > 0]
    kinds = {
        "Frame rate": ([row["fps"] for row in timed], "frames a second"),
        "Length": ([row["frames"] / row["fps"] for row in timed], "seconds"),
        "Frames": ([row["frames"] for row in rows], "frames"),
        "Coded size": ([row["bytes"] / 1e6 for row in rows], "MB"),
    }
    pictures = []
    for title, (values, label) in kinds.items():
        if values:
            alt = f"{title}: {number(min(values))} to {number(max(values))} {label}."
            pictures.append(Picture(title, plots.histogram(values, label), alt))
    return pictures


def _sheet(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Picture:
    """The middle frames of some videos, drawn at random but always the same."""
    count = min(len(rows), SHEET_ROWS * SHEET_COLUMNS)
    chosen = generator(0, "contact sheet").permutation(len(rows))[:count]
    lines = -(-count // SHEET_COLUMNS)
    sheet = np.full((lines * SHEET_SIDE, SHEET_COLUMNS * SHEET_SIDE, 3), 255, np.uint8)
    for place, k in enumerate(sorted(chosen)):
        row = rows[k]
        path = str(folder / f"{row['shard']}#{row['record']}")
        (frame,) = video_record.frames(path, [row["frames"] // 2])
        small = cv2.resize(frame, (SHEET_SIDE, SHEET_SIDE), interpolation=cv2.INTER_AREA)
        y, x = (side * SHEET_SIDE for side in divmod(place, SHEET_COLUMNS))
        sheet[y : y + SHEET_SIDE, x : x + SHEET_SIDE] = small.reshape(*small.shape[:2], -1)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    uri = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
    note = "As they are stored. Look for anything that is not heart: it should not be here."
    return Picture("Some of the videos", uri, f"The middle frames of {count} videos.", note)
