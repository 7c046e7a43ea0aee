"""The phantom, the built-in data set, which is generated on first use.

The source "phantom:adult,patients=100,views=2,seed=0" names the population, then any of the keys.
"stills=1" gives the first frame of every video as a PNG file instead of the video.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import numpy as np

from echojepa_jax.data.sample import Sample
from echojepa_jax.data.tracings import ED, ES, BadTracing, Tracing
from echojepa_jax.phantom import masks
from echojepa_jax.phantom.dataset import cached
from echojepa_jax.phantom.heart import Scene, draw_patient, draw_scene
from echojepa_jax.utils.errors import UserError

DEFAULTS = {"patients": 50, "views": 4, "seed": 0, "stills": 0}


def read(path: str, source: str) -> list[Sample]:
    """The samples of the phantom described by `path`: "<population>[,key=value]...".

    Raises:
        UserError: a population or key is unknown, or a value is not a whole number or out of range.
    """
    population, *pairs = (part.strip() for part in path.split(","))
    options = _options(pairs, source)
    stills = bool(options.pop("stills"))
    root = cached(population, stills=stills, **options)
    studies = {row["FileName"]: row for row in _rows(root / "StudyList.csv")}
    folder, ending = (root / "Stills", "png") if stills else (root / "Videos", "avi")
    return [
        _sample(row, studies[row["FileName"]], folder / f"{row['FileName']}.{ending}", source)
        for row in _rows(root / "FileList.csv")
    ]


def tracings(path: str, source: str) -> list[Tracing]:
    """The true labels of every video at end diastole and end systole, which are computed anew.

    Raises:
      UserError: as `read`, or the source has stills.
    """
    population, *pairs = (part.strip() for part in path.split(","))
    options = _options(pairs, source)
    if options.pop("stills"):
        raise UserError(f"source {source!r}: stills have no tracings; leave out stills=1")
    root = cached(population, stills=False, **options)
    sizes = {row["FileName"]: row for row in _rows(root / "FileList.csv")}
    found = []
    for row in _rows(root / "StudyList.csv"):
        name = row["FileName"]
        index = int(row["Patient"].rpartition("-")[2])
        patient = draw_patient(population, options["seed"], index)
        side, fps = int(sizes[name]["FrameHeight"]), float(sizes[name]["FPS"])
        scene = draw_scene(patient, row["View"], size=side, fps=fps)
        for phase in (ED, ES):
            frame = int(row[f"{phase}Frame"])
            found.append(Tracing(name, frame, phase, functools.partial(_labels, scene, frame)))
    return found


def _labels(scene: Scene, frame: int, height: int, width: int) -> np.ndarray:
    if (height, width) != (scene.size, scene.size):
        raise BadTracing(f"the video has {width} x {height} pixels instead of {scene.size}")
    return masks.labels(scene, frame)


def _options(pairs: list[str], source: str) -> dict[str, int]:
    options = dict(DEFAULTS)
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in DEFAULTS or not value.isdecimal():
            allowed = ", ".join(f"{name}=<whole number>" for name in DEFAULTS)
            raise UserError(f"source {source!r}: {pair!r} must be one of {allowed}")
        options[key] = int(value)
    return options


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _sample(listed: dict[str, str], studied: dict[str, str], path: Path, source: str) -> Sample:
    return Sample(
        name=listed["FileName"],
        path=str(path.resolve()),
        source=source,
        patient=studied["Patient"],
        study=studied["Study"],
        view=studied["View"],
        split=listed["Split"].lower(),
        targets={
            "ef": float(listed["EF"]),
            "esv": float(listed["ESV"]),
            "edv": float(listed["EDV"]),
            "heart_rate": float(studied["HeartRate"]),
        },
        # The table has cm, as all of the phantom's geometry.
        spacing=(10 * float(studied["PixelSpacing"]),) * 2,
        units={"ef": "%", "esv": "ml", "edv": "ml", "heart_rate": "beats/min"},
    )
