"""More files than the standard allows, of kinds that public bug reports name: right, or a reason.

The kinds of test_pixels.py are not repeated: here are odd headers, odd packing of whole pictures,
times, and containers.
"""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.pixels import convert_color_space
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo
from echojepa_jax.data.formats.video_info import DEPTH_DIFFERS
from tests.makers.dicom import make
from tests.makers.pictures import (
    COLOUR,
    DEEP,
    FRAMES,
    GREY,
    GREY3,
    HEIGHT,
    J2K,
    JPEG,
    JPEG_LS,
    JPEG_TRUTH,
    JPEGS,
    LOSSLESS,
    OF_DEEP,
    OF_JPEG,
    RLE,
    SOME_LOSS,
    TWELVE,
    WIDTH,
    YBR,
    Case,
    Write,
    adobe,
    damaged,
    edited,
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
    segments,
    swapped,
    video_stream,
    without,
)
from tests.makers.videos import write_video

pytestmark = pytest.mark.slow

CASES: list[Case] = []


def case(name: str, write: Write, truth: Any = None, **expected: Any) -> None:
    CASES.append(Case(name, write, truth=truth, **expected))


def with_items(name: str, **elements: Any) -> Callable[[pydicom.Dataset], Any]:
    """Adds a sequence of one item."""

    def change(dataset: pydicom.Dataset) -> None:
        entry = pydicom.Dataset()
        for key, value in elements.items():
            setattr(entry, key, value)
        setattr(dataset, name, [entry])

    return change


def adding(*elements: tuple[int, str, Any]) -> Callable[[pydicom.Dataset], Any]:
    """Adds elements: tag, kind, value."""

    def change(dataset: pydicom.Dataset) -> None:
        for element in elements:
            dataset.add_new(*element)

    return change


# --- compressed pictures --------------------------------------------------------------------------


def starts_and_ends_of_pictures() -> None:
    comment = b"\xff\xfe\x00\x0a\xff\xd8\xff\xda\xff\xd9\0\0"
    for name, files in {
        "zeros before them": [bytes(6) + p for p in JPEGS],
        "padding before them": [b"\xff\xff\xff" + p for p in JPEGS],
        "text before them": [b"JPEG8" + p for p in JPEGS],
        "zeros before them, from frame 1 on": [JPEGS[0], *(bytes(2) + p for p in JPEGS[1:])],
        "padding after their first marker": [p[:2] + b"\xff\xff" + p[2:] for p in JPEGS],
        "a comment that looks like a picture": [p[:2] + comment + p[2:] for p in JPEGS],
        "text after them": [p + b"the end." for p in JPEGS],
    }.items():
        case(f"jpegs with {name}", packed(files), **OF_JPEG)
    for name, encode, syntax in (
        ("JPEG 2000", j2k, J2K),
        ("JPEG-LS", jpeg_ls, JPEG_LS),
        ("lossless", lossless, LOSSLESS),
    ):
        files = [bytes(4) + encode(f) for f in COLOUR]
        case(f"{name} with zeros before them", packed(files, "RGB", syntax), COLOUR)
    empty = [*JPEGS[:2], b"\0\0", JPEGS[3]]
    case("an empty fragment for frame 2", packed(empty), reason=damaged(2))
    case(
        "a jpeg of another size as frame 1",
        packed([JPEGS[0], jpeg(COLOUR[1, :16]), *JPEGS[2:]]),
        reason="wrong Rows and Columns: header states 32 x 48, frame 1 has 16 x 48",
    )


