"""Pictures are right, or the reason why not is: files from public reports, and whole kinds of them.

The corpus is made here: small recordings, written as exporters write them, wrongly labelled, cut
and badly packed. Of imagecodecs' decoders we use the one for deep JPEGs only.
"""

import gzip
import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels import convert_color_space
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo
from echojepa_jax.data.formats.video_info import (
    COLOURS_DIFFER,
    DEPTH_DIFFERS,
    DEPTH_UNKNOWN,
    PLANES_DIFFER,
    WINDOW_UNUSED,
)
from tests.makers.dicom import make, real
from tests.makers.pictures import (
    BACK,
    COLOUR,
    COLOUR_LOSS,
    FRAMES,
    GREY,
    GREY3,
    HEIGHT,
    HTJ2K,
    J2K,
    JFIF,
    JPEG,
    JPEG_LS,
    LOSSLESS,
    NO_LOSS,
    RLE,
    SOME_LOSS,
    YBR,
    Case,
    adobe,
    by_pillow,
    coded,
    htj2k,
    j2k,
    jpeg,
    jpeg_ls,
    judge,
    lossless,
    remarked,
    rgb_jpeg,
    rle,
    video_stream,
)
from tests.makers.recordings import FOLDER

pytestmark = pytest.mark.slow

# --- the corpus -----------------------------------------------------------------------------------


CASES: list[Case] = []


def case(name: str, write: Callable[[Path], Any], **expected: Any) -> None:
    CASES.append(Case(name, write, **expected))


def colours_of_jpegs() -> None:
    """Every marker under every label: the stream decides, and where it is open, the label."""
    pictures = {s: [jpeg(f, s) for f in COLOUR] for s in ("4:4:4", "4:2:2", "4:2:0")}
    truth = {s: np.stack([by_pillow(p) for p in ps]) for s, ps in pictures.items()}
    rgb = [rgb_jpeg(f) for f in COLOUR]
    for label in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"):
        note = COLOURS_DIFFER if label == "RGB" else ""
        for sampling, marks in (
            *((s, JFIF) for s in pictures),
            *((s, adobe(1)) for s in pictures),
            *((s, b"") for s in pictures),
        ):
            if sampling == "4:4:4" and not marks and label == "RGB":
                continue  # really RGB, see below
            name = f"jpeg {sampling} {'JFIF' if marks == JFIF else marks[4:9].decode()} as {label}"
            files = [remarked(p, marks) for p in pictures[sampling]]
            case(
                name,
                lambda path, files=files, label=label: coded(path, files, label, JPEG),
                truth=truth[sampling],
                off=0.5,
                note=note,
            )
        for name, marks, ids in (
            ("Adobe 0", adobe(0), b"\1\2\3"),
            ("named", b"", b"RGB"),
            ("Adobe 0 and named", adobe(0), b"RGB"),
        ):
            files = [remarked(p, marks, ids) for p in rgb]
            case(
                f"jpeg of RGB, {name}, as {label}",
                lambda path, files=files, label=label: coded(path, files, label, JPEG),
                truth=COLOUR,
                off=SOME_LOSS,
                note="" if label == "RGB" else COLOURS_DIFFER,
            )
    case(
        "jpeg of RGB without a mark, as RGB",
        lambda path: coded(path, rgb, "RGB", JPEG),
        truth=COLOUR,
        off=SOME_LOSS,
    )
    case(
        "jpeg with names from 0 on, as YBR_FULL",
        lambda path: coded(
            path, [remarked(p, b"", b"\0\1\2") for p in pictures["4:4:4"]], "YBR_FULL", JPEG
        ),
        truth=truth["4:4:4"],
        off=0.5,
    )
    for marked in range(FRAMES):
        files = [remarked(p, JFIF if k == marked else b"") for k, p in enumerate(pictures["4:4:4"])]
        case(
            f"jpeg, JFIF in frame {marked} only, as RGB",
            lambda path, files=files: coded(path, files, "RGB", JPEG),
            truth=truth["4:4:4"],
            off=0.5,
            note=COLOURS_DIFFER,
        )
    for label in ("RGB", "YBR_FULL_422"):
        files = [remarked(p, adobe(2)) for p in pictures["4:2:0"]]
        case(
            f"jpeg with Adobe's code for four channels as {label}",
            lambda path, files=files, label=label: coded(path, files, label, JPEG),
            truth=truth["4:2:0"],
            off=0.5,
            note=COLOURS_DIFFER if label == "RGB" else "",
        )
    progressive = [jpeg(f, "4:2:0", progressive=True) for f in COLOUR]
    case(
        "progressive jpeg",
        lambda path: coded(path, progressive, "YBR_FULL_422", JPEG),
        truth=np.stack([by_pillow(p) for p in progressive]),
        off=0.5,
    )
    grey = [jpeg(f) for f in GREY]
    grey_truth = np.stack([by_pillow(p) for p in grey])
    for label, turned in (("MONOCHROME2", False), ("MONOCHROME1", True), ("RGB", False)):
        case(
            f"grey jpeg as {label}",
            lambda path, label=label: coded(path, grey, label, JPEG),
            truth=255 - grey_truth if turned else grey_truth,
            off=0.5,
            note=COLOURS_DIFFER if label == "RGB" else "",
        )
    case(
        "colour jpeg as MONOCHROME2",
        lambda path: coded(path, pictures["4:2:0"], "MONOCHROME2", JPEG),
        truth=truth["4:2:0"],
        off=0.5,
        note=COLOURS_DIFFER,
    )
    case(
        "jpeg in a lossless syntax",
        lambda path: coded(path, pictures["4:2:0"], "YBR_FULL_422", LOSSLESS),
        truth=truth["4:2:0"],
        off=0.5,
    )


def colours_without_loss() -> None:
    for label, stored, truth, off in (
        ("RGB", COLOUR, COLOUR, NO_LOSS),
        ("YBR_FULL", YBR, BACK, SOME_LOSS),
    ):
        for name, encode, syntax in (
            ("lossless", lossless, LOSSLESS),
            ("JPEG-LS", jpeg_ls, JPEG_LS),
            ("JPEG-LS with SPIFF", imagecodecs.jpegls_encode, JPEG_LS),
            ("JPEG 2000", lambda f: j2k(f, mct=False), J2K),
            ("RLE", rle, RLE),
        ):
            files = [encode(f) for f in stored]
            case(
                f"{name}, open, as {label}",
                lambda path, files=files, label=label, syntax=syntax: coded(
                    path, files, label, syntax
                ),
                truth=truth,
                off=off,
            )
    for label in ("RGB", "YBR_FULL", "YBR_RCT", "YBR_ICT", "MONOCHROME2"):
        note = COLOURS_DIFFER if label in ("YBR_FULL", "MONOCHROME2") else ""
        for name, encode, syntax in (("2000", j2k, J2K), ("2000 of high throughput", htj2k, HTJ2K)):
            files = [encode(f) for f in COLOUR]
            case(
                f"JPEG {name} with its transform as {label}",
                lambda path, files=files, label=label, syntax=syntax: coded(
                    path, files, label, syntax
                ),
                truth=COLOUR,
                note=note,
            )
    bare = [j2k(f, mct=False) for f in COLOUR]
    case(
        "JPEG 2000 without its transform as YBR_RCT",
        lambda path: coded(path, bare, "YBR_RCT", J2K),
        truth=COLOUR,
    )
    for name, marks, ids, stored, truth, label in (
        ("JFIF", JFIF, b"\1\2\3", YBR, BACK, "RGB"),
        ("Adobe 1", adobe(1), b"\1\2\3", YBR, BACK, "RGB"),
        ("Adobe 0", adobe(0), b"\1\2\3", COLOUR, COLOUR, "YBR_FULL"),
        ("names", b"", b"RGB", COLOUR, COLOUR, "YBR_FULL_422"),
    ):
        files = [lossless(f, marks, ids) for f in stored]
        case(
            f"lossless with {name} as {label}",
            lambda path, files=files, label=label: coded(path, files, label, LOSSLESS),
            truth=truth,
            off=SOME_LOSS if label == "RGB" else NO_LOSS,
            note=COLOURS_DIFFER,
        )
    files = [lossless(f, JFIF if k == 2 else b"") for k, f in enumerate(YBR)]
    case(
        "lossless, JFIF in frame 2 only",
        lambda path: coded(path, files, "RGB", LOSSLESS),
        truth=BACK,
        off=SOME_LOSS,
        note=COLOURS_DIFFER,
    )
    for planar in (0, 1):
        case(
            f"RLE with PlanarConfiguration {planar}",
            lambda path, planar=planar: coded(
                path, [rle(f) for f in COLOUR], "RGB", RLE, PlanarConfiguration=planar
            ),
            truth=COLOUR,
        )


