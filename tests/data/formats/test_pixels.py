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
    DEEP,
    FRAMES,
    GREY,
    GREY3,
    HEIGHT,
    HTJ2K,
    J2K,
    JFIF,
    JPEG,
    JPEG_LS,
    JPEG_TRUTH,
    JPEGS,
    LOSSLESS,
    NO_LOSS,
    OF_DEEP,
    OF_JPEG,
    RLE,
    SOME_LOSS,
    TWELVE,
    YBR,
    Case,
    Write,
    adobe,
    by_pillow,
    coded,
    damaged,
    edited,
    htj2k,
    in_dicom,
    j2k,
    jpeg,
    jpeg_ls,
    judge,
    lossless,
    made,
    of_jpeg,
    packed,
    patched,
    remarked,
    rgb_jpeg,
    rle,
    swapped,
    video_stream,
    without,
)
from tests.makers.recordings import FOLDER
from tests.makers.videos import all_frames

pytestmark = pytest.mark.slow

# --- the corpus -----------------------------------------------------------------------------------


CASES: list[Case] = []


def case(name: str, write: Write, truth: Any = None, **expected: Any) -> None:
    CASES.append(Case(name, write, truth, **expected))


def colours_of_jpegs() -> None:
    """Every marker under every label: the stream decides, and where it is open, the label."""
    pictures = {s: [jpeg(f, s) for f in COLOUR] for s in ("4:4:4", "4:2:2", "4:2:0")}
    truth = {s: of_jpeg(ps) for s, ps in pictures.items()}
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
            case(name, packed(files, label), **truth[sampling], note=note)
        for name, marks, ids in (
            ("Adobe 0", adobe(0), b"\1\2\3"),
            ("named", b"", b"RGB"),
            ("Adobe 0 and named", adobe(0), b"RGB"),
        ):
            files = [remarked(p, marks, ids) for p in rgb]
            note = "" if label == "RGB" else COLOURS_DIFFER
            write = packed(files, label)
            case(f"jpeg of RGB, {name}, as {label}", write, COLOUR, off=SOME_LOSS, note=note)
    case("jpeg of RGB without a mark, as RGB", packed(rgb, "RGB"), COLOUR, off=SOME_LOSS)
    full, full_truth = pictures["4:4:4"], truth["4:4:4"]
    from_0 = [remarked(p, b"", b"\0\1\2") for p in full]
    case("jpeg with names from 0 on, as YBR_FULL", packed(from_0, "YBR_FULL"), **full_truth)
    for marked in range(FRAMES):
        files = [remarked(p, JFIF if k == marked else b"") for k, p in enumerate(full)]
        name = f"jpeg, JFIF in frame {marked} only, as RGB"
        case(name, packed(files, "RGB"), **full_truth, note=COLOURS_DIFFER)
    for label, note in (("RGB", COLOURS_DIFFER), ("YBR_FULL_422", "")):
        files = [remarked(p, adobe(2)) for p in JPEGS]
        name = f"jpeg with Adobe's code for four channels as {label}"
        case(name, packed(files, label), **OF_JPEG, note=note)
    progressive = [jpeg(f, "4:2:0", progressive=True) for f in COLOUR]
    case("progressive jpeg", packed(progressive), **of_jpeg(progressive))
    grey = [jpeg(f) for f in GREY]
    of_grey = of_jpeg(grey)
    inverted = of_grey | {"truth": 255 - of_grey["truth"]}
    case("grey jpeg as MONOCHROME2", packed(grey, "MONOCHROME2"), **of_grey)
    case("grey jpeg as MONOCHROME1", packed(grey, "MONOCHROME1"), **inverted)
    case("grey jpeg as RGB", packed(grey, "RGB"), **of_grey, note=COLOURS_DIFFER)
    write = packed(JPEGS, "MONOCHROME2")
    case("colour jpeg as MONOCHROME2", write, **OF_JPEG, note=COLOURS_DIFFER)
    case("jpeg in a lossless syntax", packed(JPEGS, syntax=LOSSLESS), **OF_JPEG)


# Codings without loss, in which nothing states the colours.
OPEN: tuple[tuple[str, Callable[[np.ndarray], bytes], UID], ...] = (
    ("lossless", lossless, LOSSLESS),
    ("JPEG-LS", jpeg_ls, JPEG_LS),
    ("JPEG 2000", lambda f: j2k(f, mct=False), J2K),
    ("RLE", rle, RLE),
)


