"""Ultrasound DICOM: real files that ship with pydicom and pydicom-data, and made ones."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space, pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from echojepa_jax.data.formats import decode
from echojepa_jax.data.formats.decode import UnreadableVideo
from echojepa_jax.data.formats.video_info import (
    NEGATIVE_TIMES,
    NO_POINTED_RATE,
    NO_REGION,
    RATES_DIFFER,
    STALE_REGION,
    VARIABLE_RATE,
    each_note,
)
from echojepa_jax.data.scan import scan
from echojepa_jax.data.sources import read_source
from tests.makers.dicom import SECRET, as_jpeg, make, real, region
from tests.makers.recordings import FOLDER
from tests.makers.videos import all_frames
from tests.programs import run_code

CINE_REGION = (84, 31, 595, 414)  # of color3d_jpeg_baseline.dcm: x0, y0, x1, y1


@pytest.fixture
def grey() -> np.ndarray:
    """Five noise frames [5, 20, 30]."""
    return np.random.default_rng(0).integers(0, 256, (5, 20, 30), dtype=np.uint8)


@pytest.fixture
def colour() -> np.ndarray:
    """Three smooth colour frames [3, 32, 48, 3], of different brightness."""
    y, x = np.mgrid[:32, :48]
    first = np.stack([5 * x, 4 * y + 60, 240 - 4 * x], axis=-1)
    return np.stack([first, first // 2, 255 - first]).astype(np.uint8)


# --- real files -----------------------------------------------------------------------------------


def test_cine_that_ships_with_pydicom():
    path = real("examples_ybr_color.dcm")
    info = decode.probe(path)
    assert (info.frames, info.fps, info.height, info.width) == (30, 30.0, 240, 320)
    assert info.note == "stale ultrasound region: the whole frame is used"
    video = decode.decode(path, np.array([0, 7, 7, 29]))
    expected = np.stack([pixel_array(path, index=k) for k in (0, 7, 7, 29)])
    np.testing.assert_array_equal(video, expected)
    assert np.abs(video[0].astype(int) - video[1]).mean() > 1, "the heart beats"


def test_cine_of_pydicom_data_is_cropped_to_its_region():
    path = real("color3d_jpeg_baseline.dcm")
    info = decode.probe(path)
    assert (info.frames, info.fps, info.note) == (120, 30.0, "")
    x0, y0, x1, y1 = CINE_REGION
    assert (info.height, info.width) == (y1 - y0 + 1, x1 - x0 + 1)
    video = decode.decode(path, np.array([3, 119]))
    expected = np.stack([pixel_array(path, index=k) for k in (3, 119)])
    np.testing.assert_array_equal(video, expected[:, y0 : y1 + 1, x0 : x1 + 1])
    assert expected[:, :y0].max() > 100, "there is text above the region"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("OBXXXX1A_2frame.dcm", (2, 459, 680, 3)),  # palette; its region ends a pixel too far
        ("OBXXXX1A_rle_2frame.dcm", (2, 459, 680, 3)),
        ("OBXXXX1A_expb_2frame.dcm", (2, 459, 680, 3)),  # big endian
        ("gdcm-US-ALOKA-16.dcm", (1, 392, 304, 3)),  # 16-bit palette in segments, two regions
        ("gdcm-US-ALOKA-16_big.dcm", (1, 392, 304, 3)),
        ("examples_palette.dcm", (1, 350, 800, 3)),
        ("examples_rgb_color.dcm", (1, 240, 320, 3)),
        ("examples_jpeg2k.dcm", (1, 480, 640, 3)),
        ("US1_J2KI.dcm", (1, 480, 640, 3)),
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", (1, 721, 997, 3)),
        ("emri_small_jpeg_ls_lossless.dcm", (10, 64, 64, 3)),
    ],
)
def test_other_real_files_decode(name, shape):
    video = all_frames(real(name))
    assert video.shape == shape
    assert video.dtype == np.uint8
    assert video.std() > 5, "there is a picture"


@pytest.mark.parametrize(
    "names",
    [
        ("OBXXXX1A_2frame.dcm", "OBXXXX1A_rle_2frame.dcm", "OBXXXX1A_expb_2frame.dcm"),
        ("gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm"),
        ("US1_UNCR.dcm", "US1_J2KR.dcm"),
        ("emri_small.dcm", "emri_small_jpeg_ls_lossless.dcm", "emri_small_big_endian.dcm"),
    ],
)
def test_lossless_twins_are_equal(names):
    first, *others = (all_frames(real(name)) for name in names)
    for other in others:
        np.testing.assert_array_equal(first, other)


# --- photometric interpretations ------------------------------------------------------------------


def test_grey(tmp_path, grey):
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        video = all_frames(make(tmp_path / "a.dcm", grey, syntax=syntax))
        np.testing.assert_array_equal(video, np.repeat(grey[..., None], 3, axis=-1))


def test_inverted_grey(tmp_path, grey):
    video = all_frames(make(tmp_path / "a.dcm", grey, "MONOCHROME1"))
    np.testing.assert_array_equal(video[..., 0], 255 - grey)


def test_deep_grey_has_one_scale_for_all_frames(tmp_path, grey):
    """A dark frame stays dark: stretching each one by itself would make the video flicker."""
    deep = np.stack([np.full((4, 4), level, np.uint16) for level in (0, 1000, 4095)])
    for stored in (deep, deep.astype(np.int16) - 2048):
        # A name of its own: what occurs in a file is kept by its name, size and time.
        path = make(tmp_path / f"{stored.dtype}.dcm", stored, BitsStored=12, HighBit=11)
        video = all_frames(path)
        assert video[:, 0, 0, 0].tolist() == [0, 62, 255]


def test_window_of_deep_grey(tmp_path):
    deep = np.array([0, 500, 1000, 1500, 4000], np.uint16).reshape(5, 1, 1)
    twelve: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
    window = twelve | {"WindowCenter": 1000.5, "WindowWidth": 1001}
    video = all_frames(make(tmp_path / "a.dcm", deep, **window))
    assert video[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    scaled = window | {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": [1000.5, 40]}
    scaled["WindowWidth"] = [1001, 400]
    video = all_frames(make(tmp_path / "b.dcm", (deep + 1000) // 2, **scaled))
    assert video[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    # A negative slope turns dark and bright round, and leaves a window as useful as it was.
    turned = window | {"RescaleSlope": -1, "RescaleIntercept": 1000}
    turned |= {"WindowCenter": 500.5, "WindowWidth": 1001}
    some = np.array([0, 200, 800], np.uint16).reshape(3, 1, 1)
    video = all_frames(make(tmp_path / "c.dcm", some, **turned))
    assert video[:, 0, 0, 0].tolist() == [255, 204, 51]


def test_rgb(tmp_path, colour):
    np.testing.assert_array_equal(all_frames(make(tmp_path / "a.dcm", colour, "RGB")), colour)
    planes = np.ascontiguousarray(np.moveaxis(colour, -1, 1))
    path = make(tmp_path / "b.dcm", colour, "RGB", PlanarConfiguration=1, PixelData=b"")
    dataset = pydicom.dcmread(path)
    dataset.PixelData = planes.tobytes()
    dataset.save_as(path)
    np.testing.assert_array_equal(all_frames(path), colour)


def test_ybr(tmp_path, colour):
    ybr = convert_color_space(colour.copy(), "RGB", "YBR_FULL", per_frame=True)
    video = all_frames(make(tmp_path / "a.dcm", ybr, "YBR_FULL"))
    np.testing.assert_allclose(video.astype(int), colour, atol=2)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(tmp_path, grey, bits):
    """Indices below the first entry take the first colour, and those past the end the last one."""
    first, entries = 50, 100
    table = np.random.default_rng(1).integers(0, 256, (entries, 3))
    stored = (table if bits == 8 else table * 257).astype(f"<u{bits // 8}")
    tags: dict[str, Any] = {}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [entries, first, bits]
        tags[f"{name}PaletteColorLookupTableData"] = stored[:, channel].tobytes()
    video = all_frames(make(tmp_path / "a.dcm", grey, "PALETTE COLOR", **tags))
    np.testing.assert_array_equal(video, table[np.clip(grey.astype(int) - first, 0, entries - 1)])


# --- compressed transfer syntaxes -----------------------------------------------------------------


def test_run_lengths(tmp_path, colour):
    path = make(tmp_path / "a.dcm", colour, "RGB")
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    np.testing.assert_array_equal(all_frames(path), colour)
    np.testing.assert_array_equal(decode.decode(path, np.array([2])), colour[[2]])


# --- frame rate and region ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "fps"),
    [
        ({"FrameTime": "20", "CineRate": "30"}, 50),
        ({"FrameTime": "33.333"}, 30),
        ({"FrameTimeVector": ["0", "16", "24"], "RecommendedDisplayFrameRate": "30"}, 50),
        ({"FrameTimeVector": ["0", "33", "67", "100", "133"]}, 30.08),  # from the start on
        ({"FrameTime": "0", "CineRate": "44"}, 44),
        ({"RecommendedDisplayFrameRate": "25"}, 25),
        ({"FrameTime": "0.0333", "CineRate": "30"}, 30),  # seconds, where ms are meant
        ({"FrameTime": "0.0333"}, 0),
        ({"FrameTime": "1e-310"}, 0),
        ({"CineRate": None}, 0),
        ({}, 0),
    ],
)
def test_frame_rate(tmp_path, grey, tags, fps):
    assert decode.probe(make(tmp_path / "a.dcm", grey, **tags)).fps == fps


def test_a_frame_time_with_a_decimal_comma(tmp_path, grey):
    path = Path(make(tmp_path / "a.dcm", grey, FrameTime="33.333"))
    path.write_bytes(path.read_bytes().replace(b"33.333", b"33,333"))
    assert decode.probe(str(path)).fps == 30


def test_frames_at_uneven_times_are_noted(tmp_path, grey):
    for later, note in (([20, 20, 500, 500], VARIABLE_RATE), ([33, 33, 34, 33], NO_REGION)):
        times = [str(time) for time in (0, *later)]
        info = decode.probe(make(tmp_path / "a.dcm", grey, FrameTimeVector=times))
        assert note in each_note(info.note)
        assert (VARIABLE_RATE in each_note(info.note)) == (note == VARIABLE_RATE)


VECTOR, TIME = 0x00181065, 0x00181063
EVEN, UNEVEN = ["0", *["40"] * 4], ["0", "20", "20", "60", "60"]


@pytest.mark.parametrize(
    ("tags", "fps", "noted"),
    [
        ({"FrameIncrementPointer": VECTOR, "FrameTime": "20"}, 25, {RATES_DIFFER}),
        ({"FrameIncrementPointer": [TIME, VECTOR], "FrameTime": "20"}, 50, {RATES_DIFFER}),
        ({"FrameIncrementPointer": TIME, "FrameTime": "40.1", "CineRate": "25"}, 24.94, set()),
        ({"FrameTime": "33.33", "CineRate": "25", "FrameTimeVector": None}, 30, {RATES_DIFFER}),
        ({"CineRate": "30"}, 25, {RATES_DIFFER}),
        (
            {"FrameIncrementPointer": VECTOR, "FrameTimeVector": UNEVEN, "FrameTime": "40"},
            *(25, {VARIABLE_RATE}),
        ),
        ({"FrameTimeVector": UNEVEN, "FrameTime": "40"}, 25, {RATES_DIFFER}),
        ({"FrameTimeVector": ["0", "40", "40"]}, 25, {RATES_DIFFER}),  # of another cine
        ({"FrameTimeVector": ["0", "40", "-9000", "40", "40"]}, 25, {NEGATIVE_TIMES}),
        ({"FrameTimeVector": ["0", "40", "-9000", "40", "40"], "FrameTime": "40"}, 25, set()),
        (
            {"FrameIncrementPointer": VECTOR, "FrameTimeVector": None, "CineRate": "30"},
            *(30, {NO_POINTED_RATE}),
        ),
        # There is no other one.
        ({"FrameIncrementPointer": TIME, "FrameTime": "0", "FrameTimeVector": None}, 0, set()),
        ({"FrameIncrementPointer": 0x00540010}, 25, set()),  # names no times
        ({"FrameIncrementPointer": 0x00082144, "RecommendedDisplayFrameRate": "20"}, 20, set()),
    ],
)
def test_frame_increment_pointer_selects_the_rate(tmp_path, grey, tags, fps, noted):
    info = decode.probe(make(tmp_path / "a.dcm", grey, **{"FrameTimeVector": EVEN} | tags))
    assert info.fps == fps
    assert set(each_note(info.note)) == {NO_REGION, *noted}


def test_a_stale_frame_time_beside_the_vector_that_counts():
    """Weasis 424. Times of the file: 5 of 20 ms, 6 of 40 ms."""
    info = decode.probe(str(FOLDER / "frame_time_vector_by_pointer_stale_frame_time.dcm"))
    assert info.fps == pytest.approx(1000 * 11 / 340, abs=0.01)
    assert {VARIABLE_RATE, RATES_DIFFER} < set(each_note(info.note))


def test_the_slices_of_a_volume_are_not_read_as_a_cine(tmp_path, grey):
    path = make(tmp_path / "a.dcm", grey, SOPClassUID="1.2.840.10008.5.1.4.1.1.6.2")
    with pytest.raises(UnreadableVideo, match=r"^unsupported: an ultrasound volume"):
        decode.probe(path)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("tags", "modality"),
    [
        ({}, "US"),
        ({"Modality": "XA"}, "XA"),
        ({"Modality": "EC"}, "US"),  # echocardiography, a retired code
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.1"}, "XA"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.1", "Modality": None}, "XA"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2", "Modality": "OT"}, "OT"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2", "Modality": None}, ""),
        ({"Modality": None}, "US"),
        ({"Modality": "DOE^JANE"}, "US"),  # no code: what it is stored as
    ],
)
def test_other_modalities_are_named(tmp_path, grey, tags, modality):
    info = decode.probe(make(tmp_path / "a.dcm", grey, **tags))
    assert info.modality == modality
    assert ("which is not ultrasound" in info.note) == (modality not in ("US", ""))
    assert ("names no modality" in info.note) == (modality == "")


def test_dicom_folders_give_ultrasound_by_default(tmp_path, grey):
    make(tmp_path / "a" / "us.dcm", grey)
    make(tmp_path / "a" / "xa.dcm", grey, Modality="XA")
    for source, names, reasons in (
        ("dicom:{}", ["us.dcm"], ["another modality: XA, not US"]),
        ("dicom:{},modality=any", ["us.dcm", "xa.dcm"], []),
        ("dicom:{},modality=XA", ["xa.dcm"], ["another modality: US, not XA"]),
        ("videos:{}", ["us.dcm", "xa.dcm"], []),
    ):
        listed = read_source(source.format(tmp_path / "a"))
        good, rejected = scan(listed, cache_dir=tmp_path, workers=1)
        assert [s.name for s in good] == names
        assert [r.reason.partition(";")[0] for r in rejected] == reasons
        assert all(r.kind == "other" for r in rejected)


@pytest.mark.parametrize(
    ("regions", "rows", "columns", "note"),
    [
        ([(5, 2, 24, 11)], slice(2, 12), slice(5, 25), ""),
        ([(0, 0, 29, 19)], slice(0, 20), slice(0, 30), ""),
        ([(10, 0, 30, 20)], slice(0, 20), slice(10, 30), ""),  # corners written outside
        ([(0, 0, 9, 9), (10, 0, 29, 9)], slice(0, 10), slice(10, 30), ""),  # the larger one
        ([(0, 0, 9, 9), (15, 0, 24, 9)], slice(0, 10), slice(0, 10), ""),  # equal: the first
        ([(0, 0, 29, 19, 10, 4), (3, 3, 9, 9)], slice(3, 10), slice(3, 10), ""),  # an ECG trace
        ([(0, 0, 29, 19, 3, 3), (3, 3, 9, 9)], slice(3, 10), slice(3, 10), ""),  # a Doppler one
        ([(0, 0, 59, 39), (3, 3, 9, 9)], slice(3, 10), slice(3, 10), ""),  # one of two is stale
        ([(5, 2, 24, 11, 2)], slice(2, 12), slice(5, 25), ""),  # colour flow is a picture too
        ([(5, 2, 24, 11, 2), (3, 3, 7, 7)], slice(2, 12), slice(5, 25), ""),  # the larger one
        ([(0, 0, 9, 9, 2), (15, 0, 24, 9)], slice(0, 10), slice(15, 25), ""),  # of equals, tissue
        ([(0, 0, 4, 4)], slice(0, 20), slice(0, 30), "stale"),  # too small for a picture
        ([(0, 0, 59, 39)], slice(0, 20), slice(0, 30), "stale"),
        ([(9, 9, 9, 5)], slice(0, 20), slice(0, 30), "stale"),
        ([], slice(0, 20), slice(0, 30), "no ultrasound region"),
    ],
)
def test_crop_to_the_region(tmp_path, grey, regions, rows, columns, note):
    tags: dict[str, Any] = {"SequenceOfUltrasoundRegions": [region(*r) for r in regions]}
    path = make(tmp_path / "a.dcm", grey, **(tags if regions else {}))
    info = decode.probe(path)
    video = decode.decode(path, np.array([1, 4]))
    np.testing.assert_array_equal(video[..., 0], grey[[1, 4], rows, columns])
    assert (info.height, info.width) == video.shape[1:3]
    assert info.note.startswith(note)
    assert bool(info.note) == bool(note)


def test_a_region_without_a_corner_is_stale(tmp_path, grey):
    corners = region(5, 2, 24, 11)
    del corners.RegionLocationMaxX1
    path = make(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=[corners])
    assert decode.probe(path).note == STALE_REGION


# --- files that cannot be read --------------------------------------------------------------------


def test_truncated_pixel_data(tmp_path, grey, colour, cut):
    whole = make(tmp_path / "a.dcm", grey)
    header = Path(whole).stat().st_size - grey.nbytes
    part = cut(whole, (header + 3.5 * 600) / Path(whole).stat().st_size)
    with pytest.raises(UnreadableVideo, match=r"^truncated: header states 5 frames, file holds 3$"):
        decode.probe(part)
    coded = make(tmp_path / "b.dcm", colour, "RGB")
    as_jpeg(coded, colour)
    part = cut(coded, 0.75)
    with pytest.raises(
        UnreadableVideo, match=r"^truncated: header states 3 frames, file holds [12]$"
    ):
        decode.probe(part)
    part = cut(real("examples_ybr_color.dcm"), 0.5)
    for read in (decode.probe, lambda path: decode.decode(path, np.array([0]))):
        with pytest.raises(UnreadableVideo, match=r"^truncated: header states 30 frames, "):
            read(part)


def test_requests_for_missing_frames_are_errors(tmp_path, grey):
    with pytest.raises(UnreadableVideo, match="frame 5 was requested, file holds 5"):
        decode.decode(make(tmp_path / "a.dcm", grey), np.array([0, 5]))


def _bad_files(folder: Path, grey: np.ndarray) -> dict[str, str]:
    """Files by name, with the start of the expected reason."""
    good = make(folder / "good.dcm", grey)

    def changed(name: str, change) -> None:
        dataset = pydicom.dcmread(good)
        change(dataset)
        dataset.save_as(folder / name)

    def as_h264(dataset: Dataset, syntax: str = "1.2.840.10008.1.2.4.102") -> None:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.PixelData = encapsulate([b"not really"])
        dataset["PixelData"].is_undefined_length = True

    changed("nopixels.dcm", lambda dataset: dataset.__delattr__("PixelData"))
    changed("norows.dcm", lambda dataset: dataset.__delattr__("Rows"))
    changed("h264.dcm", as_h264)
    changed("jpip.dcm", lambda dataset: as_h264(dataset, "1.2.840.10008.1.2.4.94"))
    changed("wrongsize.dcm", lambda dataset: setattr(dataset, "Rows", 21))
    changed("nophotometric.dcm", lambda dataset: dataset.__delattr__("PhotometricInterpretation"))
    changed("nosigned.dcm", lambda dataset: dataset.__delattr__("PixelRepresentation"))
    (folder / "text.dcm").write_text(SECRET * 50)
    (folder / "magic.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "noise.dcm").write_bytes(b"\0" * 128 + b"DICM" + SECRET.encode() * 50)
    return {
        "nopixels.dcm": "no frames: ",
        "norows.dcm": "incomplete: the header lacks Rows",
        "h264.dcm": "damaged: Invalid data found when processing input",
        "jpip.dcm": "unsupported: DICOM transfer syntax JPIP",
        "wrongsize.dcm": "truncated: header states 5 frames, file holds 4",
        "nophotometric.dcm": "incomplete: the header lacks PhotometricInterpretation",
        "nosigned.dcm": "incomplete: the header lacks PixelRepresentation",
        "text.dcm": "not a video file: ",
        "magic.dcm": "no frames: ",
        "noise.dcm": "no frames: ",
        "absent.dcm": "missing: ",
    }


def test_bad_files_give_the_reason(tmp_path, grey):
    for name, reason in _bad_files(tmp_path, grey).items():
        for read in (decode.probe, lambda path: decode.decode(path, np.array([0]))):
            with pytest.raises(UnreadableVideo) as error:
                read(str(tmp_path / name))
            assert str(error.value).startswith(reason), name
            assert "Doe" not in str(error.value)


def test_reasons_are_true(tmp_path, grey, monkeypatch):
    path = make(tmp_path / "a.dcm", grey, "PALETTE COLOR")
    with pytest.raises(UnreadableVideo, match=r"^incomplete: .* lacks RedPaletteColorLookup"):
        decode.probe(path)

    def failing(*args, **kwargs):
        raise OSError(errno.EIO, "the disk quotes Doe^Jane")

    monkeypatch.setattr(pydicom, "dcmread", failing)
    with pytest.raises(UnreadableVideo, match=r"^unreadable: Input/output error$"):
        decode.probe(make(tmp_path / "b.dcm", grey))


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_no_patient_reaches_a_log(tmp_path, grey, colour):
    """Even where values break the standard, which pydicom likes to quote, all is silent."""
    names = [str(tmp_path / name) for name in _bad_files(tmp_path, grey)]
    names.append(make(tmp_path / "cine.dcm", grey, PatientAge=SECRET, StudyDate=SECRET))
    coded = Path(make(tmp_path / "jpeg.dcm", colour, "RGB"))
    as_jpeg(str(coded), colour)
    content = coded.read_bytes()
    assert b"YBR_FULL_422" in content
    coded.write_bytes(content.replace(b"YBR_FULL_422", b"RGB".ljust(12)))
    names.append(str(coded))
    program = (
        "import logging, sys; import numpy as np\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from echojepa_jax.data.formats import decode\n"
        "for path in sys.argv[1:]:\n"
        "  for read in (decode.probe, lambda path: decode.decode(path, np.arange(2))):\n"
        "    try: print(read(path).shape if read is not decode.probe else '')\n"
        "    except decode.UnreadableVideo as error: print(error)\n"
    )
    done = run_code(program, *names)
    assert "(2, 20, 30, 3)" in done.stdout
    assert "Doe" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_no_patient_is_read(tmp_path, grey, monkeypatch):
    seen, dcmread = [], pydicom.dcmread

    def listen(*args: Any, **kwargs: Any) -> Dataset:
        seen.append(dcmread(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(pydicom, "dcmread", listen)
    decode.probe(make(tmp_path / "a.dcm", grey))
    (header,) = seen
    assert "Rows" in header
    assert not {"PatientName", "PatientID"} & set(header.dir())


def test_content_without_extension_is_dicom(tmp_path, grey):
    path = make(tmp_path / "00000001", grey)
    assert decode.probe(path).frames == 5