def native_colours() -> None:
    luma, blue, red = np.moveaxis(YBR, -1, 0)
    shared = [c.reshape(FRAMES, HEIGHT, -1, 2).mean(-1).astype(np.uint8) for c in (blue, red)]
    pairs = luma.reshape(FRAMES, HEIGHT, -1, 2)
    halved = np.stack([pairs[..., 0], pairs[..., 1], *shared], axis=-1)
    restored = np.stack([luma, *(np.repeat(c, 2, axis=-1) for c in shared)], axis=-1)
    seen = convert_color_space(restored.copy(), "YBR_FULL", "RGB", per_frame=True)
    scale, base = np.array([219, 224, 224]) / 255, np.array([0, 128, 128])
    partial = np.rint((YBR - base) * scale + np.array([16, 128, 128])).astype(np.uint8)
    less = np.rint((restored - base) * scale + np.array([16, 128, 128])).astype(np.uint8)
    less_pairs = np.stack(
        [less[:, :, ::2, 0], less[:, :, 1::2, 0], less[:, :, ::2, 1], less[:, :, ::2, 2]], axis=-1
    )
    planes = np.moveaxis(COLOUR, -1, 1)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        name = syntax.name[:15]
        for what, data, label, truth, off, tags in (
            ("3 bytes", COLOUR, "RGB", COLOUR, NO_LOSS, {}),
            ("planes", planes, "RGB", COLOUR, NO_LOSS, {"PlanarConfiguration": 1}),
            ("3 bytes", YBR, "YBR_FULL", BACK, SOME_LOSS, {}),
            ("3 bytes", YBR, "YBR_FULL_422", BACK, SOME_LOSS, {}),
            ("2 bytes", halved, "YBR_FULL_422", seen, SOME_LOSS, {}),
            ("2 bytes", halved, "YBR_FULL", seen, SOME_LOSS, {}),
            ("3 bytes", partial, "YBR_PARTIAL_422", BACK, COLOUR_LOSS, {}),
            ("2 bytes", less_pairs, "YBR_PARTIAL_422", seen, COLOUR_LOSS, {}),
            ("3 bytes", COLOUR, "YBR_RCT", COLOUR, NO_LOSS, {}),
        ):
            data = np.ascontiguousarray(data)
            raw = data.tobytes()
            if syntax == ExplicitVRBigEndian:
                tags = tags | {"PixelData": raw}
            case(
                f"{what} a pixel as {label}, {name}, {len(tags)}",
                lambda path, raw=raw, label=label, syntax=syntax, tags=tags: make(
                    path, COLOUR, label, syntax, **{**tags, "PixelData": raw}
                ),
                truth=truth,
                off=off,
                note=COLOURS_DIFFER if label == "YBR_RCT" else "",
            )
    case(
        "planes as YBR_FULL",
        lambda path: make(
            path,
            COLOUR,
            "YBR_FULL",
            PlanarConfiguration=1,
            PixelData=np.ascontiguousarray(np.moveaxis(YBR, -1, 1)).tobytes(),
        ),
        truth=BACK,
        off=SOME_LOSS,
    )
    case(
        "8 bits in big-endian words",
        lambda path: in_words(path, COLOUR, "RGB"),
        truth=COLOUR,
    )
    case(
        "1.5 bytes a pixel",
        lambda path: make(
            path, COLOUR, "YBR_PARTIAL_420", PixelData=COLOUR.tobytes()[: 4608 // 2 * 4]
        ),
        reason="unsupported: uncompressed DICOM pixels of YBR_PARTIAL_420",
    )
    deep = ((YBR.astype(int) * 4095 + 127) // 255).astype(np.uint16)
    twelve: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
    for name, data, tags in (("12", deep, twelve), ("16", YBR.astype(np.uint16) * 257, {})):
        case(
            f"YCbCr of {name} bits",
            lambda path, data=data, tags=tags: make(path, data, "YBR_FULL", **tags),
            truth=BACK,
            off=SOME_LOSS,
        )
    for label, reason in (
        *((label, f"unsupported: PhotometricInterpretation {label}") for label in ("HSV", "CMYK")),
        ("YBR_FULL_444", "wrong PhotometricInterpretation: DICOM does not define"),
        ("", "incomplete: the header lacks PhotometricInterpretation"),
    ):
        case(f"colours labelled {label!r}", lambda p, la=label: make(p, COLOUR, la), reason=reason)
    files = [lossless(f) for f in COLOUR]
    case(
        "lossless of HSV",
        lambda path: coded(path, files, "HSV", LOSSLESS, template=COLOUR),
        reason="unsupported: PhotometricInterpretation HSV",
    )
    case(
        "grey labelled RGB_OF_ONE",
        lambda path: make(path, GREY, "RGB_OF_ONE"),
        truth=GREY3,
        note=COLOURS_DIFFER,
    )
    case(
        "a palette for three channels",
        lambda path: make(path, COLOUR, "PALETTE COLOR"),
        reason="wrong PhotometricInterpretation: ",
    )


def greys_tell() -> None:
    """A label that is not true of pixels that are nearly all grey, with a patch of colour flow."""
    frames = GREY3.copy()
    frames[:, 4:12, 4:12] = (200, 40, 30)
    ybr = convert_color_space(frames.copy(), "RGB", "YBR_FULL", per_frame=True)
    planes = np.ascontiguousarray(np.moveaxis(frames, -1, 1))
    encoders: dict[str, tuple[Callable[[np.ndarray], bytes], UID]] = {
        "lossless": (lossless, LOSSLESS),
        "JPEG-LS": (jpeg_ls, JPEG_LS),
        "JPEG 2000": (lambda f: j2k(f, mct=False), J2K),
        "RLE": (rle, RLE),
    }
    for stored, name, label in ((frames, "RGB", "YBR_FULL"), (ybr, "YCbCr", "RGB")):
        expected = {"truth": frames, "off": SOME_LOSS, "note": COLOURS_DIFFER}
        case(
            f"grey {name}, uncompressed, as {label}",
            lambda path, stored=stored, label=label: make(path, stored, label),
            **expected,
        )
        for kind, (encode, syntax) in encoders.items():
            files = [encode(f) for f in stored]
            case(
                f"grey {name}, {kind}, as {label}",
                lambda path, a=(files, label, syntax): coded(path, *a, template=COLOUR),
                **expected,
            )
    bare = [remarked(jpeg(f), b"") for f in frames]
    case(
        "grey YCbCr, JPEG without markers, as RGB",
        lambda path: coded(path, bare, "RGB", JPEG),
        truth=frames,
        off=SOME_LOSS,
        note=COLOURS_DIFFER,
    )
    rgb = [rgb_jpeg(f) for f in frames]
    case(
        "grey RGB, JPEG without markers, as YBR_FULL_422",
        lambda path: coded(path, rgb, "YBR_FULL_422", JPEG),
        truth=frames,
        off=SOME_LOSS,
        note=COLOURS_DIFFER,
    )
    twice = [j2k(f) for f in ybr]
    case(
        "grey YCbCr, JPEG 2000 with its transform, as YBR_FULL",
        lambda path: coded(path, twice, "YBR_FULL", J2K),
        truth=frames,
        off=SOME_LOSS,
        note=COLOURS_DIFFER,
    )
    for planar, data in ((1, frames), (0, planes)):
        case(
            f"grey RGB, PlanarConfiguration {planar} is wrong",
            lambda path, planar=planar, data=data: make(
                path, frames, "RGB", PlanarConfiguration=planar, PixelData=data.tobytes()
            ),
            truth=frames,
            note=PLANES_DIFFER,
        )


def in_words(path: Path, frames: np.ndarray, label: str) -> None:
    """Big-endian, as OW."""
    make(path, frames, label, ExplicitVRBigEndian)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = np.frombuffer(frames.tobytes(), "<u2").astype(">u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path)


def depth() -> None:
    deep = ((GREY.astype(int) * 4095 + 127) // 255).astype(np.uint16)
    ten = ((GREY.astype(int) * 1023 + 127) // 255).astype(np.uint16)
    stored: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    for name, data, tags, truth, note, reason in (
        ("12 bits", deep, stored, GREY3, "", ""),
        ("12 bits in the upper ones", deep << 4, stored | {"HighBit": 15}, GREY3, "", ""),
        ("12 bits that are lower", deep | 1, stored | {"HighBit": 15}, GREY3, DEPTH_DIFFERS, ""),
        ("12 bits said to be 16", deep, {}, GREY3, DEPTH_UNKNOWN, ""),
        ("10 bits said to be 16", ten, {}, GREY3, DEPTH_UNKNOWN, ""),
        ("10 bits said to be 12", ten, stored, GREY3, DEPTH_UNKNOWN, ""),
        ("8 bits said to be 16", GREY.astype(np.uint16), {}, GREY3, DEPTH_UNKNOWN, ""),
        ("8 bits said to be 12", GREY.astype(np.uint16), stored, GREY3, DEPTH_UNKNOWN, ""),
        ("8 in 16", GREY.astype(np.uint16), {"BitsStored": 8, "HighBit": 7}, GREY3, "", ""),
        ("16 bits", GREY.astype(np.uint16) * 257, {}, GREY3, "", ""),
        ("16 bits said to be 12", GREY.astype(np.uint16) * 257, stored, None, "", "wrong BitsSto"),
        (
            "16 bits, upper 12",
            GREY.astype(np.uint16) * 257,
            stored | {"HighBit": 15},
            None,
            "",
            "wrong HighBit",
        ),
        ("nonsense of HighBit", deep, stored | {"HighBit": 3}, GREY3, "", ""),
        ("a window", deep, stored | window, GREY3, "", ""),
        (
            "a window for 16 bits",
            deep,
            stored | {"WindowCenter": 40000, "WindowWidth": 60000},
            GREY3,
            WINDOW_UNUSED,
            "",
        ),
        (
            "a window of dark ones",
            deep,
            stored | {"WindowCenter": -900, "WindowWidth": 400},
            GREY3,
            WINDOW_UNUSED,
            "",
        ),
        (
            "a window for 8 bits",
            deep,
            stored | {"WindowCenter": 128, "WindowWidth": 256},
            GREY3,
            WINDOW_UNUSED,
            "",
        ),
        (
            "a window of no width",
            deep,
            stored | {"WindowCenter": 0, "WindowWidth": 0},
            GREY3,
            "",
            "",
        ),
        ("signed 12 bits", deep.astype(np.int16) - 2048, stored, GREY3, "", ""),
        (
            "signed 12 bits, sign once",
            (deep.astype(np.int16) - 2048) & 0xFFF,
            stored | {"PixelRepresentation": 1},
            GREY3,
            "",
            "",
        ),
        ("signed, none below 0", deep.astype(np.int16), {}, GREY3, DEPTH_UNKNOWN, ""),
        ("8 bits, said to be signed 16", GREY.astype(np.int16), {}, GREY3, DEPTH_UNKNOWN, ""),
        ("signed 8 bits in 16", GREY.astype(np.int16) - 128, {}, GREY3, DEPTH_UNKNOWN, ""),
        ("7 bits", GREY // 2, {"BitsStored": 7, "HighBit": 6}, GREY3, "", ""),
        ("8 bits said to be 7", GREY, {"BitsStored": 7, "HighBit": 6}, GREY3, DEPTH_DIFFERS, ""),
        ("no bits stored", GREY, {"BitsStored": 0}, GREY3, DEPTH_DIFFERS, ""),
        (
            "graphics above the picture",
            deep | 0x8000,
            stored | {"OverlayBitPosition": 15},
            GREY3,
            "",
            "",
        ),
        (
            "graphics elsewhere, and 16 bits said to be 12",
            GREY.astype(np.uint16) * 257,
            stored | {"OverlayBitPosition": 0},
            None,
            "",
            "wrong BitsSto",
        ),
        ("inverted 12 bits", deep, stored | {"label": "MONOCHROME1"}, 255 - GREY3, "", ""),
        ("falling 12 bits", deep, stored | {"RescaleSlope": -1}, 255 - GREY3, "", ""),
        ("falling 8 bits", GREY, {"RescaleSlope": -1}, 255 - GREY3, "", ""),
        (
            "values above which there are colours",
            GREY,
            {"PixelPresentation": "COLOR"},
            None,
            "",
            "unsupported: a palette for some of the values only",
        ),
        (
            "inverted with a window",
            deep,
            stored | window | {"label": "MONOCHROME1"},
            255 - GREY3,
            "",
            "",
        ),
    ):
        tags = dict(tags)
        label = tags.pop("label", "MONOCHROME2")
        case(
            name,
            lambda path, data=data, label=label, tags=tags: deep_file(path, data, label, tags),
            truth=truth,
            off=1.0,
            note=note,
            reason=reason,
        )
    rgb16 = COLOUR.astype(np.uint16) * 257
    case("colour of 16 bits", lambda path: make(path, rgb16, "RGB"), truth=COLOUR)
    case(
        "RLE of 16 bits",
        lambda path: coded(path, [rle(f) for f in rgb16], "RGB", RLE, template=rgb16),
        truth=COLOUR,
    )
    # The depth that a header states of coded pictures, against their own.
    eight = {"template": GREY.astype(np.uint16)}
    for name, encode, syntax in (
        ("lossless", lossless, LOSSLESS),
        ("JPEG-LS", jpeg_ls, JPEG_LS),
        ("JPEG 2000", j2k, J2K),
        ("JPEG 2000 of high throughput", htj2k, HTJ2K),
    ):
        files = [encode(f) for f in GREY]
        for said in (8, 12, 16):
            tags = eight | {"BitsStored": said, "HighBit": said - 1}
            case(
                f"{name} of 8 bits said to be {said} in 16",
                lambda path, files=files, syntax=syntax, tags=tags: coded(
                    path, files, "MONOCHROME2", syntax, **tags
                ),
                truth=GREY3,
            )
    for name, encode, syntax in (
        ("lossless", lambda f: lossless(f, bits=12), LOSSLESS),
        ("JPEG-LS", jpeg_ls, JPEG_LS),
        ("JPEG 2000", lambda f: j2k(f, bitspersample=12), J2K),
        ("JPEG 2000 of 16 bits", j2k, J2K),
    ):
        files = [encode(f) for f in deep]
        for said in (8, 12, 16):
            tags = {"template": deep, "BitsStored": said, "HighBit": said - 1}
            case(
                f"{name} of 12 bits said to be {said}",
                lambda path, files=files, syntax=syntax, tags=tags: coded(
                    path, files, "MONOCHROME2", syntax, **tags
                ),
                truth=GREY3,
                off=1.0,
            )
    colour = ((COLOUR.astype(int) * 4095 + 127) // 255).astype(np.uint16)
    ybr = ((YBR.astype(int) * 4095 + 127) // 255).astype(np.uint16)
    tags = stored | {"template": colour}
    extended = UID("1.2.840.10008.1.2.4.51")
    for name, files, label, syntax, truth, off in (
        ("JPEG", [deep_jpeg(f, "YCBCR") for f in colour], "YBR_FULL", extended, COLOUR, SOME_LOSS),
        ("JPEG", [deep_jpeg(f, "RGB") for f in colour], "RGB", extended, COLOUR, SOME_LOSS),
        ("lossless", [lossless(f, bits=12) for f in colour], "RGB", LOSSLESS, COLOUR, NO_LOSS),
        ("lossless", [lossless(f, bits=12) for f in ybr], "YBR_FULL", LOSSLESS, BACK, SOME_LOSS),
        ("J2K", [j2k(f, False, bitspersample=12) for f in ybr], "YBR_FULL", J2K, BACK, SOME_LOSS),
        ("J2K", [j2k(f, bitspersample=12) for f in colour], "YBR_RCT", J2K, COLOUR, NO_LOSS),
        ("JPEG-LS", [jpeg_ls(f) for f in colour], "RGB", JPEG_LS, COLOUR, NO_LOSS),
    ):
        case(
            f"{name} in colour of 12 bits as {label}",
            lambda path, files=files, label=label, syntax=syntax: coded(
                path, files, label, syntax, **tags
            ),
            truth=truth,
            off=off,
        )
    for name, value, data in (
        ("65535", 65535, np.where(GREY < 5, 65535, deep).astype(np.uint16)),
        ("-2000", -2000, np.where(GREY < 5, -2000, deep).astype(np.int16)),
    ):
        case(
            f"12 bits said to be 16, with padding of {name}",
            lambda path, data=data, value=value: make(path, data, PixelPaddingValue=value),
            truth=np.where(GREY3 < 5, 0, GREY3),
            off=SOME_LOSS,
            note=DEPTH_UNKNOWN,
        )
    case(
        "half the bytes",
        lambda path: make(path, GREY.astype(np.uint16), PixelData=GREY.tobytes()),
        reason="wrong BitsAllocated or NumberOfFrames: the pixel data has half the bytes",
    )
    for bits in (1, 12, 32):
        case(
            f"uncompressed pixels of {bits} bits",
            lambda path, bits=bits: make(path, GREY, BitsAllocated=bits),
            reason=f"unsupported: DICOM pixels of {bits} bit",
        )
    signed = deep.astype(np.int16) - 2048
    files = [j2k(f) for f in signed]
    case(
        "signed JPEG 2000",
        lambda path: coded(path, files, "MONOCHROME2", J2K, template=signed, **stored),
        truth=GREY3,
        off=1.0,
    )


def deep_jpeg(frame: np.ndarray, space: str) -> bytes:
    """12 bits in colour, whose channels are `space`, without markers."""
    how = {"colorspace": "RGB", "outcolorspace": space, "subsampling": "444"}
    return remarked(imagecodecs.jpeg8_encode(frame, level=98, bitspersample=12, **how), b"")


def deep_file(path: Path, data: np.ndarray, label: str, tags: dict[str, Any]) -> None:
    tags = dict(tags)
    overlay = tags.pop("OverlayBitPosition", None)
    make(path, data, label, **tags)
    if overlay is not None:
        dataset = pydicom.dcmread(path)
        dataset.add_new(0x60000102, "US", overlay)
        dataset.save_as(path)


def palettes() -> None:
    index = (GREY // 2).astype(np.uint8)  # 0 to 127
    table = np.random.default_rng(1).integers(0, 256, (128, 3))
    table[5] = 255
    truth = table[index].astype(np.uint8)

    def written(path: Path, stored: list[bytes], descriptor: Any, **tags: Any) -> None:
        make(
            path,
            tags.pop("frames", index),
            "PALETTE COLOR",
            tags.pop("syntax", ExplicitVRLittleEndian),
        )
        dataset = pydicom.dcmread(path)
        dataset.PixelRepresentation = tags.pop("signed", 0)
        for name, value in tags.items():
            setattr(dataset, name, value)
        several = descriptor if isinstance(descriptor[0], list) else [descriptor] * 3
        for name, data, numbers in zip(("Red", "Green", "Blue"), stored, several, strict=True):
            dataset[f"{name}PaletteColorLookupTableDescriptor"] = pydicom.DataElement(
                f"{name}PaletteColorLookupTableDescriptor", "US", numbers
            )
            dataset[f"{name}PaletteColorLookupTableData"] = pydicom.DataElement(
                f"{name}PaletteColorLookupTableData", "OW", data
            )
        dataset.save_as(path)

    def as_numbers(path: Path, stored: list[bytes]) -> None:
        written(path, stored, [128, 0, 16])
        dataset = pydicom.dcmread(path)
        for name, data in zip(("Red", "Green", "Blue"), stored, strict=True):
            element = f"{name}PaletteColorLookupTableData"
            values = np.frombuffer(data, "<u2").tolist()
            dataset[element] = pydicom.DataElement(element, "US", values)
        dataset.save_as(path)

    def case_of(
        name: str, values: np.ndarray, dtype: str, descriptor: list[int], **more: Any
    ) -> None:
        stored = [values[:, c].astype(dtype).tobytes() for c in range(3)]
        stored = [s + b"\0" * (len(s) % 2) for s in stored]
        tags = {k: more.pop(k) for k in ("frames", "syntax", "signed") if k in more}
        expected = {"truth": truth} | more
        case(f"palette, {name}", lambda path: written(path, stored, descriptor, **tags), **expected)

    case_of("8 bits", table, "u1", [128, 0, 8])
    case_of("8 bits in 16", table, "<u2", [128, 0, 8])
    case_of("8 bits in 16, said to be 16", table, "<u2", [128, 0, 16])
    case_of("16 bits", table * 257, "<u2", [128, 0, 16])
    case_of("16 bits, upper bytes", table * 256, "<u2", [128, 0, 16])
    case_of("16 bits, said to be 8", table * 257, "<u2", [128, 0, 8])
    case_of("packed, said to be 16", table, "u1", [128, 0, 16])
    case_of("12 bits", table << 4 | table >> 4, "<u2", [128, 0, 12])
    case_of("12 bits, said to be 16", table << 4 | table >> 4, "<u2", [128, 0, 16])
    case_of("10 bits", table << 2 | table >> 6, "<u2", [128, 0, 10])
    case_of(
        "an odd number of 8 bits",
        table[:127],
        "u1",
        [127, 0, 8],
        truth=table[np.minimum(index, 126)],
    )
    case_of("short by an entry that is not used", np.r_[table, table[:127]], "<u2", [256, 0, 8])
    case_of("short by an entry of 16 bits", np.r_[table, table[:127]] * 257, "<u2", [256, 0, 16])
    case_of("short by an entry of 8 bits", np.r_[table, table[:126]], "u1", [256, 0, 8])
    case_of(
        "short by a used entry",
        table[:60] * 257,
        "<u2",
        [128, 0, 16],
        truth=None,
        reason="wrong palette: pixels use entry ",
    )
    full = np.resize(table * 257, (2**16, 3))
    case_of("0 for 65536 entries", full, "<u2", [0, 0, 16])
    case_of("0 for 65536 entries of 8 bits", np.resize(table, (2**16, 3)), "u1", [0, 0, 8])
    case_of("0, but 256 entries", full[:256], "<u2", [0, 0, 16])
    case_of("16-bit indices", full[:1000], "<u2", [1000, 0, 16], frames=index.astype(np.uint16))
    case_of("of pixels said to be signed", table * 257, "<u2", [128, 0, 16], signed=1)
    case_of("from -20 on", np.r_[table[:20], table] * 257, "<u2", [148, 2**16 - 20, 16], signed=1)
    case_of(
        "from 20 on", table[20:] * 257, "<u2", [108, 20, 16], truth=table[np.maximum(index, 20)]
    )
    case_of("big-endian", table * 257, ">u2", [128, 0, 16], syntax=ExplicitVRBigEndian)
    case_of("dark, of 16 bits", table // 4 * 257, "<u2", [128, 0, 16], truth=(table // 4)[index])
    case_of("a descriptor of two numbers", table, "u1", [128, 0], reason="wrong RedPaletteColor")
    reds = [bytes(table[:, 0].astype("u1")), *((table[:, c] * 257).astype("<u2") for c in (1, 2))]
    mixed = [[128, 0, 8], [128, 0, 16], [128, 0, 16]]
    case(
        "palette, red of 8 bits only",
        lambda path: written(path, [bytes(part) for part in reds], mixed),
        truth=truth,
    )
    wide = [(table[:, c] * 257).astype("<u2").tobytes() for c in range(3)]
    case("palette, as numbers", lambda path: as_numbers(path, wide), truth=truth)
    late = [wide[0], wide[1][20:], wide[2]]
    case(
        "palette, green begins later",
        lambda path: written(path, late, [[128, 0, 16], [118, 10, 16], [128, 0, 16]]),
        truth=np.where([False, True, False], table[np.maximum(index, 10)], truth),
    )
    eight = {"frames": index.astype(np.uint16), "BitsStored": 8, "HighBit": 7}
    for name, change, expected in (
        ("8 bits in 16", {}, {"truth": truth}),
        (
            "8 bits in the upper ones",
            {"frames": eight["frames"] << 8, "HighBit": 15},
            {"truth": truth},
        ),
        (
            "8 bits said, and more used",
            {"frames": eight["frames"] | 0x8000},
            {"reason": "wrong BitsStored"},
        ),
    ):
        case(
            f"palette, indices of {name}",
            lambda path, tags=eight | change: written(path, wide, [128, 0, 16], **tags),
            **expected,
        )
    pictures = [jpeg(f) for f in index]
    case(
        "palette, of pictures with loss",
        lambda path: coded(path, pictures, "PALETTE COLOR", JPEG),
        reason="unsupported: a palette for pictures with lossy compression",
    )
    case(
        "palette, none",
        lambda path: make(path, index, "PALETTE COLOR"),
        reason="incomplete: the header lacks RedPaletteColorLookupTableDescriptor",
    )


def fragments() -> None:
    pictures = [jpeg(f, "4:2:0") for f in COLOUR]
    truth = np.stack([by_pillow(p) for p in pictures])
    streams = {
        "jpeg": (pictures, "YBR_FULL_422", JPEG, truth),
        "JPEG-LS": ([jpeg_ls(f) for f in COLOUR], "RGB", JPEG_LS, COLOUR),
        "JPEG 2000": ([j2k(f) for f in COLOUR], "YBR_RCT", J2K, COLOUR),
        "RLE": ([rle(f) for f in COLOUR], "RGB", RLE, COLOUR),
    }
    for name, (files, label, syntax, right) in streams.items():
        for table in ("empty", "right", "wrong", "short", "extended"):
            for ending in ("delimiter", "none", "zeros", "trailing"):
                if ending != "delimiter" and table not in ("empty", "right"):
                    continue
                case(
                    f"{name}, table {table}, ending {ending}",
                    lambda path, a=(files, label, syntax), t=table, e=ending: coded(
                        path, *a, table=t, ending=e
                    ),
                    truth=right,
                    off=0.5,
                )
        for table in ("empty", "right", "wrong", "extended"):
            case(
                f"{name} in three pieces, table {table}",
                lambda path, a=(files, label, syntax), t=table: coded(path, *a, pieces=3, table=t),
                truth=right,
                off=0.5,
            )
        case(
            f"{name}, cut",
            lambda path, a=(files, label, syntax): coded(path, *a, ending="cut"),
            reason=f"truncated: header states {FRAMES} frames, file holds {FRAMES - 1}",
        )
        case(
            f"{name}, odd lengths",
            lambda path, a=(files, label, syntax): coded(path, *a, even=False),
            truth=right,
            off=0.5,
        )
        for said, held in ((FRAMES + 2, FRAMES), (FRAMES - 1, FRAMES)):
            case(
                f"{name}, said to have {said}",
                lambda path, a=(files, label, syntax), said=said: coded(path, *a, said=said),
                reason=f"wrong NumberOfFrames: header states {said} frames, file holds {held}",
            )
        case(
            f"{name}, no number of frames",
            lambda path, a=(files, label, syntax): coded(path, *a, said=None),
            truth=right,
            off=0.5,
        )
        half = [*files[:2], files[2][: len(files[2]) // 2], *files[3:]]
        case(
            f"{name}, half of frame 2",
            lambda path, h=half, a=(label, syntax): coded(path, h, *a),
            reason="damaged: frame 2 does not decode",
        )
        if syntax != RLE:
            closed = [*files[:2], files[2][: len(files[2]) * 7 // 8] + b"\xff\xd9", *files[3:]]
            case(
                f"{name}, frame 2 cut and closed",
                lambda path, h=closed, a=(label, syntax): coded(path, h, *a),
                reason="damaged: frame 2 does not decode",
            )
        case(
            f"{name} of another size",
            lambda path, a=(files, label, syntax): coded(
                path, *a, template=np.zeros((1, 40, 48, 3), np.uint8)
            ),
            reason="damaged: frame 0"
            if syntax == RLE
            else "wrong Rows and Columns: header states 40",
        )
    case(
        "jpeg, no table at all",
        lambda path: coded(path, pictures, "YBR_FULL_422", JPEG, table="missing"),
        truth=truth,
        off=0.5,
    )
    endless = [p[:-2] for p in pictures]
    case(
        "jpeg, no end markers",
        lambda path: coded(path, endless, "YBR_FULL_422", JPEG),
        truth=truth,
        off=0.5,
    )
    filled = [p[:-2] + bytes(4) + p[-2:] for p in pictures]
    case(
        "jpeg, zeros before its end",
        lambda path: coded(path, filled, "YBR_FULL_422", JPEG),
        truth=truth,
        off=0.5,
    )
    open_ended = [j2k(f)[:-2] for f in COLOUR]
    case(
        "JPEG 2000, no end markers",
        lambda path: coded(path, open_ended, "YBR_RCT", J2K),
        truth=COLOUR,
    )
    half_open = [*open_ended[:2], open_ended[2][:-40], open_ended[3]]
    case(
        "JPEG 2000, no end markers, 40 bytes of frame 2 are missing",
        lambda path: coded(path, half_open, "YBR_RCT", J2K),
        reason="damaged: frame 2 does not decode",
    )
    thumbnail = b"\xff\xe1" + struct.pack(">H", 8 + len(pictures[0])) + b"Exif\0\0" + pictures[0]
    within = [p[:2] + thumbnail + p[2:] for p in pictures]
    for pieces in (1, 3):
        case(
            f"jpeg with a thumbnail, in {pieces} pieces",
            lambda path, pieces=pieces: coded(path, within, "YBR_FULL_422", JPEG, pieces=pieces),
            truth=truth,
            off=0.5,
        )
    halves = [lossless(f) for f in GREY]
    deep = [lossless(f.astype(np.uint16) * 16, bits=12) for f in GREY]
    for name, files in (("lossless", halves), ("lossless of 12 bits", deep)):
        files = [*files[:3], files[3][: len(files[3]) * 3 // 4] + b"\xff\xd9"]
        case(
            f"{name}, frame 3 cut and closed",
            lambda path, f=files: coded(path, f, "MONOCHROME2", LOSSLESS),
            reason="damaged: frame 3 does not decode",
        )
    cmyk = io.BytesIO()
    Image.fromarray(np.dstack([COLOUR[0], GREY[0]]), "CMYK").save(cmyk, "JPEG")
    four = [cmyk.getvalue()] * FRAMES
    case(
        "jpeg of four channels",
        lambda path: coded(path, four, "RGB", JPEG),
        reason="unsupported: pictures of 4 channels",
    )
    case(
        "noise",
        lambda path: coded(path, [b"\xff\xd8\xff\xdb" + b"x" * 99] * FRAMES, "RGB", JPEG),
        reason="damaged: frame 0",
    )


def other_kinds() -> None:
    pictures = [jpeg(f, "4:2:0") for f in COLOUR]
    truth = np.stack([by_pillow(p) for p in pictures])

    def without(path: Path, *names: str) -> None:
        coded(path, pictures, "YBR_FULL_422", JPEG)
        dataset = pydicom.dcmread(path)
        for name in names:
            delattr(dataset, name)
        dataset.save_as(path)

    meaningless = ("SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit")
    for names in (("PixelRepresentation",), meaningless, (*meaningless, "PlanarConfiguration")):
        case(
            f"jpeg without {names[0]} and {len(names) - 1} more",
            lambda path, names=names: without(path, *names),
            truth=truth,
            off=0.5,
        )
    deep = [lossless(f.astype(np.uint16) * 16, bits=12) for f in GREY]

    def unsigned(path: Path) -> None:
        coded(path, deep, "MONOCHROME2", LOSSLESS, template=GREY.astype(np.uint16))
        dataset = pydicom.dcmread(path)
        del dataset.PixelRepresentation
        dataset.save_as(path)

    case(
        "12 bits without PixelRepresentation",
        unsigned,
        reason="incomplete: the header lacks PixelRepresentation",
    )
    for label, samples in (("RGB", 1), ("YBR_FULL", 1), ("MONOCHROME2", 3)):
        held = COLOUR if samples == 1 else GREY
        case(
            f"{samples} samples per pixel of {label}",
            lambda path, held=held, label=label, samples=samples: make(
                path, held, label, SamplesPerPixel=samples
            ),
            reason=f"wrong SamplesPerPixel: header states {samples}, the file holds",
        )
    for samples in (1, 3):
        case(
            f"jpeg with {samples} samples per pixel",
            lambda path, samples=samples: coded(
                path, pictures, "YBR_FULL_422", JPEG, SamplesPerPixel=samples
            ),
            truth=truth,
            off=0.5,
        )
    case(
        "signed 8 bits",
        lambda path: make(path, (GREY.astype(int) - 128).astype(np.int8)),
        truth=GREY3,
    )
    case(
        "signed colours",
        lambda path: make(path, COLOUR, "RGB", PixelRepresentation=1),
        truth=COLOUR,
    )
    case(
        "jpeg of signed colours",
        lambda path: coded(path, pictures, "YBR_FULL_422", JPEG, PixelRepresentation=1),
        truth=truth,
        off=0.5,
    )
    case("label with a blank", lambda path: make(path, COLOUR, "RGB "), truth=COLOUR)
    mixed = [*pictures[:3], jpeg(GREY[3])]
    case(
        "one grey jpeg of four",
        lambda path: coded(path, mixed, "YBR_FULL_422", JPEG),
        reason="mixed pictures: frame 3 has other channels",
    )
    for syntax in (ExplicitVRLittleEndian, LOSSLESS, J2K):
        case(
            f"jpegs under {syntax.name[:30]}",
            lambda path, syntax=syntax: coded(path, pictures, "YBR_FULL_422", syntax),
            truth=truth,
            off=0.5,
        )
    case("uncompressed pixels under JPEG", as_if_jpeg, truth=COLOUR)
    case("deflated", deflated, truth=COLOUR)
    for written, said in (("1.2.1", "1.2.2"), ("1.2.2", "1.2.1"), ("1.2.2", "1.2")):
        case(
            f"the byte order of {written}, said to be {said}",
            lambda path, w=written, s=said: other_order(path, w, s),
            truth=GREY3,
        )
    for sampling in ("440", "411"):
        files = [imagecodecs.jpeg8_encode(f, level=97, subsampling=sampling) for f in COLOUR]
        case(
            f"jpeg of {sampling} as RGB",
            lambda path, files=files: coded(path, [remarked(f, b"") for f in files], "RGB", JPEG),
            truth=np.stack([by_pillow(f) for f in files]),
            off=0.5,
            note=COLOURS_DIFFER,
        )
    files = [
        imagecodecs.jpeg2k_encode(f, level=0, codecformat="JP2", reversible=True) for f in COLOUR
    ]
    case("JP2 boxes", lambda path: coded(path, files, "YBR_RCT", J2K), truth=COLOUR)
    high = [htj2k(f) for f in COLOUR]
    high[1] = high[1][: len(high[1]) // 2] + b"\xff\xd9"
    case(
        "JPEG 2000 of high throughput, half of frame 1",
        lambda path: coded(path, high, "YBR_RCT", HTJ2K),
        reason="damaged: frame 1 does not decode",
    )
    many = [b"\xff\xd8" + adobe(1) + JFIF + p[2:] for p in pictures]
    case(
        "jpeg with every marker, as RGB",
        lambda path: coded(path, many, "RGB", JPEG),
        truth=truth,
        off=0.5,
        note=COLOURS_DIFFER,
    )
    for sof in (0xC5, 0xCB):
        odd = [p.replace(b"\xff\xc0", bytes([0xFF, sof]), 1) for p in pictures]
        case(
            f"jpeg of kind {sof - 0xC0}",
            lambda path, odd=odd: coded(path, odd, "RGB", JPEG),
            reason=f"unsupported: JPEG of the kind SOF{sof - 0xC0}",
        )


def videos() -> None:
    # Smooth, because speckle is what such codecs lose; and x265 breaks on pictures below 64 rows.
    smooth = COLOUR[:, :16].repeat(4, axis=1).repeat(2, axis=2)
    for codec, syntax in (("mpeg2video", "100"), ("libx264", "102"), ("libx265", "107")):
        for form in ("bare", "mp4"):
            if form == "mp4" and codec == "mpeg2video":
                continue
            stream = video_stream(smooth, codec, form)

            def write(path: Path, stream=stream, syntax=syntax, **how: Any) -> None:
                how = {"template": smooth} | how
                coded(
                    path, [stream], "YBR_PARTIAL_420", UID(f"1.2.840.10008.1.2.4.{syntax}"), **how
                )

            name = f"{codec}, {form}"
            case(name, write, truth=smooth, off=12.0)
            case(f"{name}, in pieces", lambda p, w=write: w(p, pieces=3), truth=smooth, off=12.0)
            half = stream[: len(stream) // 2]
            case(
                f"{name}, half is missing",
                lambda p, h=half, s=syntax: coded(
                    p, [h], "YBR_PARTIAL_420", UID(f"1.2.840.10008.1.2.4.{s}"), template=smooth
                ),
                reason="truncated: the index" if form == "mp4" else ("damaged: frame 0 ", "no fra"),
            )
            case(
                f"{name}, said to have 6",
                lambda p, w=write: w(p, said=6),
                reason=f"truncated: header states 6 frames, file holds {FRAMES}",
            )
            case(
                f"{name}, said to have 3",
                lambda p, w=write: w(p, said=3),
                reason=f"wrong NumberOfFrames: header states 3 frames, file holds {FRAMES}",
            )
            case(
                f"{name}, cut", lambda p, w=write: w(p, ending="cut"), reason="truncated: the file"
            )
            case(
                f"{name} of another size",
                lambda p, w=write: w(p, template=np.zeros((1, 40, 48, 3), np.uint8)),
                reason="wrong Rows and Columns: header states 40 x 48, frame 0 has 64 x 96",
            )

    def turned(path: Path, rows: int) -> None:
        """With a display matrix of a quarter turn."""
        stream = bytearray(video_stream(smooth, "libx264", "mp4"))
        struct.pack_into(
            ">9i", stream, stream.index(b"tkhd") + 44, 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30
        )
        template = np.zeros((1, rows, 160 - rows, 3), np.uint8)
        syntax = UID("1.2.840.10008.1.2.4.102")
        coded(path, [bytes(stream)], "YBR_PARTIAL_420", syntax, template=template)

    case(
        "turned, the header too",
        lambda p: turned(p, 96),
        truth=np.rot90(smooth, -1, (1, 2)),
        off=12.0,
    )
    case("turned, the header not", lambda p: turned(p, 64), truth=smooth, off=12.0)
    for codec, said in (("libx265", "102"), ("libx264", "100"), ("mpeg2video", "107")):
        stream = video_stream(smooth, codec, "bare")
        case(
            f"{codec}, under the syntax {said}",
            lambda p, stream=stream, said=said: coded(
                p, [stream], "YBR_PARTIAL_420", UID(f"1.2.840.10008.1.2.4.{said}"), template=smooth
            ),
            truth=smooth,
            off=12.0,
        )


def deflated(path: Path, pack: Callable[[bytes], bytes] | None = None) -> None:
    """Deflated as it should be, or by `pack`."""
    make(path, COLOUR, "RGB")
    plain = path.read_bytes()
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1.99")
    dataset.save_as(path, enforce_file_format=True)
    if pack:
        packed = path.read_bytes()
        path.write_bytes(packed[: meta_end(packed)] + pack(plain[meta_end(plain) :]))


def meta_end(data: bytes) -> int:
    """Where the data set begins."""
    return 144 + int.from_bytes(data[140:144], "little")


def other_order(path: Path, written: str, said: str) -> None:
    """A data set in another byte order than its transfer syntax states."""
    deep = GREY.astype(np.uint16) * 257
    make(path, deep, syntax=UID(f"1.2.840.10008.{written}"))
    data = path.read_bytes()
    end = meta_end(data)
    head = data[:end].replace(
        f"1.2.840.10008.{written}\0".encode(), f"1.2.840.10008.{said}".ljust(20, "\0").encode()
    )
    assert len(head) == end
    path.write_bytes(head + data[end:])


def as_if_jpeg(path: Path) -> None:
    make(path, COLOUR, "RGB")
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = JPEG
    dataset.save_as(path, enforce_file_format=True)
    raw = COLOUR.tobytes()
    with path.open("ab") as file:
        file.write(b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", len(raw)) + raw)


def odd_elements() -> None:
    """Pixel data of a wrong type or length, and files that begin or are packed in odd ways."""
    for letters in (b"OF", b"OL", b"UT", b"UN", b"US", b"??", b"\0\0"):
        case(
            f"pixel data of type {letters!r}",
            lambda path, letters=letters: retyped(path, letters, GREY.nbytes),
            truth=GREY3,
        )
    case("uncompressed, of no length", lambda path: retyped(path, b"OB", 0xFFFFFFFF), truth=GREY3)
    raw = [f.tobytes() for f in GREY]
    for syntax in (ExplicitVRLittleEndian, JPEG, UID("1.2.840.10008.1.2.1.98")):
        for pieces in (raw, [b"".join(raw)]):
            case(
                f"uncompressed, in {len(pieces)} fragments, {syntax.name[:25]}",
                lambda path, syntax=syntax, pieces=pieces: coded(
                    path, pieces, "MONOCHROME2", syntax
                ),
                truth=GREY3,
            )
    for name, pictures, label, syntax, truth in (
        ("jpeg", [jpeg(f) for f in GREY], "MONOCHROME2", JPEG, GREY3),
        ("JPEG 2000", [j2k(f) for f in COLOUR], "YBR_RCT", J2K, COLOUR),
    ):
        case(
            f"{name}, all in one fragment",
            lambda path, a=(pictures, label, syntax): coded(path, [b"".join(a[0])], *a[1:]),
            truth=truth,
            off=SOME_LOSS,
        )
    case(
        "PNG as JPEG",
        lambda path: coded(path, [imagecodecs.png_encode(f) for f in COLOUR], "RGB", JPEG),
        reason="unsupported: pictures that are neither JPEG nor JPEG 2000",
    )
    case(
        "RLE of three planes as grey",
        lambda path: coded(path, [rle(f) for f in COLOUR], "MONOCHROME2", RLE),
        reason="wrong SamplesPerPixel or BitsAllocated: header states 1 byte",
    )
    for name, pack in (("zlib", zlib.compress), ("gzip", gzip.compress), ("nothing", bytes)):
        case(f"deflated by {name}", lambda path, pack=pack: deflated(path, pack), truth=COLOUR)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        for start in ("without DICM", "without meta elements"):
            case(
                f"{start}, {syntax.name[:8]}",
                lambda path, syntax=syntax, start=start: headless(path, syntax, start),
                truth=GREY3,
            )
    case("without a syntax", without_syntax, truth=GREY3)
    case("with an icon before the pixel data", with_icon, truth=GREY3)
    case("pixel data twice", twice, truth=GREY3)
    case("compressed, of a stated length", closed_at_its_length, truth=COLOUR)
    for text in (b"4 x ", b"4\\4 "):
        case(
            f"{text!r} frames",
            lambda path, text=text: frames_as_text(path, text),
            reason="wrong NumberOfFrames: it is not a whole number",
        )
    case("floating-point numbers", floats, reason="unsupported: DICOM pixels that are floating-")


def retyped(path: Path, letters: bytes, length: int) -> None:
    """The same file with pixel data of another type, or another length in bytes."""
    make(path, GREY)
    data = path.read_bytes()
    place = data.rindex(b"\xe0\x7f\x10\0OB")
    head = b"\xe0\x7f\x10\0" + letters
    if letters == b"US":  # of short values
        head += struct.pack("<H", length)
    else:
        head += struct.pack("<HI", 0, length)
    path.write_bytes(data[:place] + head + data[place + 12 :])


def headless(path: Path, syntax: UID, start: str) -> None:
    make(path, GREY, syntax=syntax)
    data = path.read_bytes()
    path.write_bytes(data[132:] if start == "without DICM" else data[meta_end(data) :])


def with_icon(path: Path) -> None:
    make(path, GREY)
    dataset = pydicom.dcmread(path)
    icon = pydicom.Dataset()
    icon.Rows, icon.Columns, icon.PixelData = 8, 8, bytes(64)
    icon["PixelData"].VR = "OB"
    dataset.IconImageSequence = [icon]
    dataset.save_as(path)


def twice(path: Path) -> None:
    make(path, GREY)
    data = path.read_bytes()
    path.write_bytes(data + data[data.rindex(b"\xe0\x7f\x10\0OB") :])


def closed_at_its_length(path: Path) -> None:
    """Fragments in an element that states its length."""
    coded(path, [j2k(f) for f in COLOUR], "YBR_RCT", J2K)
    data = path.read_bytes()
    place = data.rindex(b"\xe0\x7f\x10\0OB") + 8
    path.write_bytes(data[:place] + struct.pack("<I", len(data) - place - 4) + data[place + 4 :])


def without_syntax(path: Path) -> None:
    make(path, GREY)
    dataset = pydicom.dcmread(path)
    del dataset.file_meta.TransferSyntaxUID
    dataset.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)


def frames_as_text(path: Path, text: bytes) -> None:
    make(path, GREY)
    data = path.read_bytes()
    place = data.index(b"\x28\0\x08\0IS")
    path.write_bytes(data[: place + 6] + struct.pack("<H", 4) + text + data[place + 10 :])


def floats(path: Path) -> None:
    make(path, GREY.astype(np.uint32))
    dataset = pydicom.dcmread(path)
    dataset.FloatPixelData = GREY.astype("<f4").tobytes()
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.save_as(path)


def bytes_of_native() -> None:
    said = f"header states {FRAMES} frames, file holds"
    for name, tags, expected in (
        ("a word more", {"PixelData": GREY.tobytes() + bytes(2)}, {"truth": GREY3}),
        (
            "a frame more",
            {"PixelData": GREY.tobytes() + bytes(GREY[0].nbytes)},
            {"reason": f"wrong NumberOfFrames: {said} {FRAMES + 1}"},
        ),
        (
            "a frame less",
            {"PixelData": GREY[1:].tobytes()},
            {"reason": f"truncated: {said} {FRAMES - 1}"},
        ),
        ("no number of frames", {"NumberOfFrames": None}, {"truth": GREY3}),
    ):
        case(f"native, {name}", lambda path, tags=tags: make(path, GREY, **tags), **expected)


for add in (
    *(colours_of_jpegs, colours_without_loss, native_colours, greys_tell, depth),
    *(palettes, fragments, other_kinds, videos, bytes_of_native, odd_elements),
):
    add()


def test_there_is_a_corpus():
    names = [c.name for c in CASES]
    assert len(names) >= 150
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("made", CASES, ids=lambda made: made.name)
def test_pixels_are_right_or_the_reason_is(made: Case, tmp_path):
    judge(made, tmp_path / "a.dcm")


# --- files from public reports --------------------------------------------------------------------


def pictures_in(path: Path) -> list[bytes]:
    """The JPEGs in a file, by their marks alone."""
    return [b"\xff\xd8\xff" + part for part in path.read_bytes().split(b"\xff\xd8\xff")[1:]]


JPEG_CASES = [*FOLDER.glob("*jpeg_*.dcm"), *FOLDER.glob("enc*.dcm")]


@pytest.mark.parametrize("path", sorted(JPEG_CASES))
def test_jpegs_from_reports(path):
    if path.stem == "jpeg_frame_7_half":
        with pytest.raises(UnreadableVideo, match=r"^damaged: frame 7 does not decode$"):
            decode.decode(str(path), np.arange(12))
        return
    video = decode.decode(str(path), np.arange(decode.probe(str(path)).frames))
    if "lossless" in path.stem:
        truth = np.stack([imagecodecs.ljpeg_decode(p) for p in pictures_in(path)])
        np.testing.assert_array_equal(video, np.repeat(truth[..., None], 3, axis=-1))
        return
    truth = np.stack([by_pillow(p) for p in pictures_in(path)])
    assert video.shape == truth.shape == (12, 96, 128, 3)
    assert np.abs(video.astype(int) - truth).mean() < 0.5
    spread = np.ptp(truth[:, 40:, :].astype(int), axis=-1)
    assert np.abs(np.ptp(video[:, 40:, :].astype(int), axis=-1) - spread).max() <= 4, "grey is grey"


def test_half_of_a_jpeg_ls_picture():
    with pytest.raises(UnreadableVideo, match=r"^damaged: frame 7 does not decode$"):
        decode.decode(str(FOLDER / "jpegls_frame_7_half.dcm"), np.arange(12))


@pytest.mark.parametrize("name", ["vr_unlike_syntax_b", "vr_unlike_syntax_c"])
def test_value_representations_are_found_in_the_data_set(name):
    path = FOLDER / f"{name}.dcm"
    truth = np.frombuffer(path.read_bytes()[-12 * 96 * 128 * 3 :], np.uint8)
    video = decode.decode(str(path), np.arange(12))
    np.testing.assert_array_equal(video.ravel(), truth)


def test_twelve_bits_in_the_upper_ones():
    path = FOLDER / "high_bit_15_of_12_bits.dcm"
    stored = np.frombuffer(path.read_bytes()[-12 * 96 * 128 * 2 :], "<u2").reshape(12, 96, 128)
    video = decode.decode(str(path), np.arange(12))[..., 0]
    assert np.abs(video - (stored >> 4) * (255 / 4095)).max() <= 0.51


# --- what is not installed with the rest ----------------------------------------------------------


def test_deep_jpegs_need_the_extra(tmp_path, monkeypatch):
    deep = (GREY.astype(int) * 4095 // 255).astype(np.uint16)
    pictures = [imagecodecs.jpeg8_encode(f, level=98, bitspersample=12) for f in deep]
    tags: dict[str, Any] = {"template": deep, "BitsStored": 12, "HighBit": 11}
    extended = UID("1.2.840.10008.1.2.4.51")
    path = coded(tmp_path / "a.dcm", pictures, "MONOCHROME2", extended, **tags)
    video = decode.decode(path, np.arange(FRAMES))
    assert np.abs(video.astype(int) - GREY3).mean() < SOME_LOSS
    pictures[2] = pictures[2][: len(pictures[2]) * 3 // 4] + b"\xff\xd9"
    cut = coded(tmp_path / "b.dcm", pictures, "MONOCHROME2", extended, **tags)
    with pytest.raises(UnreadableVideo, match=r"^damaged: frame 2 does not decode$"):
        decode.decode(cut, np.arange(FRAMES))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    pictures = [lossless(f, bits=12) for f in deep]
    path = coded(tmp_path / "c.dcm", pictures, "MONOCHROME2", LOSSLESS, **tags)
    with pytest.raises(UnreadableVideo, match=r"^unsupported: lossless JPEG of 12 bits \(pip"):
        decode.decode(path, np.array([1]))


def test_real_files_that_other_programs_read():
    """With a marker that is too short, and with bytes of filling behind the picture."""
    video = decode.decode(real("SC_rgb_jpeg.dcm"), np.array([0]))
    assert np.ptp(video.astype(int), axis=-1).mean() < 1, "it is white, and not pink"
    dataset = pydicom.dcmread(real("JPEG-LL.dcm"))
    (picture,) = generate_frames(dataset.PixelData, number_of_frames=1)
    stored = imagecodecs.jpeg8_decode(picture).astype(int)
    shown = decode.decode(real("JPEG-LL.dcm"), np.array([0]))[0, ..., 0]
    assert np.corrcoef(stored.ravel(), shown.ravel())[0, 1] > 0.99
