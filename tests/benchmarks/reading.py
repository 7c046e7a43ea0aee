"""Compares reading prepared shards with reading the H.264 files that they were prepared from.

  pip install decord
  python -m tests.benchmarks.reading --patients=16

Prepares the phantom at 224 px from H.264 files (crf 23), and measures both with `bench --data` and
the recipe of ViT-L: clips of 16 frames, random crops, masks. decord reads the same frames.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from echojepa_jax.data.formats import decode
from echojepa_jax.phantom.dataset import generate


def as_h264(source: Path, target: Path) -> None:
    """Writes the same frames at the same rate as H.264, the usual coding of archives."""
    info = decode.probe(str(source))
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(info.fps), options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = info.width, info.height, "yuv420p"
        for frame in decode.decode(str(source), np.arange(info.frames)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def run(program: str, *flags: str) -> None:
    subprocess.run([sys.executable, "-m", f"echojepa_jax.{program}", *flags], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=16)
    parser.add_argument("--clips", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["ECHOJEPA_CACHE"] = str(folder / "cache")
        generate(folder / "phantom", patients=options.patients, views=2, size=224, frames=75)
        (folder / "h264").mkdir()
        for file in sorted((folder / "phantom" / "Videos").glob("*.avi")):
            as_h264(file, folder / "h264" / f"{file.stem}.mp4")
        source = f"videos:{folder / 'h264'}"
        run("prepare", f"--source={source}", f"--out={folder / 'shards'}", "--sector=never")
        rates = {}
        for kind, what in (("h264", source), ("shards", str(folder / "shards"))):
            run(
                "bench",
                "--data",
                "--config=configs/vit_l.py",
                f"--source={what}",
                f"--clips={options.clips}",
                f"--out={folder / kind}.json",
                *("--config.data.workers=2", "--config.optim.global_batch=64"),
                *["--compare=decord"] * (kind == "h264"),
            )
            rates[kind] = json.loads((folder / f"{kind}.json").read_text())
        shards, files = rates["shards"], rates["h264"]
        for key in ("stages_together", "clips_per_second_per_core"):
            ratio = shards[key] / files[key]
            print(f"{key}: {shards[key]:.1f} from shards, {ratio:.1f} times h264 by PyAV")
        stages = shards["stages_clips_per_second"]
        ours = 1 / (1 / stages["read"] + 1 / stages["JPEG"])
        reading, whole = files["decord_clips_per_second"], files["decord_stages_together"]
        print(f"reading alone: {ours:.1f} from shards, {ours / reading:.1f} times decord")
        print(f"all stages: {shards['stages_together'] / whole:.1f} times decord")


if __name__ == "__main__":
    main()
