"""The phantom: its known truth, its speckle, and its files, which do not depend on the workers."""

import collections
import dataclasses
import hashlib
import logging
import os
import threading
import time
from typing import Any

import av
import cv2
import numpy as np
import pytest

from echojepa_jax.data import manifest
from echojepa_jax.data.sources import phantom as reader
from echojepa_jax.phantom import dataset
from echojepa_jax.phantom.bmode import echoes, envelope, lay_beams, point_spread, render, scatter
from echojepa_jax.phantom.heart import POPULATIONS, REST, VIEWS, draw_patient, draw_scene, emptying
from echojepa_jax.phantom.motion import Motion
from echojepa_jax.utils.errors import UserError
from tests.makers.calls import before, interrupt_at
from tests.makers.tables import rows

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {"frames": 24, "size": 64, "fps": 20.0}


def digests(root):
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def scene_of(view, ef=0.6, **changes):
    who = dataclasses.replace(draw_patient("adult", 0, 5), ef=ef, **changes)
    return draw_scene(who, view, size=112, fps=50.0)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "adult"
    return dataset.generate(root, patients=10, views=4, workers=1, **TINY)


# ---------------------------------------------------------------- truth


def test_label_is_the_disc_summation_of_the_written_tracings(data_set):
    """To 0.01 points of EF and 0.01 mL: the tables are rounded to four decimals."""
    spacing = {r["FileName"]: float(r["PixelSpacing"]) for r in rows(data_set / "StudyList.csv")}
    frames = {r["FileName"]: (r["EDFrame"], r["ESFrame"]) for r in rows(data_set / "StudyList.csv")}
    volume = collections.defaultdict(list)
    for row in rows(data_set / "VolumeTracings.csv"):
        ends = np.array([float(row[key]) for key in ("X1", "Y1", "X2", "Y2")])
        volume[row["FileName"].removesuffix(".avi"), row["Frame"]].append(ends)
    for listed in rows(data_set / "FileList.csv"):
        name, volumes = listed["FileName"], []
        for frame in frames[name]:
            lines = np.array(volume[name, frame]) * spacing[name]
            assert lines.shape == (21, 4)
            length, *diameters = np.hypot(lines[:, 2] - lines[:, 0], lines[:, 3] - lines[:, 1])
            volumes.append(np.pi / 4 * np.square(diameters).sum() * length / 20)
        edv, esv = volumes
        assert 100 * (1 - esv / edv) == pytest.approx(float(listed["EF"]), abs=0.01)
        if not name.endswith("PSAX"):  # which shows a section, not a volume
            assert edv == pytest.approx(float(listed["EDV"]), abs=0.01)
            assert esv == pytest.approx(float(listed["ESV"]), abs=0.01)


def test_largest_and_smallest_heart_are_at_the_listed_frames(data_set):
    studies = {row["FileName"]: row for row in rows(data_set / "StudyList.csv")}
    for index in range(10):
        who = draw_patient("adult", 0, index)
        for view in VIEWS:
            scene = draw_scene(who, view, size=TINY["size"], fps=TINY["fps"])
            ejected = [scene.instant(frame).ejected for frame in range(TINY["frames"])]
            study = studies[f"{who.id}-{view}"]
            assert ejected[int(study["EDFrame"])] == min(ejected) == 0
            assert ejected[int(study["ESFrame"])] == max(ejected) == 1


@pytest.mark.parametrize("systole", [0.3, 0.45, 0.5])
def test_a_beat_empties_and_fills_once_without_jumps(systole):
    phases = np.linspace(0, 1, 400, endpoint=False)
    volume = np.array([emptying(phase, systole) for phase in phases])
    peak = volume.argmax()
    assert peak / 400 == pytest.approx(systole, abs=0.01)
    assert (np.diff(volume[: peak + 1]) >= 0).all()
    assert (np.diff(volume[peak:]) <= 0).all()
    assert np.abs(np.diff(np.append(volume, volume[0]))).max() < 0.02


def sector_of(scene):
    """True on the pixels inside the sector, [size, size]."""
    beams = lay_beams(scene)
    last_row, last_column = beams.x.shape[0] - 1, beams.x.shape[1] - 1
    return (beams.column >= 0) & (beams.column <= last_column) & (beams.row <= last_row)


def filled(scene, at):
    """True inside the LV's contour, [size, size]."""
    axis, discs = scene.contour(at)
    outline = np.concatenate([axis[:1], discs[:, 1], axis[1:], discs[::-1, 0]])
    region = np.zeros((scene.size, scene.size), np.uint8)
    return cv2.fillPoly(region, [np.round(outline).astype(np.int32)], 1) > 0


