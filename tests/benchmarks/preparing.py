"""Measures the time of preparation and the size of shards for the two usual kinds of sources.

  python -m tests.benchmarks.preparing --videos=24

Videos of 112 px and 176 frames, as in EchoNet-Dynamic, and baseline JPEG DICOMs of 708 x 1016 and
74 frames in colour, as in MIMIC-IV-Echo: the phantom at 224 px, enlarged, with a banner that must
be removed. Times are for one process, without its start.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from echojepa_jax.data.formats import decode
from echojepa_jax.phantom.dataset import generate
from tests.makers.dicom import as_jpeg, make

HEIGHT, WIDTH, FRAMES = 708, 1016, 74


def as_dicom(source: Path, target: Path, patient: int) -> None:
    heart = decode.decode(str(source), np.arange(FRAMES))
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for frame, picture in zip(frames, heart, strict=True):
        frame[60:680, 198:818] = cv2.resize(picture, (620, 620), interpolation=cv2.INTER_CUBIC)
        cv2.putText(frame, "NAME OF A PATIENT", (40, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, (220,) * 3)
    path = make(target, frames[:1], "RGB", FrameTime=33.3, PatientID=f"{patient}")
    as_jpeg(path, frames)


def prepare(source: str, out: Path, *flags: str) -> float:
    """Runs the program; returns its seconds."""
    command = [sys.executable, "-m", "echojepa_jax.prepare", f"--source={source}", f"--out={out}"]
    command += ["--workers=1", *flags]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - started
    print(done.stdout.strip().splitlines()[-1], flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=24)
    videos = parser.parse_args().videos
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["ECHOJEPA_CACHE"] = str(folder / "cache")
        generate(folder / "small", patients=videos, views=1, size=112, frames=176)
        generate(folder / "large", patients=videos, views=1, size=224, frames=FRAMES)
        (folder / "dicom").mkdir()
        for k, file in enumerate(sorted((folder / "large" / "Videos").glob("*.avi"))):
            as_dicom(file, folder / "dicom" / f"{k:03d}.dcm", k)
        for kind, path in (("echonet_dynamic", folder / "small"), ("dicom", folder / "dicom")):
            seconds = []
            for share in (3, 1):  # a third of them, then all: the difference excludes the start
                part = folder / f"{kind}-{share}"
                part.mkdir()
                files = sorted(p for p in path.rglob("*") if re.search(r"\.(avi|dcm)$", p.name))
                for file in files[: videos // share]:
                    (part / file.name).symlink_to(file)
                reader = "videos" if kind == "echonet_dynamic" else kind
                sector = ["--sector=never"] * (reader == "videos")
                out = folder / f"shards-{kind}-{share}"
                seconds.append(prepare(f"{reader}:{part}", out, *sector))
            more = videos - videos // 3
            size = sum(file.stat().st_size for file in out.glob("echo-*"))
            print(
                f"{kind}: {(seconds[1] - seconds[0]) / more:.3f} s per video on one core, "
                f"{size / videos / 1e3:.0f} KB of shards per video"
            )


if __name__ == "__main__":
    main()
