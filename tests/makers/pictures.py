"""Small recordings in DICOM files as exporters write them, and what must come of each file.

Pixel truth is what was written, or for coding with loss what another decoder makes of it (Pillow).
imagecodecs codes.
"""

import dataclasses
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import convert_color_space
from pydicom.uid import UID

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo
from echojepa_jax.data.formats.video_info import (
    COLOURS_DIFFER,
    DEPTH_DIFFERS,
    DEPTH_UNKNOWN,
    PLANES_DIFFER,
    WINDOW_UNUSED,
    each_note,
)
from tests.makers.dicom import make
from tests.makers.videos import all_frames, write_video

FRAMES, HEIGHT, WIDTH = 4, 32, 48
JPEG, LOSSLESS, JPEG_LS, J2K, HTJ2K, RLE = (
    UID(f"1.2.840.10008.1.2.{k}") for k in ("4.50", "4.70", "4.80", "4.90", "4.201", "5")
)
NO_LOSS, SOME_LOSS, COLOUR_LOSS = 0.0, 1.0, 3.0  # mean levels by which pictures may differ


def recording() -> np.ndarray:
    """Colour frames [T, H, W, 3]: smooth colours above, grey speckle below, all different."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    speckle = np.random.default_rng(0).integers(0, 90, (FRAMES, HEIGHT, WIDTH))
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.int64)
    for k in range(FRAMES):
        frames[k] = np.stack([5 * x, 7 * y + 9 * k, 235 - 4 * x], axis=-1)
        frames[k, 16:] = (speckle[k] + x + 12 * k)[16:, :, None]
    return np.clip(frames, 0, 255).astype(np.uint8)


COLOUR = recording()
GREY = np.ascontiguousarray(COLOUR[..., 1])
GREY3 = np.repeat(GREY[..., None], 3, axis=-1)
YBR = convert_color_space(COLOUR.copy(), "RGB", "YBR_FULL", per_frame=True)
BACK = convert_color_space(YBR.copy(), "YBR_FULL", "RGB", per_frame=True)
DEEP = ((GREY.astype(int) * 4095 + 127) // 255).astype(np.uint16)
OF_DEEP: dict[str, Any] = {"truth": GREY3, "off": 1.0}
TWELVE: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}


def item(data: bytes, tag: bytes = b"\xfe\xff\x00\xe0") -> bytes:
    return tag + struct.pack("<I", len(data)) + data


def coded(
    path: Path,
    pictures: list[bytes],
    photometric: str,
    syntax: UID,
    *,
    pieces: int = 1,
    table: str = "empty",
    ending: str = "delimiter",
    said: int | None = FRAMES,
    even: bool = True,
    template: np.ndarray | None = None,
    **tags: Any,
) -> str:
    """Writes pictures in fragments, `pieces` for each, as bad exporters do."""
    if template is None:
        template = COLOUR if photometric.startswith(("RGB", "YBR")) else GREY
    make(path, template[:1], photometric, **tags)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    if said is None:
        del dataset.NumberOfFrames
    else:
        dataset.NumberOfFrames = said
    dataset.file_meta.TransferSyntaxUID = syntax
    fragments, offsets, place = b"", [], 0
    for picture in pictures:
        offsets.append(place)
        size = -(-len(picture) // pieces)
        size += size % 2 if pieces > 1 else 0
        for k in range(0, len(picture), size):
            part = picture[k : k + size]
            fragments += item(part + b"\0" * (even and len(part) % 2))
            place = len(fragments)
    if table == "wrong":
        offsets = [offset + 2 for offset in offsets]
    if table == "extended":
        dataset.ExtendedOffsetTable = np.array(offsets, "<u8").tobytes()
        dataset.ExtendedOffsetTableLengths = np.array([len(p) for p in pictures], "<u8").tobytes()
    held = np.array(offsets, "<u4").tobytes() if table in ("right", "wrong", "short") else b""
    if table == "short":
        held = held[:-4]
    dataset.save_as(path, enforce_file_format=True)
    end = {
        "delimiter": item(b"", b"\xfe\xff\xdd\xe0"),
        "none": b"",
        "zeros": bytes(8),
        "trailing": item(b"", b"\xfe\xff\xdd\xe0") + b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0",
        "cut": b"",
    }[ending]
    if ending == "cut":
        fragments = fragments[:-20]
    start = b"" if table == "missing" else item(held)
    with path.open("ab") as file:
        file.write(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + start + fragments + end)
    return str(path)


def segments(picture: bytes) -> tuple[list[bytes], bytes]:
    """The marker segments of a JPEG before its scan, and the rest."""
    parts, place = [], 2
    while picture[place + 1] != 0xDA:
        size = 2 + int.from_bytes(picture[place + 2 : place + 4], "big")
        parts.append(picture[place : place + size])
        place += size
    return parts, picture[place:]


def remarked(picture: bytes, marks: bytes, ids: bytes = b"\1\2\3") -> bytes:
    """A JPEG with other application markers, and other names of its components."""
    parts, rest = segments(picture)
    out = b"\xff\xd8" + marks
    for part in parts:
        if 0xE0 <= part[1] <= 0xEF:
            continue
        if 0xC0 <= part[1] <= 0xC3 and part[9] == 3:
            named = bytearray(part)
            named[10:19:3] = ids
            part = bytes(named)
        out += part
    if rest[4] == 3:
        scan = bytearray(rest)
        scan[5:11:2] = ids
        rest = bytes(scan)
    return out + rest


JFIF = b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0"


def adobe(transform: int) -> bytes:
    return b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes([transform])


def jpeg(frame: np.ndarray, sampling: str = "4:4:4", **options: Any) -> bytes:
    """By Pillow: YCbCr of RGB frames, with JFIF's marker."""
    out = io.BytesIO()
    how = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}[sampling] if frame.ndim == 3 else -1
    Image.fromarray(frame).save(out, "JPEG", quality=97, subsampling=how, **options)
    return out.getvalue()