@pytest.mark.parametrize("view", VIEWS)
def test_blood_pool_in_the_picture_follows_the_label(view):
    """Dark pixels at ED and ES: their change reveals EF, but ED alone does not."""
    efs = [0.2, 0.35, 0.5, 0.65, 0.75]
    ed_areas, shrinkage, expected = [], [], []
    for ef in efs:
        scene = scene_of(view, ef, haze=-60.0, noise=-70.0, gain=0.0, muscle=0.0)
        video, sector = render(scene, scene.cycle), sector_of(scene)
        dark, true = [], []
        for frame in (scene.ed_frame, scene.es_frame):
            at = scene.instant(frame)
            # As wide as the LV at end diastole, but no further down than the base is now: the
            # atrium follows it and is dark as well.
            region = filled(scene, dataclasses.replace(at, width=1.0)) & sector
            smooth = cv2.GaussianBlur(video[frame], (0, 0), 1.0)
            dark.append(np.count_nonzero((smooth < 50) & region))
            true.append(np.count_nonzero(filled(scene, at) & sector))
        ed_areas.append(dark[0])
        shrinkage.append(1 - dark[1] / dark[0])
        expected.append(1 - true[1] / true[0])
    assert len(set(ed_areas)) == 1
    assert (np.diff(shrinkage) > 0.03).all()
    assert np.corrcoef(efs, shrinkage)[0, 1] > 0.98
    np.testing.assert_allclose(shrinkage, expected, atol=0.1)


def test_ef_has_a_wide_range_and_is_independent_of_size_rate_and_gain():
    for population, ranges in POPULATIONS.items():
        people = [draw_patient(population, 0, index) for index in range(1000)]
        ef = np.array([100 * who.ef for who in people])
        assert ranges.ef[0] <= ef.min() < ranges.ef[0] + 2
        assert ranges.ef[1] - 2 < ef.max() <= ranges.ef[1]
        for name in ("edv", "heart_rate", "wall", "gain", "right_squeeze", "half_angle", "haze"):
            nuisance = [getattr(who, name) for who in people]
            assert abs(np.corrcoef(ef, nuisance)[0, 1]) < 0.1, name


def test_children_have_smaller_faster_hearts():
    adults, children = ([draw_patient(p, 0, i) for i in range(50)] for p in POPULATIONS)
    assert max(who.edv for who in children) < np.median([who.edv for who in adults])
    assert np.mean([who.heart_rate for who in children]) > max(who.heart_rate for who in adults)

    def depths(people):
        return [draw_scene(who, "A4C", size=112, fps=50.0).depth for who in people]

    assert min(depths(adults)) > np.mean(depths(children))


# ---------------------------------------------------------------- picture


@pytest.mark.parametrize("view", VIEWS)
def test_motion_maps_the_present_contour_to_the_one_of_end_diastole(view):
    scene = scene_of(view, 0.7)
    at = scene.instant(scene.es_frame)
    _, now = scene.contour(at)
    _, then = scene.contour(REST)
    places = (now - scene.tip) * scene.spacing
    p, q = Motion(scene, places[..., 0], places[..., 1]).material(at)
    found = scene.to_pixels(np.stack([p, q], -1), REST)
    np.testing.assert_allclose(found, then, atol=0.1)


def test_envelope_of_uniform_tissue_is_rayleigh():
    """Mean over standard deviation of a Rayleigh variable: sqrt(pi / (4 - pi)) = 1.913."""
    field = scatter(np.ones((400, 400)), np.random.default_rng(0))
    for stage in (field, point_spread(field)):
        strength = envelope(stage)
        assert strength.mean() / strength.std() == pytest.approx(1.913, rel=0.03)
    assert np.mean(envelope(field) ** 2) == pytest.approx(1.0, rel=0.03)


def test_envelope_within_the_heart_muscle_is_rayleigh():
    """In a video, over many patients' walls: each divided by its own mean brightness."""
    shares = []
    for index in range(12):
        who = dataclasses.replace(draw_patient("adult", 0, index), haze=-90.0, noise=-90.0)
        scene = draw_scene(who, "PSAX", size=112, fps=50.0)
        beams = lay_beams(scene)
        p, q = Motion(scene, beams.x, beams.y).material(scene.instant(0))
        depth_in_wall = (np.hypot(p, q) - who.radius) / who.wall
        top = (np.abs(p) < 0.4 * who.radius) & (q < 0)  # where the beam meets the wall squarely
        strength = next(echoes(scene, 1))[top & (depth_in_wall > 0.3) & (depth_in_wall < 0.7)]
        shares.append(strength / strength.mean())
    assert 1 / np.concatenate(shares).std() == pytest.approx(1.913, rel=0.15)