def progressive() -> None:
    pictures = [jpeg(f, "4:2:0", progressive=True) for f in COLOUR]

    def shorter(picture: bytes, scans: int) -> bytes:
        """Without the last scans and the end mark."""
        end = len(picture)
        for _ in range(scans):
            end = picture.rindex(b"\xff\xda", 0, end)
        # The tables of a scan come before it.
        while (table := picture.rfind(b"\xff\xc4", 0, end)) >= 0 and table + 2 + int.from_bytes(
            picture[table + 2 : table + 4], "big"
        ) == end:
            end = table
        return picture[:end]

    for scans in (1, 3, 7):
        for state, closing in (("closed", b"\xff\xd9"), ("open", b"")):
            short = [*pictures[:2], shorter(pictures[2], scans) + closing, pictures[3]]
            name = f"progressive jpeg, {scans} scans are missing, {state}"
            case(name, packed(short), reason=damaged(2))
    case("progressive jpeg, open", packed([p[:-2] for p in pictures]), **of_jpeg(pictures))
    grey = [jpeg(f, progressive=True) for f in GREY]
    case("progressive jpeg in grey", packed(grey, "MONOCHROME2"), **of_jpeg(grey))
    # A baseline picture in a scan for each channel.
    apart = [in_three_scans(f) for f in COLOUR]
    case("jpeg with a scan for each channel", packed(apart, "YBR_FULL"), **of_jpeg(apart))
    for kept in (1, 2):
        short = [*apart[:3], apart[3][: nth(apart[3], b"\xff\xda", kept)] + b"\xff\xd9"]
        name = f"jpeg with {kept} of its three scans"
        case(name, packed(short, "YBR_FULL"), reason=damaged(3))


def nth(data: bytes, mark: bytes, n: int) -> int:
    place = -1
    for _ in range(n + 1):
        place = data.index(mark, place + 1)
    return place


def in_three_scans(frame: np.ndarray) -> bytes:
    """YCbCr by three grey JPEGs with the same tables."""
    ybr = convert_color_space(frame.copy(), "RGB", "YBR_FULL")
    channels = [segments(jpeg(np.ascontiguousarray(ybr[..., c]))) for c in range(3)]
    out = b"\xff\xd8"
    for part in channels[0][0]:
        if part[1] == 0xC0:
            ids = b"".join(bytes([c, 0x11, 0]) for c in (1, 2, 3))
            part = part[:2] + struct.pack(">H", 17) + part[4:9] + b"\3" + ids
        if part[1] not in range(0xE0, 0xF0):
            out += part
    for c, (_, rest) in enumerate(channels):
        out += rest[:5] + bytes([c + 1]) + rest[6:-2]
    return out + b"\xff\xd9"


def other_codings() -> None:
    near = [imagecodecs.jpegls_encode(f, level=2) for f in GREY]
    near_syntax, lossy_syntax = UID("1.2.840.10008.1.2.4.81"), UID("1.2.840.10008.1.2.4.91")
    case("JPEG-LS with loss", packed(near, "MONOCHROME2", near_syntax), GREY3, off=2.0)
    lossy = [imagecodecs.jpeg2k_encode(f, level=60, codecformat="J2K") for f in COLOUR]
    truth = np.stack([imagecodecs.jpeg2k_decode(p) for p in lossy])
    case("JPEG 2000 with loss", packed(lossy, "YBR_ICT", lossy_syntax), truth, off=0.5)
    rgba = np.concatenate([COLOUR, GREY[..., None]], axis=-1)
    two = np.stack([GREY, GREY], axis=-1)
    for name, frames, label in (
        ("transparency", rgba, "RGB"),
        ("two channels", two, "MONOCHROME2"),
    ):
        write = packed([j2k(f, mct=False) for f in frames], label, J2K)
        reason = f"unsupported: pictures of {frames.shape[-1]} channels"
        case(f"JPEG 2000 with {name}", write, reason=reason)
    ten = [j2k(f >> 2, bitspersample=10) for f in DEEP]
    tags = {"template": DEEP, "BitsStored": 10, "HighBit": 9}
    case("JPEG 2000 of 10 bits in 16", packed(ten, "MONOCHROME2", J2K, **tags), **OF_DEEP)
    planes = [imagecodecs.jpegls_encode(np.ascontiguousarray(f)) for f in COLOUR]
    write = packed(planes, "RGB", JPEG_LS, PlanarConfiguration=1)
    case("JPEG-LS as PlanarConfiguration 1", write, COLOUR)
    case(
        "webp as jpeg",
        packed([imagecodecs.webp_encode(f) for f in COLOUR], "RGB"),
        reason="unsupported: pictures that are neither JPEG nor JPEG 2000",
    )