def rgb_jpeg(frame: np.ndarray) -> bytes:
    """A JPEG whose channels are RGB, without markers that state this."""
    return remarked(
        imagecodecs.jpeg8_encode(frame, level=97, colorspace="RGB", outcolorspace="RGB"), b""
    )


def by_pillow(picture: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(picture)).convert("RGB"))


def of_jpeg(pictures: list[bytes]) -> dict[str, Any]:
    """What must come of these pictures."""
    return {"truth": np.stack([by_pillow(p) for p in pictures]), "off": 0.5}


def lossless(frame: np.ndarray, marks: bytes = b"", ids: bytes = b"\1\2\3", bits: int = 8) -> bytes:
    how = {"colorspace": "RGB", "outcolorspace": "RGB"} if frame.ndim == 3 else {}
    coded_frame = imagecodecs.jpeg8_encode(
        frame, lossless=True, predictor=1, bitspersample=bits if bits > 8 else None, **how
    )
    return remarked(coded_frame, marks, ids)


def jpeg_ls(frame: np.ndarray) -> bytes:
    """Without the SPIFF header that CharLS writes."""
    picture = imagecodecs.jpegls_encode(frame)
    parts, rest = segments(picture)
    return b"\xff\xd8" + b"".join(p for p in parts if not 0xE0 <= p[1] <= 0xEF) + rest


def j2k(frame: np.ndarray, mct: bool = True, **options: Any) -> bytes:
    return imagecodecs.jpeg2k_encode(
        frame, level=0, codecformat="J2K", reversible=True, mct=mct, **options
    )


def htj2k(frame: np.ndarray) -> bytes:
    return imagecodecs.htj2k_encode(frame, reversible=True)


