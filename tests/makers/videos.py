"""Videos in which every frame shows its own number, for tests of exact frames."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS, HEIGHT, WIDTH = 8, 64, 96


def picture(number: int) -> np.ndarray:
    """RGB uint8 [H, W, 3] with a bright stripe for every bit of `number` that is set."""
    image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            image[:, bit * 12 : (bit + 1) * 12] = 220
    return image


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Writes numbered videos into `folder`, and reads the numbers from decoded frames."""

    folder: Path

    def write(
        self,
        name: str,
        codec: str = "mjpeg",
        frames: int = 40,
        pixels: str = "yuv420p",
        times: Sequence[int] | None = None,
        clock: int = 25,
        muxer: dict[str, str] | None = None,
        aspect: tuple[int, int] = (1, 1),
        **options: str,
    ) -> str:
        """Writes a video at 25 frames per second, or with frames at `times` in 1 / `clock` s."""
        path = self.folder / name
        base = Fraction(1, clock)
        with av.open(str(path), "w", options=muxer or {}) as container:
            stream: Any = container.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
            stream.codec_context.time_base = base
            stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
            for k in range(frames):
                frame = av.VideoFrame.from_ndarray(picture(k), format="rgb24")
                frame.pts, frame.time_base = (k if times is None else times[k]), base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return str(path)

    def mjpeg(self, name: str = "clip.avi", frames: int = 40, **kwargs) -> str:
        """Writes Motion JPEG in AVI, as in EchoNet-Dynamic."""
        return self.write(name, "mjpeg", frames, "yuvj420p", **kwargs)

    @staticmethod
    def read(video: np.ndarray) -> list[int]:
        """The numbers that the frames [T, H, W, 3] show."""
        assert video.dtype == np.uint8
        assert video.shape[1:] == (HEIGHT, WIDTH, 3)
        return [
            sum(1 << bit for bit in range(BITS) if f[:, bit * 12 + 3 : bit * 12 + 9].mean() > 125)
            for f in video
        ]