def colours_without_loss() -> None:
    for label, stored, truth, off in (
        ("RGB", COLOUR, COLOUR, NO_LOSS),
        ("YBR_FULL", YBR, BACK, SOME_LOSS),
    ):
        spiff = ("JPEG-LS with SPIFF", imagecodecs.jpegls_encode, JPEG_LS)
        for name, encode, syntax in (*OPEN, spiff):
            files = [encode(f) for f in stored]
            case(f"{name}, open, as {label}", packed(files, label, syntax), truth, off=off)
    for label in ("RGB", "YBR_FULL", "YBR_RCT", "YBR_ICT", "MONOCHROME2"):
        note = COLOURS_DIFFER if label in ("YBR_FULL", "MONOCHROME2") else ""
        for name, encode, syntax in (("2000", j2k, J2K), ("2000 of high throughput", htj2k, HTJ2K)):
            write = packed([encode(f) for f in COLOUR], label, syntax)
            case(f"JPEG {name} with its transform as {label}", write, COLOUR, note=note)
    bare = [j2k(f, mct=False) for f in COLOUR]
    case("JPEG 2000 without its transform as YBR_RCT", packed(bare, "YBR_RCT", J2K), COLOUR)
    of_ybr: dict[str, Any] = {"truth": BACK, "off": SOME_LOSS, "note": COLOURS_DIFFER}
    of_rgb: dict[str, Any] = {"truth": COLOUR, "note": COLOURS_DIFFER}
    for name, marks, ids, stored, expected, label in (
        ("JFIF", JFIF, b"\1\2\3", YBR, of_ybr, "RGB"),
        ("Adobe 1", adobe(1), b"\1\2\3", YBR, of_ybr, "RGB"),
        ("Adobe 0", adobe(0), b"\1\2\3", COLOUR, of_rgb, "YBR_FULL"),
        ("names", b"", b"RGB", COLOUR, of_rgb, "YBR_FULL_422"),
    ):
        write = packed([lossless(f, marks, ids) for f in stored], label, LOSSLESS)
        case(f"lossless with {name} as {label}", write, **expected)
    files = [lossless(f, JFIF if k == 2 else b"") for k, f in enumerate(YBR)]
    case("lossless, JFIF in frame 2 only", packed(files, "RGB", LOSSLESS), **of_ybr)
    for planar in (0, 1):
        write = packed([rle(f) for f in COLOUR], "RGB", RLE, PlanarConfiguration=planar)
        case(f"RLE with PlanarConfiguration {planar}", write, COLOUR)


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
            write = made(COLOUR, label, syntax=syntax, PixelData=data.tobytes(), **tags)
            note = COLOURS_DIFFER if label == "YBR_RCT" else ""
            case(f"{what} a pixel as {label}, {name}", write, truth, off=off, note=note)
    ybr_planes = np.moveaxis(YBR, -1, 1).tobytes()
    write = made(COLOUR, "YBR_FULL", PlanarConfiguration=1, PixelData=ybr_planes)
    case("planes as YBR_FULL", write, BACK, off=SOME_LOSS)
    write = edited(made(COLOUR, "RGB", syntax=ExplicitVRBigEndian), in_words)
    case("8 bits in big-endian words", write, COLOUR)
    write = made(COLOUR, "YBR_PARTIAL_420", PixelData=COLOUR.tobytes()[: 4608 // 2 * 4])
    reason = "unsupported: uncompressed DICOM pixels of YBR_PARTIAL_420"
    case("1.5 bytes a pixel", write, reason=reason)
    deep = ((YBR.astype(int) * 4095 + 127) // 255).astype(np.uint16)
    for name, data, tags in (("12", deep, TWELVE), ("16", YBR.astype(np.uint16) * 257, {})):
        case(f"YCbCr of {name} bits", made(data, "YBR_FULL", **tags), BACK, off=SOME_LOSS)
    for label, reason in (
        *((label, f"unsupported: PhotometricInterpretation {label}") for label in ("HSV", "CMYK")),
        ("YBR_FULL_444", "wrong PhotometricInterpretation: DICOM does not define"),
        ("", "incomplete: the header lacks PhotometricInterpretation"),
    ):
        case(f"colours labelled {label!r}", made(COLOUR, label), reason=reason)
    write = packed([lossless(f) for f in COLOUR], "HSV", LOSSLESS, template=COLOUR)
    case("lossless of HSV", write, reason="unsupported: PhotometricInterpretation HSV")
    case("grey labelled RGB_OF_ONE", made(GREY, "RGB_OF_ONE"), GREY3, note=COLOURS_DIFFER)
    write = made(COLOUR, "PALETTE COLOR")
    case("a palette for three channels", write, reason="wrong PhotometricInterpretation: ")


def greys_tell() -> None:
    """A label that is not true of pixels that are nearly all grey, with a patch of colour flow."""
    frames = GREY3.copy()
    frames[:, 4:12, 4:12] = (200, 40, 30)
    ybr = convert_color_space(frames.copy(), "RGB", "YBR_FULL", per_frame=True)
    planes = np.ascontiguousarray(np.moveaxis(frames, -1, 1))
    expected: dict[str, Any] = {"truth": frames, "off": SOME_LOSS, "note": COLOURS_DIFFER}
    for stored, name, label in ((frames, "RGB", "YBR_FULL"), (ybr, "YCbCr", "RGB")):
        case(f"grey {name}, uncompressed, as {label}", made(stored, label), **expected)
        for kind, encode, syntax in OPEN:
            write = packed([encode(f) for f in stored], label, syntax, template=COLOUR)
            case(f"grey {name}, {kind}, as {label}", write, **expected)
    bare = [remarked(jpeg(f), b"") for f in frames]
    rgb = [rgb_jpeg(f) for f in frames]
    case("grey YCbCr, JPEG without markers, as RGB", packed(bare, "RGB"), **expected)
    case("grey RGB, JPEG without markers, as YBR_FULL_422", packed(rgb), **expected)
    twice = packed([j2k(f) for f in ybr], "YBR_FULL", J2K)
    case("grey YCbCr, JPEG 2000 with its transform, as YBR_FULL", twice, **expected)
    for planar, data in ((1, frames), (0, planes)):
        write = made(frames, "RGB", PlanarConfiguration=planar, PixelData=data.tobytes())
        name = f"grey RGB, PlanarConfiguration {planar} is wrong"
        case(name, write, frames, note=PLANES_DIFFER)


def in_words(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = np.frombuffer(COLOUR.tobytes(), "<u2").astype(">u2").tobytes()
    dataset["PixelData"].VR = "OW"


def depth() -> None:
    ten = ((GREY.astype(int) * 1023 + 127) // 255).astype(np.uint16)
    wide = GREY.astype(np.uint16)
    full = wide * 257
    upper = {"BitsStored": 12, "HighBit": 15}
    seven = {"BitsStored": 7, "HighBit": 6}
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    unknown: dict[str, Any] = {"note": DEPTH_UNKNOWN}

    def grey(
        name: str,
        data: np.ndarray,
        truth: np.ndarray = GREY3,
        note: str = "",
        reason: str = "",
        **tags: Any,
    ) -> None:
        case(name, made(data, **tags), truth, off=1.0, note=note, reason=reason)

    grey("12 bits", DEEP, **TWELVE)
    grey("12 bits in the upper ones", DEEP << 4, **upper)
    grey("12 bits that are lower", DEEP | 1, note=DEPTH_DIFFERS, **upper)
    grey("12 bits said to be 16", DEEP, **unknown)
    grey("10 bits said to be 16", ten, **unknown)
    grey("10 bits said to be 12", ten, **unknown, **TWELVE)
    grey("8 bits said to be 16", wide, **unknown)
    grey("8 bits said to be 12", wide, **unknown, **TWELVE)
    grey("8 in 16", wide, BitsStored=8, HighBit=7)
    grey("16 bits", full)
    grey("16 bits said to be 12", full, reason="wrong BitsSto", **TWELVE)
    grey("16 bits, upper 12", full, reason="wrong HighBit", **upper)
    grey("nonsense of HighBit", DEEP, BitsStored=12, HighBit=3)
    grey("a window", DEEP, **TWELVE, **window)
    for name, centre, width, note in (
        ("for 16 bits", 40000, 60000, WINDOW_UNUSED),
        ("of dark ones", -900, 400, WINDOW_UNUSED),
        ("for 8 bits", 128, 256, WINDOW_UNUSED),
        ("of no width", 0, 0, ""),
    ):
        tags = TWELVE | {"WindowCenter": centre, "WindowWidth": width}
        grey(f"a window {name}", DEEP, note=note, **tags)
    signed = DEEP.astype(np.int16) - 2048
    grey("signed 12 bits", signed, **TWELVE)
    grey("signed 12 bits, sign once", signed & 0xFFF, PixelRepresentation=1, **TWELVE)
    grey("signed, none below 0", DEEP.astype(np.int16), **unknown)
    grey("8 bits, said to be signed 16", GREY.astype(np.int16), **unknown)
    grey("signed 8 bits in 16", GREY.astype(np.int16) - 128, **unknown)
    grey("7 bits", GREY // 2, **seven)
    grey("8 bits said to be 7", GREY, note=DEPTH_DIFFERS, **seven)
    grey("no bits stored", GREY, note=DEPTH_DIFFERS, BitsStored=0)
    grey("inverted 12 bits", DEEP, 255 - GREY3, label="MONOCHROME1", **TWELVE)
    grey("inverted with a window", DEEP, 255 - GREY3, label="MONOCHROME1", **TWELVE, **window)
    grey("falling 12 bits", DEEP, 255 - GREY3, RescaleSlope=-1, **TWELVE)
    grey("falling 8 bits", GREY, 255 - GREY3, RescaleSlope=-1)
    grey(
        "values above which there are colours",
        GREY,
        reason="unsupported: a palette for some of the values only",
        PixelPresentation="COLOR",
    )

    def graphics(bit: int) -> Callable[[pydicom.Dataset], Any]:
        return lambda dataset: dataset.add_new(0x60000102, "US", bit)

    above = edited(made(DEEP | 0x8000, **TWELVE), graphics(15))
    case("graphics above the picture", above, **OF_DEEP)
    elsewhere = edited(made(full, **TWELVE), graphics(0))
    case("graphics elsewhere, and 16 bits said to be 12", elsewhere, reason="wrong BitsSto")
    rgb16 = COLOUR.astype(np.uint16) * 257
    case("colour of 16 bits", made(rgb16, "RGB"), COLOUR)
    case("RLE of 16 bits", packed([rle(f) for f in rgb16], "RGB", RLE, template=rgb16), COLOUR)
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
            write = packed(files, "MONOCHROME2", syntax, **tags)
            case(f"{name} of 8 bits said to be {said} in 16", write, GREY3)
    for name, encode, syntax in (
        ("lossless", lambda f: lossless(f, bits=12), LOSSLESS),
        ("JPEG-LS", jpeg_ls, JPEG_LS),
        ("JPEG 2000", lambda f: j2k(f, bitspersample=12), J2K),
        ("JPEG 2000 of 16 bits", j2k, J2K),
    ):
        files = [encode(f) for f in DEEP]
        for said in (8, 12, 16):
            tags = {"template": DEEP, "BitsStored": said, "HighBit": said - 1}
            write = packed(files, "MONOCHROME2", syntax, **tags)
            case(f"{name} of 12 bits said to be {said}", write, **OF_DEEP)
    colour = ((COLOUR.astype(int) * 4095 + 127) // 255).astype(np.uint16)
    ybr = ((YBR.astype(int) * 4095 + 127) // 255).astype(np.uint16)
    tags = TWELVE | {"template": colour}
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
        write = packed(files, label, syntax, **tags)
        case(f"{name} in colour of 12 bits as {label}", write, truth, off=off)
    dark = np.where(GREY3 < 5, 0, GREY3)
    for value, kind in ((65535, np.uint16), (-2000, np.int16)):
        write = made(np.where(GREY < 5, value, DEEP).astype(kind), PixelPaddingValue=value)
        name = f"12 bits said to be 16, with padding of {value}"
        case(name, write, dark, off=SOME_LOSS, **unknown)
    case(
        "half the bytes",
        made(GREY.astype(np.uint16), PixelData=GREY.tobytes()),
        reason="wrong BitsAllocated or NumberOfFrames: the pixel data has half the bytes",
    )
    for bits in (1, 12, 32):
        reason = f"unsupported: DICOM pixels of {bits} bit"
        case(f"uncompressed pixels of {bits} bits", made(GREY, BitsAllocated=bits), reason=reason)
    write = packed([j2k(f) for f in signed], "MONOCHROME2", J2K, template=signed, **TWELVE)
    case("signed JPEG 2000", write, **OF_DEEP)


def deep_jpeg(frame: np.ndarray, space: str) -> bytes:
    """12 bits in colour, whose channels are `space`, without markers."""
    how = {"colorspace": "RGB", "outcolorspace": space, "subsampling": "444"}
    return remarked(imagecodecs.jpeg8_encode(frame, level=98, bitspersample=12, **how), b"")


def palettes() -> None:
    index = (GREY // 2).astype(np.uint8)  # 0 to 127
    table = np.random.default_rng(1).integers(0, 256, (128, 3))
    table[5] = 255
    truth = table[index].astype(np.uint8)

    def colours(
        stored: list[bytes], descriptors: list[list[int]], frames: np.ndarray = index, **tags: Any
    ) -> Write:
        def change(dataset: pydicom.Dataset) -> None:
            for k, name in enumerate(("Red", "Green", "Blue")):
                element = f"{name}PaletteColorLookupTable"
                dataset.add_new(f"{element}Descriptor", "US", descriptors[k])
                dataset.add_new(f"{element}Data", "OW", stored[k])

        return edited(made(frames, "PALETTE COLOR", **tags), change)

    def as_numbers(dataset: pydicom.Dataset) -> None:
        for name in ("Red", "Green", "Blue"):
            element = f"{name}PaletteColorLookupTableData"
            values = np.frombuffer(dataset[element].value, "<u2").tolist()
            dataset.add_new(element, "US", values)

    def case_of(
        name: str,
        values: np.ndarray,
        dtype: str,
        descriptor: list[int],
        truth: np.ndarray = truth,
        reason: str = "",
        **tags: Any,
    ) -> None:
        stored = [values[:, c].astype(dtype).tobytes() for c in range(3)]
        stored = [s + b"\0" * (len(s) % 2) for s in stored]
        case(f"palette, {name}", colours(stored, [descriptor] * 3, **tags), truth, reason=reason)

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
    last = table[np.minimum(index, 126)]
    case_of("an odd number of 8 bits", table[:127], "u1", [127, 0, 8], last)
    case_of("short by an entry that is not used", np.r_[table, table[:127]], "<u2", [256, 0, 8])
    case_of("short by an entry of 16 bits", np.r_[table, table[:127]] * 257, "<u2", [256, 0, 16])
    case_of("short by an entry of 8 bits", np.r_[table, table[:126]], "u1", [256, 0, 8])
    wrong = "wrong palette: pixels use entry "
    case_of("short by a used entry", table[:60] * 257, "<u2", [128, 0, 16], reason=wrong)
    full = np.resize(table * 257, (2**16, 3))
    case_of("0 for 65536 entries", full, "<u2", [0, 0, 16])
    case_of("0 for 65536 entries of 8 bits", np.resize(table, (2**16, 3)), "u1", [0, 0, 8])
    case_of("0, but 256 entries", full[:256], "<u2", [0, 0, 16])
    case_of("16-bit indices", full[:1000], "<u2", [1000, 0, 16], frames=index.astype(np.uint16))
    signed = {"PixelRepresentation": 1}
    case_of("of pixels said to be signed", table * 257, "<u2", [128, 0, 16], **signed)
    case_of("from -20 on", np.r_[table[:20], table] * 257, "<u2", [148, 2**16 - 20, 16], **signed)
    case_of("from 20 on", table[20:] * 257, "<u2", [108, 20, 16], table[np.maximum(index, 20)])
    case_of("big-endian", table * 257, ">u2", [128, 0, 16], syntax=ExplicitVRBigEndian)
    case_of("dark, of 16 bits", table // 4 * 257, "<u2", [128, 0, 16], (table // 4)[index])
    case_of("a descriptor of two numbers", table, "u1", [128, 0], reason="wrong RedPaletteColor")
    wide = [(table[:, c] * 257).astype("<u2").tobytes() for c in range(3)]
    sixteen = [[128, 0, 16]] * 3
    reds = [table[:, 0].astype("u1").tobytes(), *wide[1:]]
    case("palette, red of 8 bits only", colours(reds, [[128, 0, 8], *sixteen[1:]]), truth)
    case("palette, as numbers", edited(colours(wide, sixteen), as_numbers), truth)
    late = [wide[0], wide[1][20:], wide[2]]
    case(
        "palette, green begins later",
        colours(late, [[128, 0, 16], [118, 10, 16], [128, 0, 16]]),
        np.where([False, True, False], table[np.maximum(index, 10)], truth),
    )
    deep = index.astype(np.uint16)
    for name, frames, top, reason in (
        ("8 bits in 16", deep, 7, ""),
        ("8 bits in the upper ones", deep << 8, 15, ""),
        ("8 bits said, and more used", deep | 0x8000, 7, "wrong BitsStored"),
    ):
        write = colours(wide, sixteen, frames, BitsStored=8, HighBit=top)
        case(f"palette, indices of {name}", write, truth, reason=reason)
    write = packed([jpeg(f) for f in index], "PALETTE COLOR")
    reason = "unsupported: a palette for pictures with lossy compression"
    case("palette, of pictures with loss", write, reason=reason)
    reason = "incomplete: the header lacks RedPaletteColorLookupTableDescriptor"
    case("palette, none", made(index, "PALETTE COLOR"), reason=reason)


def fragments() -> None:
    streams = {
        "jpeg": (JPEGS, "YBR_FULL_422", JPEG, JPEG_TRUTH),
        "JPEG-LS": ([jpeg_ls(f) for f in COLOUR], "RGB", JPEG_LS, COLOUR),
        "JPEG 2000": ([j2k(f) for f in COLOUR], "YBR_RCT", J2K, COLOUR),
        "RLE": ([rle(f) for f in COLOUR], "RGB", RLE, COLOUR),
    }
    other_size = np.zeros((1, 40, 48, 3), np.uint8)
    for name, (files, label, syntax, right) in streams.items():
        coding = {"label": label, "syntax": syntax}
        expected: dict[str, Any] = {"truth": right, "off": 0.5}
        for table in ("empty", "right", "wrong", "short", "extended"):
            for ending in ("delimiter", "none", "zeros", "trailing"):
                if ending != "delimiter" and table not in ("empty", "right"):
                    continue
                write = packed(files, **coding, table=table, ending=ending)
                case(f"{name}, table {table}, ending {ending}", write, **expected)
        for table in ("empty", "right", "wrong", "extended"):
            write = packed(files, **coding, pieces=3, table=table)
            case(f"{name} in three pieces, table {table}", write, **expected)
        reason = f"truncated: header states {FRAMES} frames, file holds {FRAMES - 1}"
        case(f"{name}, cut", packed(files, **coding, ending="cut"), reason=reason)
        case(f"{name}, odd lengths", packed(files, **coding, even=False), **expected)
        for said in (FRAMES + 2, FRAMES - 1):
            reason = f"wrong NumberOfFrames: header states {said} frames, file holds {FRAMES}"
            case(f"{name}, said to have {said}", packed(files, **coding, said=said), reason=reason)
        case(f"{name}, no number of frames", packed(files, **coding, said=None), **expected)
        half = [*files[:2], files[2][: len(files[2]) // 2], *files[3:]]
        case(f"{name}, half of frame 2", packed(half, **coding), reason=damaged(2))
        if syntax != RLE:
            closed = [*files[:2], files[2][: len(files[2]) * 7 // 8] + b"\xff\xd9", *files[3:]]
            case(f"{name}, frame 2 cut and closed", packed(closed, **coding), reason=damaged(2))
        states_size = "wrong Rows and Columns: header states 40"
        reason = "damaged: frame 0" if syntax == RLE else states_size
        case(f"{name} of another size", packed(files, **coding, template=other_size), reason=reason)
    case("jpeg, no table at all", packed(JPEGS, table="missing"), **OF_JPEG)
    endless = [p[:-2] for p in JPEGS]
    case("jpeg, no end markers", packed(endless), **OF_JPEG)
    filled = [p[:-2] + bytes(4) + p[-2:] for p in JPEGS]
    case("jpeg, zeros before its end", packed(filled), **OF_JPEG)
    open_ended = [j2k(f)[:-2] for f in COLOUR]
    case("JPEG 2000, no end markers", packed(open_ended, "YBR_RCT", J2K), COLOUR)
    half_open = [*open_ended[:2], open_ended[2][:-40], open_ended[3]]
    name = "JPEG 2000, no end markers, 40 bytes of frame 2 are missing"
    case(name, packed(half_open, "YBR_RCT", J2K), reason=damaged(2))
    thumbnail = b"\xff\xe1" + struct.pack(">H", 8 + len(JPEGS[0])) + b"Exif\0\0" + JPEGS[0]
    within = [p[:2] + thumbnail + p[2:] for p in JPEGS]
    for pieces in (1, 3):
        case(f"jpeg with a thumbnail, in {pieces} pieces", packed(within, pieces=pieces), **OF_JPEG)
    halves = [lossless(f) for f in GREY]
    deep = [lossless(f.astype(np.uint16) * 16, bits=12) for f in GREY]
    for name, files in (("lossless", halves), ("lossless of 12 bits", deep)):
        files = [*files[:3], files[3][: len(files[3]) * 3 // 4] + b"\xff\xd9"]
        write = packed(files, "MONOCHROME2", LOSSLESS)
        case(f"{name}, frame 3 cut and closed", write, reason=damaged(3))
    cmyk = io.BytesIO()
    Image.fromarray(np.dstack([COLOUR[0], GREY[0]]), "CMYK").save(cmyk, "JPEG")
    four = packed([cmyk.getvalue()] * FRAMES, "RGB")
    case("jpeg of four channels", four, reason="unsupported: pictures of 4 channels")
    noise = [b"\xff\xd8\xff\xdb" + b"x" * 99] * FRAMES
    case("noise", packed(noise, "RGB"), reason="damaged: frame 0")


def other_kinds() -> None:
    meaningless = ("SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit")
    for names in (("PixelRepresentation",), meaningless, (*meaningless, "PlanarConfiguration")):
        write = edited(packed(JPEGS), without(*names))
        case(f"jpeg without {names[0]} and {len(names) - 1} more", write, **OF_JPEG)
    deep = [lossless(f.astype(np.uint16) * 16, bits=12) for f in GREY]
    write = packed(deep, "MONOCHROME2", LOSSLESS, template=GREY.astype(np.uint16))
    incomplete = edited(write, without("PixelRepresentation"))
    reason = "incomplete: the header lacks PixelRepresentation"
    case("12 bits without PixelRepresentation", incomplete, reason=reason)
    for label, held, samples in (
        ("RGB", COLOUR, 1),
        ("YBR_FULL", COLOUR, 1),
        ("MONOCHROME2", GREY, 3),
    ):
        write = made(held, label, SamplesPerPixel=samples)
        reason = f"wrong SamplesPerPixel: header states {samples}, the file holds"
        case(f"{samples} samples per pixel of {label}", write, reason=reason)
    for samples in (1, 3):
        write = packed(JPEGS, SamplesPerPixel=samples)
        case(f"jpeg with {samples} samples per pixel", write, **OF_JPEG)
    case("signed 8 bits", made((GREY.astype(int) - 128).astype(np.int8)), GREY3)
    case("signed colours", made(COLOUR, "RGB", PixelRepresentation=1), COLOUR)
    case("jpeg of signed colours", packed(JPEGS, PixelRepresentation=1), **OF_JPEG)
    case("label with a blank", made(COLOUR, "RGB "), COLOUR)
    mixed = packed([*JPEGS[:3], jpeg(GREY[3])])
    case("one grey jpeg of four", mixed, reason="mixed pictures: frame 3 has other channels")
    for syntax in (ExplicitVRLittleEndian, LOSSLESS, J2K):
        case(f"jpegs under {syntax.name[:30]}", packed(JPEGS, syntax=syntax), **OF_JPEG)
    raw = COLOUR.tobytes()
    element = b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", len(raw)) + raw
    write = patched(edited(made(COLOUR, "RGB"), as_if_jpeg), lambda data: data + element)
    case("uncompressed pixels under JPEG", write, COLOUR)
    case("deflated", deflated, COLOUR)
    for written, said in (("1.2.1", "1.2.2"), ("1.2.2", "1.2.1"), ("1.2.2", "1.2")):
        right = f"1.2.840.10008.{written}"
        order = f"1.2.840.10008.{said}".ljust(20, "\0").encode()
        write = made(GREY.astype(np.uint16) * 257, syntax=UID(right))
        name = f"the byte order of {written}, said to be {said}"
        case(name, swapped(write, f"{right}\0".encode(), order), GREY3)
    for sampling in ("440", "411"):
        files = [imagecodecs.jpeg8_encode(f, level=97, subsampling=sampling) for f in COLOUR]
        write = packed([remarked(f, b"") for f in files], "RGB")
        case(f"jpeg of {sampling} as RGB", write, **of_jpeg(files), note=COLOURS_DIFFER)
    boxed = {"level": 0, "codecformat": "JP2", "reversible": True}
    files = [imagecodecs.jpeg2k_encode(f, **boxed) for f in COLOUR]
    case("JP2 boxes", packed(files, "YBR_RCT", J2K), COLOUR)
    high = [htj2k(f) for f in COLOUR]
    high[1] = high[1][: len(high[1]) // 2] + b"\xff\xd9"
    write = packed(high, "YBR_RCT", HTJ2K)
    case("JPEG 2000 of high throughput, half of frame 1", write, reason=damaged(1))
    many = packed([b"\xff\xd8" + adobe(1) + JFIF + p[2:] for p in JPEGS], "RGB")
    case("jpeg with every marker, as RGB", many, **OF_JPEG, note=COLOURS_DIFFER)
    for kind in (5, 11):
        odd = [p.replace(b"\xff\xc0", bytes([0xFF, 0xC0 + kind]), 1) for p in JPEGS]
        reason = f"unsupported: JPEG of the kind SOF{kind}"
        case(f"jpeg of kind {kind}", packed(odd, "RGB"), reason=reason)


def videos() -> None:
    # Smooth, because speckle is what such codecs lose; and x265 breaks on pictures below 64 rows.
    smooth = COLOUR[:, :16].repeat(4, axis=1).repeat(2, axis=2)
    other_size = np.zeros((FRAMES, 40, 48, 3), np.uint8)
    for codec, form, syntax in (
        ("mpeg2video", "bare", "100"),
        ("libx264", "bare", "102"),
        ("libx264", "mp4", "102"),
        ("libx265", "bare", "107"),
        ("libx265", "mp4", "107"),
    ):
        stream = video_stream(smooth, codec, form)
        name = f"{codec}, {form}"
        case(name, in_dicom(stream, syntax, smooth), smooth, off=12.0)
        case(f"{name}, in pieces", in_dicom(stream, syntax, smooth, pieces=3), smooth, off=12.0)
        half = in_dicom(stream[: len(stream) // 2], syntax, smooth)
        halved = "truncated: the index" if form == "mp4" else ("damaged: frame 0 ", "no fra")
        case(f"{name}, half is missing", half, reason=halved)
        for said, fault in ((6, "truncated"), (3, "wrong NumberOfFrames")):
            write = in_dicom(stream, syntax, smooth, said=said)
            reason = f"{fault}: header states {said} frames, file holds {FRAMES}"
            case(f"{name}, said to have {said}", write, reason=reason)
        write = in_dicom(stream, syntax, smooth, ending="cut")
        case(f"{name}, cut", write, reason="truncated: the file")
        reason = "wrong Rows and Columns: header states 40 x 48, frame 0 has 64 x 96"
        case(f"{name} of another size", in_dicom(stream, syntax, other_size), reason=reason)
    # With a display matrix of a quarter turn.
    turned = bytearray(video_stream(smooth, "libx264", "mp4"))
    struct.pack_into(
        ">9i", turned, turned.index(b"tkhd") + 44, 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30
    )
    upright = np.rot90(smooth, -1, (1, 2))
    case("turned, the header too", in_dicom(turned, "102", upright), upright, off=12.0)
    case("turned, the header not", in_dicom(turned, "102", smooth), smooth, off=12.0)
    for codec, said in (("libx265", "102"), ("libx264", "100"), ("mpeg2video", "107")):
        stream = video_stream(smooth, codec, "bare")
        write = in_dicom(stream, said, smooth)
        case(f"{codec}, under the syntax {said}", write, smooth, off=12.0)


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


def as_if_jpeg(dataset: pydicom.Dataset) -> None:
    del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = JPEG


def odd_elements() -> None:
    """Pixel data of a wrong type or length, and files that begin or are packed in odd ways."""
    for letters in (b"OF", b"OL", b"UT", b"UN", b"US", b"??", b"\0\0"):
        case(f"pixel data of type {letters!r}", retyped(letters, GREY.nbytes), GREY3)
    case("uncompressed, of no length", retyped(b"OB", 0xFFFFFFFF), GREY3)
    raw = [f.tobytes() for f in GREY]
    for syntax in (ExplicitVRLittleEndian, JPEG, UID("1.2.840.10008.1.2.1.98")):
        for pieces in (raw, [b"".join(raw)]):
            name = f"uncompressed, in {len(pieces)} fragments, {syntax.name[:25]}"
            case(name, packed(pieces, "MONOCHROME2", syntax), GREY3)
    for name, pictures, label, syntax, truth in (
        ("jpeg", [jpeg(f) for f in GREY], "MONOCHROME2", JPEG, GREY3),
        ("JPEG 2000", [j2k(f) for f in COLOUR], "YBR_RCT", J2K, COLOUR),
    ):
        write = packed([b"".join(pictures)], label, syntax)
        case(f"{name}, all in one fragment", write, truth, off=SOME_LOSS)
    pngs = packed([imagecodecs.png_encode(f) for f in COLOUR], "RGB")
    reason = "unsupported: pictures that are neither JPEG nor JPEG 2000"
    case("PNG as JPEG", pngs, reason=reason)
    planes = packed([rle(f) for f in COLOUR], "MONOCHROME2", RLE)
    reason = "wrong SamplesPerPixel or BitsAllocated: header states 1 byte"
    case("RLE of three planes as grey", planes, reason=reason)
    for name, pack in (("zlib", zlib.compress), ("gzip", gzip.compress), ("nothing", bytes)):
        case(f"deflated by {name}", lambda path, pack=pack: deflated(path, pack), COLOUR)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        write, name = made(syntax=syntax), syntax.name[:8]
        case(f"without DICM, {name}", patched(write, lambda data: data[132:]), GREY3)
        headless = patched(write, lambda data: data[meta_end(data) :])
        case(f"without meta elements, {name}", headless, GREY3)
    case("without a syntax", without_syntax, GREY3)
    case("with an icon before the pixel data", edited(made(), with_icon), GREY3)
    case("pixel data twice", patched(made(), twice), GREY3)
    write = packed([j2k(f) for f in COLOUR], "YBR_RCT", J2K)
    case("compressed, of a stated length", patched(write, closed_at_its_length), COLOUR)
    count = b"\x28\0\x08\0IS"
    for text in (b"4 x ", b"4\\4 "):
        write = swapped(made(), count + b"\2\x004 ", count + b"\4\0" + text)
        reason = "wrong NumberOfFrames: it is not a whole number"
        case(f"{text!r} frames", write, reason=reason)
    write = edited(made(GREY.astype(np.uint32)), floats)
    case("floating-point numbers", write, reason="unsupported: DICOM pixels that are floating-")


def retyped(letters: bytes, length: int) -> Write:
    """A file whose pixel data have another type, or another length in bytes."""
    # The length of short values has two bytes.
    size = struct.pack("<H", length) if letters == b"US" else struct.pack("<HI", 0, length)
    head = b"\xe0\x7f\x10\0" + letters + size

    def change(data: bytes) -> bytes:
        place = data.rindex(b"\xe0\x7f\x10\0OB")
        return data[:place] + head + data[place + 12 :]

    return patched(made(), change)


def with_icon(dataset: pydicom.Dataset) -> None:
    icon = pydicom.Dataset()
    icon.Rows, icon.Columns, icon.PixelData = 8, 8, bytes(64)
    icon["PixelData"].VR = "OB"
    dataset.IconImageSequence = [icon]


def twice(data: bytes) -> bytes:
    return data + data[data.rindex(b"\xe0\x7f\x10\0OB") :]


def closed_at_its_length(data: bytes) -> bytes:
    """Fragments in an element that states its length."""
    place = data.rindex(b"\xe0\x7f\x10\0OB") + 8
    return data[:place] + struct.pack("<I", len(data) - place - 4) + data[place + 4 :]


def without_syntax(path: Path) -> None:
    make(path, GREY)
    dataset = pydicom.dcmread(path)
    del dataset.file_meta.TransferSyntaxUID
    dataset.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)


def floats(dataset: pydicom.Dataset) -> None:
    dataset.FloatPixelData = GREY.astype("<f4").tobytes()
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)


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
        case(f"native, {name}", made(GREY, **tags), **expected)


for add in (
    *(colours_of_jpegs, colours_without_loss, native_colours, greys_tell, depth),
    *(palettes, fragments, other_kinds, videos, bytes_of_native, odd_elements),
):
    add()


def test_there_is_a_corpus():
    names = [c.name for c in CASES]
    assert len(names) >= 150
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("made_case", CASES, ids=lambda made_case: made_case.name)
def test_pixels_are_right_or_the_reason_is(made_case: Case, tmp_path):
    judge(made_case, tmp_path / "a.dcm")


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
    video = all_frames(str(path))
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
