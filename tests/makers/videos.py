"""Videos of given frames, and those in which every frame shows its own number."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np

from echojepa_jax.data.formats import decode

BITS, HEIGHT, WIDTH = 8, 64, 96


def picture(number: int) -> np.ndarray:
    """RGB uint8 [H, W, 3] with a bright stripe for every bit of `number` that is set."""
    image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            image[:, bit * 12 : (bit + 1) * 12] = 220
    return image


def all_frames(path: str) -> np.ndarray:
    """As `decode` gives them: uint8 [T, H, W, 3]."""
    return decode.decode(path, np.arange(decode.probe(path).frames))


def write_video(
    file: str | IO[bytes],
    images: Sequence[np.ndarray] | np.ndarray,
    codec: str,
    pixels: str = "yuv420p",
    *,
    given: str = "rgb24",
    form: str | None = None,
    times: Sequence[int] | None = None,
    clock: int = 25,
    muxer: dict[str, str] | None = None,
    aspect: tuple[int, int] | None = None,
    **options: str,
) -> None:
    """Writes images of the format `given` at 25 a second, or at `times` in 1 / `clock` s.

    `pixels`: the format in the video. `form`: FFmpeg's name of the container, if the name of the
    file does not tell it. `aspect`: width and height of a pixel; None = the file does not say.
    """
    base = Fraction(1, clock)
    with av.open(file, "w", format=form, options=muxer or {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = pixels, base
        if aspect:
            stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        for k, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=given)
            frame.pts, frame.time_base = (k if times is None else times[k]), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Writes numbered videos into `folder`, and reads the numbers from decoded frames."""

    folder: Path

    def write(
        self, name: str, codec: str = "mjpeg", frames: int = 40, pixels: str = "yuv420p", **how: Any
    ) -> str:
        """Writes a video; `how` as of `write_video`."""
        path = str(self.folder / name)
        write_video(path, [picture(k) for k in range(frames)], codec, pixels, **how)
        return path

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