def test_speckle_moves_with_the_tissue():
    scene = scene_of("PSAX", 0.6, noise=-90.0, haze=-90.0)
    beams, who = lay_beams(scene), scene.patient
    motion = Motion(scene, beams.x, beams.y)
    strength = np.log(np.stack(list(echoes(scene, scene.cycle))))
    first, later = scene.ed_frame, (scene.ed_frame + scene.systole // 2) % scene.cycle
    material = [np.stack(motion.material(scene.instant(f)), -1) for f in (first, later)]
    depth_in_wall = (np.hypot(*np.moveaxis(material[0], -1, 0)) - who.radius) / who.wall
    inside = np.argwhere((depth_in_wall > 0.2) & (depth_in_wall < 0.8))[::5]
    # For each wall point at `first`, the beam sample that shows the same material at `later`.
    offsets = material[1].reshape(1, -1, 2) - material[0][tuple(inside.T)][:, None]
    found = np.square(offsets).sum(-1).argmin(1)
    here = strength[first][tuple(inside.T)]
    tracked = np.corrcoef(here, strength[later].ravel()[found])[0, 1]
    fixed = np.corrcoef(here, strength[later][tuple(inside.T)])[0, 1]
    assert tracked > 0.6
    assert tracked > fixed + 0.3


def test_picture_is_black_outside_the_sector_and_alive_inside():
    scene = scene_of("A4C")
    video = render(scene, 8)
    x, y = np.moveaxis((np.indices(video.shape[1:])[::-1].T - scene.tip) * scene.spacing, -1, 0)
    x, y = x.T, y.T
    turn, reach = np.abs(np.arctan2(x, y)) / scene.patient.half_angle, np.hypot(x, y) / scene.depth
    assert video[:, (turn > 1.05) | (reach > 1.02)].max() == 0
    inside = video[:, (turn < 0.9) & (reach < 0.95)]
    assert 20 < inside.mean() < 140
    assert np.abs(np.diff(inside.astype(int), axis=0)).mean() > 1


# ---------------------------------------------------------------- files


def test_every_video_holds_the_listed_frames(data_set):
    listed = rows(data_set / "FileList.csv")
    assert {f"{row['FileName']}.avi" for row in listed} == {
        path.name for path in (data_set / "Videos").iterdir()
    }
    for row in listed[::7]:
        with av.open(str(data_set / "Videos" / f"{row['FileName']}.avi")) as file:
            stream = file.streams.video[0]
            pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
            assert stream.codec_context.name == "mjpeg"
            assert stream.average_rate == float(row["FPS"]) == TINY["fps"]
        assert len(pictures) == int(row["NumberOfFrames"]) == TINY["frames"]
        assert pictures[0].shape == (int(row["FrameHeight"]), int(row["FrameWidth"]), 3)


def test_the_file_contains_the_rendered_picture(data_set):
    name = rows(data_set / "FileList.csv")[0]["FileName"]
    scene = draw_scene(draw_patient("adult", 0, 0), "A4C", size=TINY["size"], fps=TINY["fps"])
    assert dataset.name_of(scene) == name
    with av.open(str(data_set / "Videos" / f"{name}.avi")) as file:
        written = np.stack([frame.to_ndarray(format="gray") for frame in file.decode(video=0)])
    error = np.square(written.astype(float) - render(scene, TINY["frames"])).mean()
    assert 10 * np.log10(255**2 / error) > 38


def test_stills_are_the_first_frames(tmp_path, monkeypatch):
    monkeypatch.setenv("ECHOJEPA_CACHE", str(tmp_path))
    path = "adult,patients=2,views=2,seed=0,stills=1"
    samples = reader.read(path, f"phantom:{path}")
    for sample in samples:
        who = draw_patient("adult", 0, int(sample.patient != samples[0].patient))
        scene = draw_scene(who, sample.view, size=112, fps=50.0)
        np.testing.assert_array_equal(cv2.imread(sample.path, 0), render(scene, 1)[0])
        assert os.path.basename(sample.path) == f"{sample.name}.png"
    found = manifest.load([f"phantom:{path}"], quarantine=None, workers=1, stills=True)
    assert [sample.name for sample in found] == [sample.name for sample in samples]


def test_files_do_not_depend_on_processes_or_number_of_patients(data_set, tmp_path):
    fewer = dataset.generate(tmp_path / "fewer", patients=3, views=4, workers=2, **TINY)
    whole, part = digests(data_set), digests(fewer)
    videos = [name for name in part if name.endswith(".avi")]
    assert len(videos) == 12
    assert all(whole[name] == part[name] for name in videos)
    for table in ("FileList.csv", "StudyList.csv", "VolumeTracings.csv"):
        lines = (fewer / table).read_text().splitlines()
        assert (data_set / table).read_text().splitlines()[: len(lines)] == lines


def test_seeds_and_populations_give_different_patients(data_set, tmp_path):
    other_seed = dataset.generate(tmp_path / "seed", patients=2, views=1, seed=1, **TINY)
    root = tmp_path / "children"
    children = dataset.generate(root, population="pediatric", patients=2, views=1, **TINY)
    roots = (data_set, other_seed, children)
    patients = [{row["Patient"] for row in rows(root / "StudyList.csv")} for root in roots]
    assert [len(group) for group in patients] == [10, 2, 2]
    assert len(set.union(*patients)) == 14
    efs = [{row["EF"] for row in rows(root / "FileList.csv")} for root in roots]
    assert len(set.union(*efs)) == 14
    contents = [set(digests(root / "Videos").values()) for root in roots]
    assert len(set.union(*contents)) == 40 + 2 + 2


def test_splits_are_by_patient_and_views_occur_equally():
    people = [draw_patient("adult", 0, index) for index in range(200)]
    splits = collections.Counter(dataset.split_of(who) for who in people)
    assert splits == {"TRAIN": 140, "VAL": 20, "TEST": 40}
    for count in (1, 2, 3):
        views = collections.Counter(v for who in people for v in dataset.views_of(who, count))
        assert views == dict.fromkeys(VIEWS, 50 * count)
    for split in splits:
        members = [who for who in people if dataset.split_of(who) == split]
        assert {view for who in members for view in dataset.views_of(who, 1)} == set(VIEWS)


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    calls = interrupt_at(monkeypatch, dataset, "render", 3)
    with pytest.raises(KeyboardInterrupt):
        dataset.generate(tmp_path / "set", patients=2, views=2, workers=1, **TINY)
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


def test_the_folder_appears_only_when_complete(tmp_path, monkeypatch):
    seen = []
    before(monkeypatch, dataset, "render", lambda _: seen.append((tmp_path / "set").exists()))
    dataset.generate(tmp_path / "set", patients=1, views=2, workers=1, **TINY)
    assert seen == [False, False]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_two_generations_at_once_end_with_one_complete_folder(tmp_path):
    root, failures = tmp_path / "set", []
    barrier = threading.Barrier(2)

    def work():
        barrier.wait()
        try:
            dataset.generate(root, patients=2, views=2, workers=1, **TINY)
        except UserError as error:  # the other one had finished before this one began
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) < 2
    assert len(list((root / "Videos").iterdir())) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_200_videos_take_less_than_a_minute_on_two_cores(tmp_path):
    started = time.process_time()
    dataset.generate(tmp_path / "set", patients=5, views=4, workers=1)
    assert time.process_time() - started < 20 / 200 * 60 * 2