def rle(frame: np.ndarray) -> bytes:
    """Planes of bytes, the upper ones first; each is written without runs."""
    planes = frame[None] if frame.ndim == 2 else np.moveaxis(frame, -1, 0)
    parts = []
    for plane in planes:
        by_byte = np.ascontiguousarray(plane, plane.dtype.newbyteorder(">")).view(np.uint8)
        by_byte = by_byte.reshape(-1, plane.dtype.itemsize)
        for k in range(plane.dtype.itemsize):
            raw = by_byte[:, k].tobytes()
            part = b"".join(
                bytes([len(raw[i : i + 128]) - 1]) + raw[i : i + 128]
                for i in range(0, len(raw), 128)
            )
            parts.append(part + b"\0" * (len(part) % 2))
    places = 64 + np.cumsum([0, *map(len, parts)])[:-1]
    head = struct.pack("<16I", len(parts), *places, *[0] * (15 - len(parts)))
    return head + b"".join(parts)


def video_stream(frames: np.ndarray, codec: str, form: str, **options: str) -> bytes:
    """A video in a container, or a stream without one: `form` is FFmpeg's name, or "bare"."""
    out = io.BytesIO()
    bare = {"mpeg2video": "mpeg2video", "libx264": "h264", "libx265": "hevc"}[codec]
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    write_video(out, frames, codec, form=bare if form == "bare" else form, **quiet | options)
    return out.getvalue()


JPEGS = [jpeg(f, "4:2:0") for f in COLOUR]
OF_JPEG = of_jpeg(JPEGS)
JPEG_TRUTH = OF_JPEG["truth"]


# --- ways to write a file -------------------------------------------------------------------------

Write = Callable[[Path], Any]


def made(frames: np.ndarray = GREY, label: str = "MONOCHROME2", **tags: Any) -> Write:
    return lambda path: make(path, frames, label, **tags)


def packed(
    pictures: list[bytes], label: str = "YBR_FULL_422", syntax: UID = JPEG, **tags: Any
) -> Write:
    return lambda path: coded(path, pictures, label, syntax, **tags)


def edited(write: Write, change: Callable[[pydicom.Dataset], Any]) -> Write:
    """The same file with other elements."""

    def written(path: Path) -> None:
        write(path)
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path, enforce_file_format=True)

    return written


def patched(write: Write, change: Callable[[bytes], bytes]) -> Write:
    """The same file with other bytes."""

    def written(path: Path) -> None:
        write(path)
        data = path.read_bytes()
        changed = change(data)
        assert changed != data
        path.write_bytes(changed)

    return written


def swapped(write: Write, old: bytes, new: bytes) -> Write:
    return patched(write, lambda data: data.replace(old, new))


def without(*names: str) -> Callable[[pydicom.Dataset], Any]:
    def change(dataset: pydicom.Dataset) -> None:
        for name in names:
            delattr(dataset, name)

    return change


def in_dicom(stream: bytes, syntax: str, frames: np.ndarray, **how: Any) -> Write:
    """A stream of a video; the header states the size and the number of `frames`."""
    uid = UID(f"1.2.840.10008.1.2.4.{syntax}")
    return packed([stream], "YBR_PARTIAL_420", uid, template=frames, **{"said": len(frames)} | how)


def damaged(frame: int) -> str:
    return f"damaged: frame {frame} does not decode"


@dataclasses.dataclass(frozen=True)
class Case:
    """One file, and what must come of it: `truth` within `off` levels, or `reason`."""

    name: str
    write: Write
    truth: np.ndarray | None = None
    off: float = NO_LOSS
    reason: str | tuple[str, ...] = ""
    note: str = ""


OF_PIXELS = {COLOURS_DIFFER, PLANES_DIFFER, DEPTH_DIFFERS, DEPTH_UNKNOWN, WINDOW_UNUSED}


def judge(made: Case, path: Path) -> None:
    """Writes a file, reads it, and checks what comes of it."""
    made.write(path)
    if made.reason:
        with pytest.raises(UnreadableVideo) as error:
            all_frames(str(path))
        assert str(error.value).startswith(made.reason)
        return
    video = all_frames(str(path))
    assert made.truth is not None
    assert video.shape == made.truth.shape
    off = np.abs(video.astype(int) - made.truth).mean(axis=(1, 2, 3))
    assert off.max() <= made.off, off
    told = set(each_note(decode.probe(str(path)).note)) & OF_PIXELS
    if made.note:
        assert made.note in told
    elif "said to be" not in made.name:
        assert not told