def run_lengths() -> None:
    good = [rle(f) for f in GREY]
    case("RLE, a byte too many", packed([p + b"\0\7\0" for p in good], "MONOCHROME2", RLE), GREY3)
    case("RLE, ends with -128", packed([p + b"\x80\0" for p in good], "MONOCHROME2", RLE), GREY3)
    fours = [struct.pack("<I", 4) + rle(f)[4:] for f in COLOUR]
    case("RLE of colour said to have 4 segments", packed(fours, "RGB", RLE), COLOUR)
    odd = [odd_segments(f) for f in COLOUR]
    case("RLE with segments of odd length", packed(odd, "RGB", RLE), COLOUR)
    for name, pieces in (("12 bits in 16", 1), ("16 bits in pieces without a table", 2)):
        tags = TWELVE | {"template": DEEP, "pieces": pieces}
        write = packed([rle(f) for f in DEEP], "MONOCHROME2", RLE, **tags)
        case(f"RLE of {name}", write, **OF_DEEP)
    short = packed([*good[:3], rle(GREY[3, :20])], "MONOCHROME2", RLE)
    case("RLE of fewer rows in frame 3", short, reason="damaged: frame 3")


def odd_segments(frame: np.ndarray) -> bytes:
    parts = []
    for c in range(3):
        raw = frame[..., c].tobytes()
        runs = (raw[i : i + 127] for i in range(0, len(raw), 127))
        part = b"".join(bytes([len(run) - 1]) + run for run in runs)
        parts.append(part if len(part) % 2 else part + b"\x80")
    assert all(len(p) % 2 for p in parts)
    places = 64 + np.cumsum([0, *map(len, parts)])[:-1]
    return struct.pack("<16I", 3, *places, *[0] * 12) + b"".join(parts)


# --- uncompressed pixels --------------------------------------------------------------------------


