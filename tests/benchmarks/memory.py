"""Measures the memory of one process that prepares thousands of videos and one large video.

  python -m tests.benchmarks.memory --videos=5000

The videos have 30 frames of 240 x 320; the one in the middle has 2,000 frames of 1080 x 1920.
"""

import argparse
import dataclasses
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from echojepa_jax.preparation.recording import Recording, encode


def write(path: Path, frames: int, height: int, width: int) -> None:
    """Writes a video of moving noise within a sector."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 200, (height, 2 * width), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    noise_in = np.abs(x - width / 2) < 0.6 * y
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for k in range(frames):
            picture = noise[:, k % width : k % width + width] * noise_in
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def worker(folder: Path, videos: int) -> None:
    small = Recording(str(folder / "small.mp4"), "small", 30, 30.0)
    large = Recording(str(folder / "large.mp4"), "large", 2000, 30.0)
    started = time.perf_counter()
    for k in range(videos):
        encode(large if k == videos // 2 else dataclasses.replace(small, id=str(k)), 224)
        if k in (videos // 100, videos // 2 - 1, videos // 2, videos - 1):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            seconds = time.perf_counter() - started
            print(f"after {k + 1:,} videos, {seconds:.0f} s: peak {peak:.2f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "small.mp4", 30, 240, 320)
        write(folder / "large.mp4", 2000, 1080, 1920)
        spawned = multiprocessing.get_context("spawn")
        process = spawned.Process(target=worker, args=(folder, options.videos))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
