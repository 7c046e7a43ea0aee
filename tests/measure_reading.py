"""Compares reading prepared shards with reading the h264 files they were prepared from.

  pip install decord
  python -m tests.measure_reading --patients=16

The phantom at 224 px, as h264 (crf 23), is prepared, and both are measured by `bench --data` with
the recipe of ViT-L: clips of 16 frames, random crops, masks. Then decord, if it is installed, reads
the same files as the original code does: a reader for each clip, all frames of the clip at once.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from echojepa_jax.data import decode
from echojepa_jax.data.phantom import generate


def as_h264(source: Path, target: Path) -> None:
    """The same frames at the same rate, coded as most archives keep them."""
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
            )
            rates[kind] = json.loads((folder / f"{kind}.json").read_text())
        for key in ("stages_together", "clips_per_second_per_core"):
            ratio = rates["shards"][key] / rates["h264"][key]
            print(f"{key}: {rates['shards'][key]:.1f} from shards, {ratio:.1f} times h264")
        stages = {kind: found["stages_clips_per_second"] for kind, found in rates.items()}
        ours = 1 / (1 / stages["shards"]["read"] + 1 / stages["shards"]["JPEG"])
        pyav = stages["h264"]["read and decode"]
        print(f"reading alone, one core: {ours:.1f} from shards, {pyav:.1f} from h264 by PyAV")
        theirs = decord_rate(sorted((folder / "h264").iterdir()), options.clips)
        if theirs:
            # The other stages cost the same, whoever reads.
            rest = 1 / rates["h264"]["stages_together"] - 1 / pyav
            whole = 1 / (1 / theirs + rest)
            times = rates["shards"]["stages_together"] / whole
            print(
                f"decord: {theirs:.1f} clips/s, shards are {ours / theirs:.1f} times as fast; with "
                f"all stages {whole:.1f}, shards {times:.1f} times"
            )


def decord_rate(files: list[Path], clips: int) -> float:
    """Clips a second of decord on one core, 0 if it is not installed."""
    try:
        import decord
    except ImportError:
        print("decord is not installed: not measured")
        return 0.0
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    for k in range(clips):
        reader = decord.VideoReader(str(files[k % len(files)]), ctx=decord.cpu(0), num_threads=1)
        stride = max(1, int(np.ceil(reader.get_avg_fps()) // 8))
        start = rng.integers(max(1, len(reader) - 16 * stride + 1))
        ids = np.minimum(start + stride * np.arange(16), len(reader) - 1)
        reader.get_batch(ids).asnumpy()
    return clips / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