def test_existing_files_are_never_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already contains files"):
        dataset.generate(tmp_path, patients=1, views=1, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": "fetal"}, "adult or pediatric"),
        ({"patients": 0}, "patients=0"),
        ({"views": 5}, "views=5"),
        ({"seed": -1}, "seed=-1"),
        ({"size": 8}, "size=8"),
        ({"frames": 20}, "frames >= 58"),
    ],
)
def test_values_out_of_range_are_errors(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        dataset.generate(tmp_path / "set", **{"patients": 1, **changes})


# ---------------------------------------------------------------- cache and reader


def test_reader_generates_once_and_joins_the_tables(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("ECHOJEPA_CACHE", str(tmp_path / "cache"))
    source = "phantom:pediatric,patients=3,views=2,seed=4"
    with caplog.at_level(logging.INFO):
        samples = reader.read(source.partition(":")[2], source)
    assert str(tmp_path / "cache") in caplog.text
    assert len(samples) == 6
    assert len({sample.name for sample in samples}) == 6
    assert [s.split for s in samples] == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert [s.view for s in samples] == ["A4C", "A2C", "A2C", "PLAX", "PLAX", "PSAX"]
    assert [s.patient for s in samples[::2]] == [
        draw_patient("pediatric", 4, i).id for i in range(3)
    ]
    for sample in samples:
        assert sample.source == source
        assert sample.study.startswith(sample.patient)
        ef, esv, edv = (sample.targets[key] for key in ("ef", "esv", "edv"))
        assert ef == pytest.approx(100 * (1 - esv / edv), abs=0.01)
        assert 80 < sample.targets["heart_rate"] < 160
        with av.open(sample.path) as file:
            assert file.streams.video[0].frames == 60

    monkeypatch.setattr(dataset, "generate", None)  # the second reading must not need it
    assert reader.read("pediatric,patients=3,views=2,seed=4", source) == samples


@pytest.mark.parametrize(
    "path", ["adult,patient=3", "adult,patients=many", "adult,patients", "adult,seed=-1", "adult,"]
)
def test_reader_names_the_allowed_keys(path):
    with pytest.raises(UserError, match="patients=<whole number>, views=<whole number>, seed="):
        reader.read(path, f"phantom:{path}")


def test_reader_names_the_allowed_populations(tmp_path, monkeypatch):
    monkeypatch.setenv("ECHOJEPA_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="adult or pediatric"):
        reader.read("adults", "phantom:adults")