def native() -> None:
    odd, odd3, odd_colour = (frames[:, :31, :47] for frames in (GREY, GREY3, COLOUR))
    case("odd rows and columns", made(odd), odd3)
    padded = b"".join(f.tobytes() + b"\0" for f in odd)
    case("odd frames, each with a byte of padding", made(odd, PixelData=padded), odd3)
    padded = b"".join(f.tobytes() + b"\0" for f in odd_colour)
    case("odd colour frames, each padded", made(odd_colour, "RGB", PixelData=padded), odd_colour)
    write = made(np.ascontiguousarray(YBR[:, :31, :47]), "YBR_FULL_422")
    case("rows of odd length as YBR_FULL_422", write, odd_colour, off=SOME_LOSS)
    case("big-endian 16 bits", made(DEEP, syntax=ExplicitVRBigEndian, **TWELVE), **OF_DEEP)
    argb = made(np.concatenate([GREY[..., None], COLOUR], axis=-1), "ARGB")
    case("ARGB", argb, reason="unsupported: pictures of 4 channels")
    case("colour by colour, label in lower case", made(COLOUR, "rgb"), COLOUR)
    case("rows of zero", made(GREY, Rows=0), reason="damaged: frames of 0 x 48 pixels")
    case("PlanarConfiguration 2", made(COLOUR, "RGB", PlanarConfiguration=2), COLOUR)
    write = edited(made(COLOUR, "RGB"), without("PlanarConfiguration"))
    case("no PlanarConfiguration", write, COLOUR)
    write = edited(made(), without("BitsStored"))
    case("no BitsStored", write, reason="incomplete: the header lacks BitsStored")
    write = made(GREY, BitsStored=16, HighBit=15)
    case("BitsStored above BitsAllocated", write, GREY3, note=DEPTH_DIFFERS)
    case("no HighBit", edited(made(DEEP, **TWELVE), without("HighBit")), **OF_DEEP)
    write = patched(made(), lambda data: data + b"\xfc\xff\xfc\xff" + bytes(1000))
    case("trailing garbage after the pixels", write, GREY3)
    more = GREY.tobytes() + bytes(GREY[0].nbytes // 2)
    case("half a frame of garbage after the frames", made(GREY, PixelData=more), GREY3)


def greys() -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    rescaled = {"RescaleSlope": 2, "RescaleIntercept": -1000}
    for name, tags in {
        "a window for each frame": {"WindowCenter": [2048, 9], "WindowWidth": [4096, 5]},
        "window, LINEAR_EXACT": {"VOILUTFunction": "LINEAR_EXACT"} | window,
        "rescaled": rescaled | {"WindowCenter": 3096, "WindowWidth": 8190},
        "slope of 0": {"RescaleSlope": 0} | window,
    }.items():
        case(name, made(DEEP, **TWELVE, **tags), **OF_DEEP)
    sigmoid = np.rint(255 / (1 + np.exp(-4 * (DEEP - 2048.0) / 1024)))
    tags = {"VOILUTFunction": "SIGMOID", "WindowCenter": 2048, "WindowWidth": 1024}
    truth = np.repeat(sigmoid[..., None], 3, axis=-1)
    case("window, SIGMOID", made(DEEP, **TWELVE, **tags), truth, off=1.0)
    text = {"WindowCenter": "2048.5", "WindowWidth": 4096, "RescaleSlope": "1.25"}
    for name, old, new in (
        ("a width that is not a number", b"4096", b"wide"),
        ("a centre with a comma", b"2048.5", b"2048,5"),
        ("a slope that is not a number", b"1.25", b"none"),
    ):
        scaled = made(DEEP, **TWELVE, **(text if "slope" in name else text | {"RescaleSlope": 1}))
        case(name, swapped(scaled, old, new), **OF_DEEP)
    for name in ("PixelSpacing", "PixelAspectRatio"):
        write = made(**{name: ["77", "77"]})
        case(f"{name} of text", swapped(write, b"77\\77 ", b"xx\\yy "), GREY3)
    case("8 bits with a window", made(GREY, **{"WindowCenter": 60, "WindowWidth": 20}), GREY3)
    curve = np.rint((np.arange(4096) / 4095) ** 2 * 4095).astype(int)
    lut = {"LUTDescriptor": [4096, 0, 12], "LUTData": curve.astype("<u2").tobytes()}
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        write = edited(made(DEEP, **TWELVE), with_items(name, **lut))
        reason = f"unsupported: grey values that {name} gives"
        case(f"grey values by {name}", write, reason=reason)
    write = edited(made(DEEP, **TWELVE, **window), with_items("VOILUTSequence", **lut))
    case("a table beside a window", write, **OF_DEEP)
    inverse = made(GREY, "MONOCHROME1", PresentationLUTShape="INVERSE")
    case("presentation INVERSE of MONOCHROME1", inverse, 255 - GREY3)
    layer = adding(
        *((0x60000010, "US", HEIGHT), (0x60000011, "US", WIDTH), (0x60000100, "US", 1)),
        *((0x60000102, "US", 0), (0x60003000, "OW", bytes(HEIGHT * WIDTH // 8))),
    )
    case("graphics in a layer", edited(made(), layer), GREY3)
    second = made(DEEP | (GREY > 100).astype(np.uint16) << 12, **TWELVE)
    in_second = adding((0x60020100, "US", 16), (0x60020102, "US", 12))
    case("graphics in bit 12, of the second layer", edited(second, in_second), **OF_DEEP)
    top = made((GREY // 2) | (GREY > 100).astype(np.uint8) << 7, BitsStored=7, HighBit=6)
    in_top = adding((0x60000100, "US", 8), (0x60000102, "US", 7))
    case("graphics in bit 7 of 8", edited(top, in_top), **OF_DEEP)
    floats = "unsupported: DICOM pixels that are floating-"
    case("double floats", edited(made(), doubles), reason=floats)
    case(
        "pixel padding in 8 bits",
        made(np.where(GREY < 5, 255, GREY).astype(np.uint8), PixelPaddingValue=255),
        np.where((GREY3 < 5) | (GREY3 == 255), 0, GREY3),
    )
    one = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    write = made(GREY, PixelData=np.packbits(GREY > 99).tobytes(), **one)
    case("segmentation of 1 bit", write, reason="unsupported: DICOM pixels of 1 bit")


def doubles(dataset: pydicom.Dataset) -> None:
    del dataset.PixelData
    dataset.DoubleFloatPixelData = GREY.astype("<f8").tobytes()


# --- headers --------------------------------------------------------------------------------------


def headers() -> None:
    for text in (b" 4", b"04", b"+4", b"0 ", b"-4", b"4.0 "):
        case(f"NumberOfFrames {text!r}", counted(text), GREY3)
    write = patched(made(), lambda data: data[128:])
    case("no preamble, only DICM", write, reason="not a video file: named .dcm")
    case("a preamble of text", patched(made(), lambda data: b"MM\0*" + data[4:]), GREY3)
    case("zeros after the pixels", patched(made(), lambda data: data + bytes(4096)), GREY3)

    def private(dataset: pydicom.Dataset) -> None:
        block = dataset.private_block(0x0029, "MAKER", create=True)
        entry = pydicom.Dataset()
        entry.PatientComments = "\xfe\xff"
        block.add_new(1, "SQ", [entry])
        dataset[0x00291001].is_undefined_length = True
        dataset[0x00291001].value[0].is_undefined_length_sequence_item = True

    case("a private sequence of no length", edited(made(), private), GREY3)
    unknown = (
        b"\x29\0\x01\x10UN\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
        b"\x08\0\x60\0\4\0\0\0US  " + b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    for name, element in (
        ("an unknown element of no length", unknown),
        ("an element of odd length", b"\x29\0\x10\0LO\3\0ABC"),
        ("an unknown type of element", b"\x29\0\x10\0ZZ\4\0ABCD"),
        ("an element out of order", b"\x10\0\x10\0PN\4\0A^B "),
    ):
        case(name, patched(made(), lambda d, element=element: before_pixels(d, element)), GREY3)
    rows, number = b"\x28\0\x10\0", struct.pack("<H", HEIGHT)
    for name, old, new in (
        ("a group length", b"\x28\0\2\0US", b"\x28\0\0\0UL\4\0\xff\xff\xff\xff\x28\0\2\0US"),
        ("Rows as a signed number", rows + b"US", rows + b"SS"),
        ("Rows as a long number", rows + b"US\2\0" + number, rows + b"UL\4\0" + number + bytes(2)),
        ("explicit, said to be implicit", b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"),
    ):
        case(name, swapped(made(), old, new), GREY3)
    case("an icon of compressed pixels first", edited(packed(JPEGS), icon), **OF_JPEG)
    write = patched(made(syntax=ImplicitVRLittleEndian), said_explicit)
    case("implicit, said to be explicit", write, GREY3)
    write = swapped(made(), b"1.2.840.10008.1.2.1\0", b"1.2.840.113619.5.2\0\0")
    case("a private syntax", write, reason="unsupported")
    write = swapped(packed(JPEGS), b"10008.1.2.4.50", b"10008.1.2.4.59")
    case("a retired syntax, for jpegs", write, **OF_JPEG)

    def enhanced(dataset: pydicom.Dataset) -> None:
        with_items("SharedFunctionalGroupsSequence")(dataset)
        with_items("FrameVOILUTSequence", WindowCenter=2048, WindowWidth=4096)(
            dataset.SharedFunctionalGroupsSequence[0]
        )

    case(
        "a window in shared groups",
        edited(made(DEEP, **TWELVE), enhanced),
        reason="unsupported: grey values that FrameVOILUTSequence gives",
    )

    def concatenated(dataset: pydicom.Dataset) -> None:
        dataset.ConcatenationUID = "1.2.3"
        dataset.InConcatenationNumber, dataset.InConcatenationTotalNumber = 1, 2
        dataset.ConcatenationFrameOffsetNumber = 0

    case("a part of a concatenation", edited(made(), concatenated), GREY3)


def before_pixels(data: bytes, more: bytes) -> bytes:
    place = data.rindex(b"\xe0\x7f\x10\0")
    return data[:place] + more + data[place:]


def said_explicit(data: bytes) -> bytes:
    length = int.from_bytes(data[140:144], "little")
    old = b"\2\0\x10\0UI\x12\x001.2.840.10008.1.2\0"
    assert old in data
    data = data.replace(old, b"\2\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0")
    return data[:140] + struct.pack("<I", length + 2) + data[144:]


def icon(dataset: pydicom.Dataset) -> None:
    entry = pydicom.Dataset()
    entry.Rows, entry.Columns, entry.SamplesPerPixel = 8, 8, 1
    entry.BitsAllocated = entry.BitsStored = 8
    entry.PhotometricInterpretation = "MONOCHROME2"
    entry.PixelData = pydicom.encaps.encapsulate([jpeg(GREY[0, :8, :8])])
    entry["PixelData"].VR = "OB"
    entry["PixelData"].is_undefined_length = True
    dataset.IconImageSequence = [entry]


def counted(text: bytes) -> Write:
    element = b"\x28\0\x08\0IS"
    new = element + struct.pack("<H", len(text)) + text
    return swapped(made(), element + b"\2\x004 ", new)


# --- videos inside DICOM --------------------------------------------------------------------------


def streams() -> None:
    # Smooth, because such codecs lose speckle.
    smooth = COLOUR[:, :16].repeat(4, axis=1).repeat(2, axis=2)
    expected: dict[str, Any] = {"truth": smooth, "off": 12.0}
    for codec, form, syntax in (
        *(("libx264", form, "102") for form in ("matroska", "mpegts", "avi", "mov")),
        *(("libx265", form, "107") for form in ("matroska", "mpegts")),
        *(("mpeg2video", form, "100") for form in ("mpeg", "mpegts", "matroska")),
    ):
        data = video_stream(smooth, codec, form)
        write = in_dicom(data, syntax, smooth)
        case(f"{codec} in {form}", write, **expected)
        if form in ("matroska", "mov"):
            half = in_dicom(data[: len(data) // 2], syntax, smooth)
            case(f"{codec} in {form}, half of it", half, reason="truncated: the ")
    for form in ("mov", "bare"):
        data = video_stream(smooth, "libx264", form)
        for syntax in (JPEG, ExplicitVRLittleEndian):
            write = packed([data], "YBR_PARTIAL_420", syntax, template=smooth)
            case(f"H.264, {form}, under {syntax.name[:12]}", write, **expected)
    write = packed(JPEGS, syntax=UID("1.2.840.10008.1.2.4.102"))
    case("jpegs under a syntax of H.264", write, **OF_JPEG)
    moved = video_stream(smooth, "libx264", "mov")
    start = int.from_bytes(moved[:4])  # the first atom, which states the kind of file
    free = struct.pack(">I4s", start, b"free") + moved[8:start]
    write = in_dicom(free + moved[start:], "102", smooth)
    case("an MP4 that does not state its kind", write, **expected)
    for codec, bare, syntax, options in (
        ("libx264", "h264", "102", {"x264-params": "bframes=2:keyint=4"}),
        ("libx264", "h264", "102", {"x264-params": "cabac=0:slices=2:keyint=4"}),
        ("libx265", "hevc", "107", {"x265-params": "keyint=4:log-level=none"}),
        ("mpeg2video", "mpeg2video", "100", {"g": "4"}),
    ):
        tiny = np.stack([COLOUR[0, :, k : k + 32] for k in range(9)])
        data = video_stream(tiny, codec, bare, **options)
        name = f"{codec} {' '.join(options.values())} of 32 pixels"
        case(name, in_dicom(data, syntax, tiny), tiny, off=40.0)
        for number, lost in ((0, 2), (0, 0.5), (4, 4), (4, 0.3), (8, 0.5)):
            write = in_dicom(b"".join(shortened(data, bare, number, lost)), syntax, tiny)
            reasons = ("damaged: frame ", "truncated: header states 9 frames")
            case(f"{name}, {lost} of frame {number} is missing", write, reason=reasons)


def shortened(data: bytes, form: str, number: int, lost: float) -> list[bytes]:
    """The pictures of a bare stream; one lacks so many of its last bytes, or this share."""
    name = "mpegvideo" if form == "mpeg2video" else form
    with av.open(io.BytesIO(data), format=name) as container:
        pictures = [bytes(p) for p in container.demux(video=0) if p.size]
    size = len(pictures[number])
    pictures[number] = pictures[number][: size - int(lost if lost >= 1 else size * lost)]
    return pictures


for add in (
    *(starts_and_ends_of_pictures, progressive, other_codings, run_lengths),
    *(native, greys, headers, streams),
):
    add()


@pytest.mark.parametrize("made_case", CASES, ids=lambda made_case: made_case.name)
def test_odd_files_are_right_or_the_reason_is(made_case: Case, tmp_path):
    judge(made_case, tmp_path / "a.dcm")


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "fps"),
    [
        ({"FrameTime": "1e9", "CineRate": "25"}, 25),
        ({"FrameTime": "-40"}, 0),
        ({"FrameTimeVector": ["0"] * FRAMES, "CineRate": "25"}, 25),
        ({"FrameTimeVector": "40", "CineRate": "25"}, 25),
        ({"FrameTimeVector": ["0", "40", "40", "40"], "NumberOfFrames": "4 "}, 25),
        ({"CineRate": "0", "RecommendedDisplayFrameRate": "30"}, 30),
        ({"FrameIncrementPointer": 0x00191001, "FrameTime": "40"}, 25),
    ],
)
def test_odd_times(tags, fps, tmp_path):
    assert decode.probe(make(tmp_path / "a.dcm", GREY, **tags)).fps == fps


@pytest.mark.parametrize(
    ("written", "tags", "fps"),
    [
        (b"30 fps", {}, 0),
        (b"30 fps", {"FrameTime": "40"}, 25),
        (b"30\\30 ", {}, 30),
        (b"30.0", {}, 30),
    ],
)
def test_a_rate_that_is_not_a_whole_number(written, tags, fps, tmp_path):
    path = Path(make(tmp_path / "a.dcm", GREY, CineRate="30", **tags))
    data, element = path.read_bytes(), b"\x18\0\x40\0IS"
    assert element + b"\2\x0030" in data
    changed = element + struct.pack("<H", len(written)) + written
    path.write_bytes(data.replace(element + b"\2\x0030", changed))
    assert decode.probe(str(path)).fps == fps


# --- video files ----------------------------------------------------------------------------------


def avi(
    pictures: list[bytes],
    code: bytes = b"\0\0\0\0",
    bits: int = 24,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    palette: bytes = b"",
) -> bytes:
    """An AVI without an index; a positive height means rows from below."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    height, width = size
    main = struct.pack(
        "<14I", 40000, *(0, 0, 0), len(pictures), 0, 1, 0, width, abs(height), *[0] * 4
    )
    times = struct.pack("<IHH8I", 0, 0, 0, 0, 1, 25, 0, len(pictures), 0, 0xFFFFFFFF, 0)
    stream = b"vids" + code + times + struct.pack("<4H", 0, 0, width, abs(height))
    colours = len(palette) // 4
    form = (
        struct.pack("<IiiHH4s5I", 40, width, height, 1, bits, code, 0, 0, 0, colours, 0) + palette
    )
    lists = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", form))
    head = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + lists)
    body = head + chunk(b"LIST", b"movi" + b"".join(chunk(b"00dc", p) for p in pictures))
    return chunk(b"RIFF", b"AVI " + body)


def rows(image: np.ndarray, step: int = 1) -> bytes:
    """Rows of whole words, from below with step -1."""
    lines = np.ascontiguousarray(image).reshape(len(image), -1)[::step]
    return b"".join(line.tobytes() + bytes(-line.nbytes % 4) for line in lines)


NARROW, DARK = COLOUR[:, :, :45], GREY[:, :, :45]  # of odd width
TABLE = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
PALETTE = np.pad(TABLE[:, ::-1], ((0, 0), (0, 1))).tobytes()
NARROW_SIZE = (HEIGHT, 45)
WITHOUT_DETAIL = jpeg(COLOUR[0], progressive=True).rpartition(b"\xff\xda")[0] + b"\xff\xd9"
RGB_JPEGS = [remarked(rgb_jpeg(f), adobe(0)) for f in COLOUR]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (avi([rows(f[..., ::-1], -1) for f in NARROW], size=NARROW_SIZE), NARROW),
        (avi([rows(f[..., ::-1]) for f in NARROW], size=(-HEIGHT, 45)), NARROW),
        (avi([rows(f, -1) for f in DARK], bits=8, size=NARROW_SIZE, palette=PALETTE), TABLE[DARK]),
        (
            avi([rows(f // 2, -1) for f in DARK], bits=8, size=NARROW_SIZE, palette=PALETTE[:512]),
            TABLE[DARK // 2],
        ),
        (
            avi([rows(f, -1) for f in DARK], bits=8, size=NARROW_SIZE),
            "incomplete: the file lacks the",
        ),
        (
            avi([rows(f) for f in DARK], bits=8, size=(-HEIGHT, 45)),
            "incomplete: the file lacks the",
        ),
        (avi([f.tobytes() for f in GREY], b"Y800", 8), GREY3),
        (avi(RGB_JPEGS, b"MJPG"), COLOUR),
        (avi([jpeg(f) for f in GREY], b"MJPG"), GREY3),
        (avi([JPEGS[0], WITHOUT_DETAIL, *JPEGS[2:]], b"MJPG"), damaged(1)),
        (avi(JPEGS, b"XQ7Z"), "unsupported: no decoder"),
        (avi([b"", *JPEGS[1:]], b"MJPG"), JPEG_TRUTH[1:]),
    ],
    ids=lambda value: "",
)
def test_odd_avi(data, expected, tmp_path):
    path = tmp_path / "a.avi"
    path.write_bytes(data)
    off = 2.0 if b"MJPG" in data else 0.0
    outcome = {"reason" if isinstance(expected, str) else "truth": expected}
    judge(Case("", lambda p: None, off=off, **outcome), path)


@pytest.mark.parametrize(
    ("codec", "form", "options"),
    [
        ("libx264", "h264", {"x264-params": "bframes=2:keyint=4"}),
        ("libx264", "h264", {"x264-params": "bframes=0:keyint=4:slices=2"}),
        ("libx265", "hevc", {"x265-params": "keyint=4:log-level=none"}),
    ],
)
def test_small_incomplete_pictures_in_avi(codec, form, options, tmp_path):
    tiny = np.stack([COLOUR[0, :, k : k + 32] for k in range(9)])
    stream, path = video_stream(tiny, codec, "bare", **options), tmp_path / "a.avi"
    for number, lost in ((0, 0), (0, 2), (4, 4), (4, 0.3), (8, 0.5)):
        pictures = shortened(stream, form, number, lost)
        path.write_bytes(avi(pictures, form.upper().encode(), size=(32, 32)))
        if not lost:
            assert decode.probe(str(path)).frames == 9
            continue
        with pytest.raises(UnreadableVideo, match=r"^damaged: frame \d does not decode$"):
            decode.probe(str(path))


LUMA = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("space", "code"), [("bt709", 1), ("bt601", 5), ("bt601", 2)])
@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_matrices_and_ranges_of_colours(codec, space, code, full, tmp_path):
    """BT.709 or BT.601, and the full range or television's; BT.601 if the file names none."""
    path = str(tmp_path / "a.mkv")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = np.stack([40 + 3 * x + y, 100 + 2 * y, 170 - x]).astype(np.uint8)
    with av.open(path, "w") as container:
        stream: Any = container.add_stream(
            codec, rate=25, options={"qp": "0"} if codec[0] == "l" else {}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        stream.codec_context.color_range = 1 + full
        stream.codec_context.colorspace = code
        frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
        frame.color_range, frame.colorspace, frame.pts = 1 + full, code, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    luma, blue, red = planes.astype(float) - np.array([0, 128, 128])[:, None, None]
    if not full:
        luma, blue, red = (luma - 16) * 255 / 219, blue * 255 / 224, red * 255 / 224
    of_red, of_blue = LUMA[space]
    reds, blues = luma + 2 * (1 - of_red) * red, luma + 2 * (1 - of_blue) * blue
    greens = (luma - of_red * reds - of_blue * blues) / (1 - of_red - of_blue)
    truth = np.clip(np.stack([reds, greens, blues], axis=-1), 0, 255)
    shown = decode.decode(path, np.array([0]))[0]
    assert np.abs(shown - truth).mean() < 1


@pytest.mark.parametrize(("factor", "reason"), [(257, ""), (16, "uses 12"), (1, "uses 8")])
def test_grey_videos_of_16_bits(factor, reason, tmp_path):
    path = tmp_path / "a.mkv"
    images = GREY.astype(np.uint16) * factor
    write_video(str(path), images, "ffv1", "gray16le", given="gray16le")
    expected: dict[str, Any] = {"truth": GREY3, "off": 0.5}
    if reason:
        expected = {"reason": f"unsupported: grey video of 16 bits that {reason} of them"}
    judge(Case("", lambda p: None, **expected), path)


def test_fragments_of_an_mp4(tmp_path):
    """Every fragment has its own index, so no number of frames tells that the last one is cut."""
    path, fragmented = tmp_path / "a.mp4", {"movflags": "frag_every_frame+empty_moov"}
    write_video(str(path), COLOUR, "mpeg4", muxer=fragmented)
    data = path.read_bytes()
    assert decode.probe(str(path)).frames == FRAMES
    last = data.rindex(b"moof")
    for end in (last + 20, data.rindex(b"mdat") + 9):
        path.write_bytes(data[:end])
        with pytest.raises(UnreadableVideo, match=r"^truncated: the file ends within "):
            decode.probe(str(path))
