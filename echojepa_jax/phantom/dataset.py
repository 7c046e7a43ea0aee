"""The built-in data set: videos of simulated beating hearts with known truth, as ordinary files.

`generate` writes the layout of EchoNet-Dynamic (FileList.csv, VolumeTracings.csv, Videos/*.avi) and
StudyList.csv, which contains patient, study, view, the end-diastolic (ED) and end-systolic (ES)
frame, heart rate and pixel spacing. So the phantom passes through the same readers and decoder as
real data. A video is a pure function of (population, seed, patient, view), so the numbers of
patients and workers do not change it. The heart is in heart.py, the probe in bmode.py.

Redraw the contact sheet: python -c "import cv2; from echojepa_jax.phantom import dataset;
cv2.imwrite('docs/phantom.png', dataset.contact_sheet())"
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import functools
import logging
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from echojepa_jax.phantom.bmode import render
from echojepa_jax.phantom.heart import (
    POPULATIONS,
    VIEWS,
    Patient,
    Scene,
    draw_patient,
    draw_scene,
    frames_in_beat,
)
from echojepa_jax.runtime.children import end_with_parent
from echojepa_jax.utils.cache import cache_dir
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import whole
from echojepa_jax.utils.progress import with_progress

VERSION = 1  # part of the cache folder's name: raise it whenever the files change
SPLITS = ("TRAIN", "VAL", "TEST", "TRAIN", "TRAIN", "TRAIN", "TRAIN", "TEST", "TRAIN", "TRAIN")
JPEG_QUALITY = 95
VIDEOS_PER_WORKER = 8  # fewer videos are rendered faster than another process starts
_ABANDONED_SECONDS = 86400  # older incomplete folders belong to processes that were killed
# Headers of the tables; the first two are those of EchoNet-Dynamic.
FILE_LIST = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split"
TRACINGS = "FileName,X1,Y1,X2,Y2,Frame"
STUDY_LIST = "FileName,Patient,Study,View,EDFrame,ESFrame,HeartRate,PixelSpacing"

log = logging.getLogger(__name__)


def cached(
    population: str = "adult",
    patients: int = 50,
    views: int = 4,
    seed: int = 0,
    stills: bool = False,
) -> Path:
    """The folder of this data set in the cache ($ECHOJEPA_CACHE), generated on first use."""
    cache = cache_dir()
    name = f"phantom-v{VERSION}-{population}-patients{patients}-views{views}-seed{seed}"
    name += "-stills" * stills
    if not (cache / name).exists():
        size = {"patients": patients, "views": views, "seed": seed}
        generate(cache / name, population=population, stills=stills, **size)
    return cache / name


def generate(
    root: Path,
    *,
    population: str = "adult",
    patients: int = 50,
    views: int = 4,
    seed: int = 0,
    frames: int = 60,
    size: int = 112,
    fps: float = 50.0,
    stills: bool = False,
    workers: int | None = None,
) -> Path:
    """Writes `patients` patients with `views` of the four views each to the new folder `root`.

    The folder appears under its name only when it is complete. If two processes generate the same
    folder at the same time, the first to finish provides it.

    Args:
      frames: frames of each video. size: side of the pictures in pixels. fps: frames a second.
      stills: write the first frame of each video as Stills/*.png instead of the video.
      workers: processes; None = as many as save time.

    Raises:
      UserError: a value is out of range, or `root` already contains files.
    """
    root = Path(root)
    _check(population, patients, views, seed, frames, size, fps)
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} already contains files: remove it, or name another folder")
    people = [draw_patient(population, seed, index) for index in range(patients)]
    scenes = [
        draw_scene(patient, view, size=size, fps=fps)
        for patient in people
        for view in views_of(patient, views)
    ]
    what = "stills" if stills else "videos"
    log.info("phantom: generating %d %s of %s into %s", len(scenes), what, population, root)
    for left in root.parent.glob(f".{root.name}.*.partial"):  # by processes that were killed
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left)
    try:
        with whole(root, shared=True) as partial:
            folder = partial / what.capitalize()
            folder.mkdir(parents=True)
            write = functools.partial(_draw, folder)
            if not stills:
                write = functools.partial(_record, folder, frames)
            for _ in with_progress(_mapped(write, scenes, workers), len(scenes), "phantom"):
                pass
            frames = 1 if stills else frames
            _write_csv(partial / "FileList.csv", FILE_LIST, (_listed(s, frames) for s in scenes))
            _write_csv(partial / "StudyList.csv", STUDY_LIST, map(_studied, scenes))
            lines = (line for scene in scenes for line in tracings(scene))
            _write_csv(partial / "VolumeTracings.csv", TRACINGS, lines)
    except OSError:
        if not (root / "FileList.csv").exists():
            raise  # else another process has published the same folder in the meantime
    return root


def _check(
    population: str, patients: int, views: int, seed: int, frames: int, size: int, fps: float
) -> None:
    if population not in POPULATIONS:
        known = " or ".join(POPULATIONS)
        raise UserError(f"the phantom has no population {population!r}: use {known}")
    if patients < 1 or seed < 0 or size < 32 or fps <= 0 or not 1 <= views <= len(VIEWS):
        raise UserError(
            f"the phantom needs patients >= 1, 1 <= views <= {len(VIEWS)}, seed >= 0, size >= 32 "
            f"and fps > 0, not patients={patients}, views={views}, seed={seed}, size={size}, "
            f"fps={fps}"
        )
    beat = frames_in_beat(POPULATIONS[population].heart_rate[0], fps)
    if frames < beat:
        raise UserError(
            f"frames={frames} at fps={fps:g} may be shorter than a heartbeat of population "
            f"{population}: use frames >= {beat}"
        )


def views_of(patient: Patient, count: int) -> list[str]:
    """The patient's views; each patient starts at the next view, so all are equally common."""
    return [VIEWS[(patient.index + k) % len(VIEWS)] for k in range(count)]


def split_of(patient: Patient) -> str:
    """The split: 70/10/20 in every ten patients, shifted so that it does not follow the views."""
    return SPLITS[(patient.index + patient.index // len(SPLITS)) % len(SPLITS)]


def name_of(scene: Scene) -> str:
    return f"{scene.patient.id}-{scene.view}"


def _mapped(function, items: list, workers: int | None) -> Iterator:
    """map(function, items), in several processes if that saves time."""
    if workers is None:
        workers = min(os.cpu_count() or 1, len(items) // VIDEOS_PER_WORKER)
    if workers <= 1:
        yield from map(function, items)
        return
    # Spawned, because forking a process with running JAX threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker
    ) as pool:
        yield from pool.map(function, items, chunksize=math.ceil(len(items) / workers / 8))


def _start_worker() -> None:
    cv2.setNumThreads(1)
    end_with_parent()


def _draw(folder: Path, scene: Scene) -> None:
    """Renders the first frame into a PNG file."""
    path = folder / f"{name_of(scene)}.png"
    if not cv2.imwrite(str(path), render(scene, 1)[0]):
        raise OSError(f"cannot write {path}")


def _record(folder: Path, frames: int, scene: Scene) -> None:
    """Renders one video into a Motion-JPEG AVI file, grey as three channels."""
    path = folder / f"{name_of(scene)}.avi"
    codec, size = cv2.VideoWriter.fourcc(*"MJPG"), (scene.size, scene.size)
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, codec, scene.fps, size)
    if not writer.isOpened():
        raise OSError(f"cannot write {path}")
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, JPEG_QUALITY)
    for picture in render(scene, frames):
        writer.write(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))
    writer.release()


def _listed(scene: Scene, frames: int) -> list:
    patient, size = scene.patient, scene.size
    volumes = [f"{v:.4f}" for v in (100 * patient.ef, patient.edv * (1 - patient.ef), patient.edv)]
    return [name_of(scene), *volumes, size, size, f"{scene.fps:g}", frames, split_of(patient)]


def _studied(scene: Scene) -> list:
    patient = scene.patient
    rates = [f"{scene.heart_rate:.3f}", f"{scene.spacing:.6f}"]
    study = f"{patient.id}-study"
    return [name_of(scene), patient.id, study, scene.view, scene.ed_frame, scene.es_frame, *rates]


def tracings(scene: Scene) -> Iterator[list]:
    """Rows of VolumeTracings.csv: at ED and at ES the LV's long axis, then its discs, apex first.

    The disc summation over them gives the ejection fraction, and also the volumes in mL, except in
    PSAX, which shows only one section of the LV.
    """
    for frame in (scene.ed_frame, scene.es_frame):
        axis, discs = scene.contour(scene.instant(frame))
        for (x1, y1), (x2, y2) in [axis, *discs]:
            ends = [f"{value:.4f}" for value in (x1, y1, x2, y2)]
            yield [f"{name_of(scene)}.avi", *ends, frame]


def _write_csv(path: Path, header: str, rows: Iterable[list]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)


def contact_sheet() -> np.ndarray:
    """A picture, uint8 [H, W], of ED and ES of the weakest and the strongest heart.

    Rows are views; columns are populations, hearts and phases.
    """
    tile, line = 168, 15
    columns = []
    for population in POPULATIONS:
        people = sorted(
            (draw_patient(population, 0, i) for i in range(12)), key=lambda patient: patient.ef
        )
        for patient in (people[0], people[-1]):
            scenes = [draw_scene(patient, view, size=112, fps=50.0) for view in VIEWS]
            videos = [render(scene, scene.cycle) for scene in scenes]
            for phase in ("ED", "ES"):
                columns.append(np.zeros((len(VIEWS) * (tile + line), tile), np.uint8))
                for row, (scene, video) in enumerate(zip(scenes, videos, strict=True)):
                    frame = scene.ed_frame if phase == "ED" else scene.es_frame
                    picture = cv2.resize(video[frame], (tile, tile), interpolation=cv2.INTER_LINEAR)
                    top = row * (tile + line)
                    columns[-1][top + line : top + line + tile] = picture
                    text = f"{population} {scene.view} {phase} EF {100 * patient.ef:.0f}"
                    _label(columns[-1], text, top + line - 4)
    return np.hstack(columns)


def _label(picture: np.ndarray, text: str, bottom: int) -> None:
    cv2.putText(picture, text, (3, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.36, 200, 1, cv2.LINE_AA)
