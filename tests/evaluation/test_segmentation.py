"""Segmentation: masks that follow the clip's pixels, exact measures, and a probe that learns."""

import dataclasses
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.spatial.distance import cdist

from configs.evaluation import phantom
from echojepa_jax.api import evaluate
from echojepa_jax.data import manifest
from echojepa_jax.data.clips.pipeline import Shown, evaluation_batches
from echojepa_jax.data.clips.sampling import ClipSpec, clip_frame_ids, clip_with_frame
from echojepa_jax.data.sources import read_tracings
from echojepa_jax.data.tracings import ED, ES, STRUCTURES, Tracing, filled, in_clip, of_outlines
from echojepa_jax.evaluation import fit_masks, truth
from echojepa_jax.evaluation.cells import SEGMENTATION
from echojepa_jax.evaluation.data import MASKS, TRACED, Data
from echojepa_jax.evaluation.masks import dice, ejection_fraction, hausdorff95, volume
from echojepa_jax.evaluation.scores import MASKS as MEASURES
from echojepa_jax.evaluation.tasks import segmentation
from echojepa_jax.phantom import masks as phantom_masks
from echojepa_jax.phantom.heart import VIEWS, draw_patient, draw_scene
from echojepa_jax.probes.predict import Features
from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights.pretrained import ClipInput
from echojepa_jax.weights.write import write_weights
from tests.makers import tables
from tests.makers.labelled import SPLITS, probe_config, samples_of
from tests.makers.weights import random_weights

LV, MYOCARDIUM, LA = 1, 2, 3


def ellipse(height, width, centre, radii):
    y, x = np.mgrid[:height, :width]
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


# --- measures -------------------------------------------------------------------------------------


def test_dice_by_hand():
    one, two = np.zeros((2, 4, 4), bool)
    assert np.isnan(dice(one, two))
    one[1, 1:3] = True
    assert dice(one, two) == 0
    two[1, 2:4] = two[2, 2] = True
    assert dice(one, two) == pytest.approx(2 * 1 / (2 + 3))


def border_of(mask):
    """Pixels with one of four neighbours outside, pixel by pixel."""
    full, steps = np.pad(mask, 1), ((0, 1), (0, -1), (1, 0), (-1, 0))
    inside = [all(full[y + 1 + dy, x + 1 + dx] for dy, dx in steps) for y, x in np.argwhere(mask)]
    return np.argwhere(mask)[~np.array(inside)]


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.4, 0.7)])
def test_hausdorff_distance_is_that_of_all_pairs_of_border_pixels(spacing):
    true = ellipse(40, 30, (18, 12), (12, 7))
    found = ellipse(40, 30, (22, 14), (9, 9)) | ellipse(40, 30, (36, 27), (6, 5))  # at the edge
    one, two = (border_of(mask) * spacing for mask in (true, found))
    pairs = cdist(one, two)
    expected = np.percentile(np.concatenate([pairs.min(axis=0), pairs.min(axis=1)]), 95)
    assert hausdorff95(true, found, spacing) == pytest.approx(expected, rel=1e-12)
    assert hausdorff95(true, true, spacing) == 0
    nothing = np.zeros_like(true)
    diagonal = np.hypot(*np.multiply((40, 30), spacing))
    assert hausdorff95(true, nothing, spacing) == pytest.approx(diagonal)
    assert diagonal > expected
    assert np.isnan(hausdorff95(nothing, nothing, spacing))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.8)])
def test_the_volume_is_that_of_twenty_discs_of_a_spheroid(spacing):
    """Upright and along the other axis of the picture.

    A disc is as wide as its slice of the ellipse on average, so the sum is 0.2 % less than the
    spheroid's 4/3 pi a b^2, at any size. A mask is known to half a pixel at either end of its axis.
    """
    u = np.linspace(-1, 1, 21)
    shares = np.diff(u * np.sqrt(1 - u**2) + np.arcsin(u))  # areas of slices over a b
    for long, short in ((60, 25), (25, 60)):
        radii = long / spacing[0], short / spacing[1]
        mask = ellipse(300, 300, (150, 150), radii)
        a, b = max(long, short), min(long, short)
        height = 2 * a / 20
        discs = np.pi / 4 * np.sum((shares * a * b / height) ** 2) * height
        assert volume(mask, spacing) == pytest.approx(discs, rel=1 / 120)
        assert discs == pytest.approx(4 / 3 * np.pi * a * b**2, rel=0.003)
    assert volume(np.zeros((5, 5), bool), spacing) == 0
    assert ejection_fraction(100.0, 40.0) == pytest.approx(60)
    assert ejection_fraction(1.0, 200.0) == 0, "a mask that is too small has no bounds otherwise"
    assert np.isnan(ejection_fraction(0.0, 40.0))


# --- truth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("population", ["adult", "pediatric"])
def test_masks_of_the_phantom_have_its_ejection_fraction_and_its_contour(population):
    for index, view in itertools.product(range(2), VIEWS):
        patient = draw_patient(population, 0, index)
        scene = draw_scene(patient, view, size=112, fps=50.0)
        volumes = []
        for frame in (scene.ed_frame, scene.es_frame):
            labels = phantom_masks.labels(scene, frame)
            axis, discs = scene.contour(scene.instant(frame))
            outline = np.concatenate([axis[:1], discs[:, 1], axis[1:], discs[::-1, 0]])
            assert dice(labels == LV, filled(outline, 112, 112)) > 0.975
            volumes.append(volume(labels == LV, (1.0, 1.0)))
            assert (labels == MYOCARDIUM).any()
            assert (labels == LA).any() == (view != "PSAX")
        if (labels[:, [0, -1]] != LV).all():  # not cut off by the edge of the picture
            assert ejection_fraction(*volumes) == pytest.approx(100 * patient.ef, abs=2)


def test_an_outline_is_filled_to_the_centres_of_pixels():
    square = np.array([[1.5, 0.5], [3.5, 0.5], [3.5, 2.5], [1.5, 2.5]])
    expected = np.zeros((4, 5), bool)
    expected[1:3, 2:4] = True
    np.testing.assert_array_equal(filled(square, 4, 5), expected)


def test_the_largest_outline_is_end_diastole():
    square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    found = of_outlines("a", {9: square, 3: 2 * square, 5: 1.5 * square})
    assert {(t.frame, t.phase) for t in found} == {(3, ED), (9, ES)}
    (alone,) = of_outlines("a", {9: square})
    assert alone.phase == ""


@pytest.fixture
def camus(tmp_path, cache):
    return write_camus(tmp_path / "camus", 1)


@pytest.fixture
def traced(camus):
    """The videos of `camus`, with its traced frames of these views."""

    def read(*views):
        samples = manifest.load((camus,), quarantine=None, workers=1)
        return samples, *truth.traced(samples, views)

    return read


def write_camus(root, patients):
    """CAMUS with pictures that are bright exactly where the mask is; the shape moves."""
    shapes = [ellipse(70, 50, (20 + k, 25 + k), (14, 9)) for k in range(12)]
    for patient, code in itertools.product(range(1, patients + 1), ("2CH", "4CH")):
        folder = root / f"patient000{patient}"
        folder.mkdir(parents=True, exist_ok=True)
        facts = f"ED: 2\nES: 12\nEF: {50 + patient}\nFrameRate: 50\n"
        (folder / f"Info_{code}.cfg").write_text(facts)
        name = f"patient000{patient}_{code}"
        volume_ = 255 * np.stack(shapes).astype(np.uint8).transpose(2, 1, 0)  # x, y, time
        for part, array in (
            ("half_sequence", volume_),
            ("ED_gt", LV * shapes[1].astype(np.uint8).T),
            ("ES_gt", LV * shapes[11].astype(np.uint8).T[..., None]),
        ):
            image = nibabel.Nifti1Image(array, np.diag([0.3, 0.2, 1, 1]))
            nibabel.save(image, folder / f"{name}_{part}.nii.gz")
    (root / "database_split").mkdir()
    for part, patient in (("training", 1), ("validation", 2), ("testing", 3)):
        (root / "database_split" / f"subgroup_{part}.txt").write_text(f"patient000{patient}\n")
    return f"camus:{root}"


def test_a_mask_goes_through_the_crop_and_the_resize_of_the_pixels(traced):
    """The picture of a shape, cut into a clip, and the mask of the shape are the same pixels."""
    samples, frames, _ = traced("A4C")
    assert [(t.frame, t.phase) for _, t in frames] == [(1, ED), (11, ES)], "counted from 1 in CAMUS"
    clip = ClipSpec(4, 32, "stride", 2)
    chosen = [samples[row] for row, _ in frames]
    numbers = np.array([t.frame for _, t in frames])
    (piece,) = truth.masks(frames, samples, clip).encode_frames(chosen, numbers)
    assert not any(piece.errors)
    (batch,) = evaluation_batches(chosen, clip=clip, global_batch=2, shown=Shown(numbers, 2))
    for i, number in enumerate(numbers):
        *_, tubelet = clip_with_frame(12, 50.0, number, length=4, by="stride", value=2, tubelet=2)
        shown = batch["clips"][i, 2 * tubelet, ..., 0] > 127
        assert 60 < shown.sum() < 32 * 32 / 2
        np.testing.assert_array_equal(shown, piece.tokens[i] == LV)
    # Rows are cropped from 70 to the middle 50, and these become 32.
    spacing = 0.2 * 50 / 32, 0.3 * 50 / 32
    assert segmentation._spacing(samples[0], 32) == (pytest.approx(spacing), "mm")


def test_masks_that_do_not_fit_are_counted_and_not_used(camus, traced, caplog):
    file = camus.partition(":")[2] + "/patient0001/patient0001_4CH_ED_gt.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 9), np.uint8), np.eye(4)), file)
    samples, frames, _ = traced()
    model = truth.masks(frames, samples, ClipSpec(4, 32, "stride", 2))
    chosen = [samples[row] for row, _ in frames]
    (piece,) = model.encode_frames(chosen, np.array([t.frame for _, t in frames]))
    assert [bool(error) for error in piece.errors] == [False, False, True, False]
    assert "the mask has 9 x 9 pixels, but the video 50 x 70" in caplog.text


def test_tracings_past_the_end_of_a_video_are_told(camus, traced, caplog):
    info = Path(camus.partition(":")[2]) / "patient0001" / "Info_4CH.cfg"
    info.write_text(info.read_text().replace("ES: 12", "ES: 13"))
    samples, frames, beyond = traced()
    assert len(frames) == 3
    assert [samples[row].view for row in beyond] == ["A4C"]
    assert "1 traced frames are left out, because their video is shorter" in caplog.text


def test_every_structure_of_a_mask_is_kept_by_the_resize():
    labels = np.repeat(np.arange(4, dtype=np.uint8), 16)[None].repeat(64, axis=0)
    np.testing.assert_array_equal(in_clip(labels, 64), labels)
    np.testing.assert_array_equal(np.unique(in_clip(labels, 16)), np.arange(4))


def test_tracings_of_echonet_are_the_masks_of_the_phantom(hearts, tmp_path):
    """The phantom is written in the layout of EchoNet-Dynamic; and as outlines of the other set."""
    found = read_tracings(f"echonet_dynamic:{hearts}")
    assert len(found) == 2 * 8
    folder = tmp_path / "A4C"
    folder.mkdir()
    (folder / "FileList.csv").write_text("FileName,EF,Split\n")
    lines = ["FileName,X,Y,Frame", "x.avi,1,2,No Systolic"]
    for tracing in found:
        _, _, index, view = tracing.name.split("-")
        scene = draw_scene(draw_patient("adult", 0, int(index)), view, size=64, fps=50.0)
        assert tracing.frame == (scene.ed_frame if tracing.phase == ED else scene.es_frame)
        labels = phantom_masks.labels(scene, tracing.frame)
        assert dice(labels == LV, tracing.labels(64, 64) == LV) > 0.94
        points = np.reshape(tracing.outline, (-1, 2))
        lines += [f"{tracing.name}.avi,{x},{y},{tracing.frame}" for x, y in points]
    (folder / "VolumeTracings.csv").write_text("\n".join(lines))
    other = read_tracings(f"echonet_pediatric:{tmp_path}")
    assert [f"A4C/{t.name}" for t in found] == [t.name for t in other]
    np.testing.assert_array_equal(other[3].labels(64, 64), found[3].labels(64, 64))


def test_a_source_without_tracings_is_an_error():
    with pytest.raises(UserError, match="has no tracings, which segmentation needs"):
        read_tracings("videos:/data/clips")


# --- clips ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "value"), [("stride", 3), ("fps", 8), ("duration", 0.7), ("share", 1), ("share", 0.4)]
)
@pytest.mark.parametrize("frames", [5, 20, 61])
def test_a_clip_has_the_traced_frame_as_the_first_one_of_a_tubelet(by, value, frames):
    how = {"length": 8, "by": by, "value": value}
    usual, _ = clip_frame_ids(frames, 30.0, None, **how)
    for frame in range(frames):
        ids, padded, tubelet = clip_with_frame(frames, 30.0, frame, tubelet=2, **how)
        assert ids[2 * tubelet] == frame
        assert len(ids) == 8
        assert (np.diff(ids) >= 0).all()
        assert ids.max() < frames
        if not padded:
            np.testing.assert_array_equal(ids - ids[0], usual - usual[0])
    with pytest.raises(ValueError, match="has no frame"):
        clip_with_frame(frames, 30.0, frames, tubelet=2, **how)


# --- the task -------------------------------------------------------------------------------------

OPTIONS = {"kind": "segmentation", "data": "adult", "views": (), "structures": ("LV", "LA")}
OPTIONS |= {"heads": ("linear+place", "linear"), "ef": "ef"}
SIDE, PLACES = 16, 4


def traced_data(noise=0.05, patients=20) -> Data:
    """Squares of the LV at a random place, the LA below; a token shows what its place has."""
    size = {"height": SIDE, "width": SIDE + 4, "spacing": (2.0, 2.0)}
    samples = [dataclasses.replace(s, **size) for s in samples_of(patients)]
    rng, traced, labels, tokens = np.random.default_rng(0), [], [], []
    for row, sample in enumerate(samples):
        for phase, frame in ((ED, 3), (ES, 9)):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            left = 4 * int(rng.integers(3))
            mask[: 8 if phase == ED else 4, left : left + 4] = LV
            mask[12:, left : left + 4] = LA
            # The crop of a clip leaves two columns out on either side.
            wide = np.pad(mask, ((0, 0), (2, 2)), constant_values=LV)
            traced.append((row, Tracing(sample.name, frame, phase, lambda *_, wide=wide: wide)))
            labels.append(mask)
            blocks = mask.reshape(PLACES, 4, PLACES, 4)[:, 0, :, 0].reshape(-1)
            one = np.eye(4)[blocks]
            tokens.append(one + noise * rng.standard_normal(one.shape))
    count = len(traced)
    at, place = np.arange(count)[:, None], np.full(len(samples), -1)
    repeats = np.zeros((count, 1), bool)

    def features(values):
        return Features(place, np.array(values, np.float32), at, np.ones(count, bool), repeats, {})

    found = {TRACED: features(tokens), MASKS: features(labels)}
    return Data("adult", samples, SPLITS, 4, found, traced)


def test_a_head_with_a_bias_for_each_place_knows_the_mean_mask():
    """Tokens that say nothing: without places, everything is the commonest class."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:12, 4:12] = LV
    labels = np.repeat(mask[None], 20, axis=0)
    frames = fit_masks.Frames(np.zeros((20, PLACES**2, 3), np.float32), labels, np.arange(4))
    probe = probe_config(epochs=1)
    train, val, test = np.split(np.arange(20), [12, 16])
    heads = [fit_masks.fit(frames, train, val, probe, 0, by_place) for by_place in (True, False)]
    found = [fit_masks.predict(head, test, 4) for head in heads]
    assert dice(found[0][0] == LV, mask == LV) > 0.9
    assert not found[1].any()


def test_masks_at_the_resolution_of_tokens():
    """A straight border can lie between centres of tokens; a single pixel cannot be shown."""
    masks = np.zeros((2, 16, 16), np.uint8)
    masks[0, :, :7] = masks[1, 5, 5] = 1
    found = fit_masks.at_tokens(masks, 2, 4)
    np.testing.assert_array_equal(found[0], masks[0])
    assert found[1].sum() != 1


def test_the_loss_is_cross_entropy_and_what_dice_lacks():
    """By hand, with one token for each pixel: probabilities 1/2 and 3/4 of the true class."""
    logits = np.array([[[0, 0], [0, np.log(3)], [0, 0], [np.log(3), 0]]], np.float32)
    masks = np.array([[[1, 1], [0, 0]]])
    params = {"kernel": np.eye(2, dtype=np.float32), "bias": np.zeros(2, np.float32)}
    loss = fit_masks.loss_fn(params, logits, masks, np.ones(1, np.float32))
    entropy = -(2 * np.log(1 / 2) + 2 * np.log(3 / 4)) / 4
    overlap = 2 * (1 / 2 + 3 / 4) / (2 + 1 / 2 + 3 / 4 + 1 / 2 + 1 / 4)
    assert float(loss) == pytest.approx(entropy + 1 - overlap, rel=1e-6)


def run(data, **changes):
    probe = probe_config(mask_rates=(0.3, 0.03), epochs=15)
    return segmentation.run({"adult": data}, ConfigDict(OPTIONS | changes), probe, 0)


def test_masks_of_the_test_split_neither_train_nor_choose(monkeypatch):
    data, seen = traced_data(), []
    real = segmentation.fit

    def fit(frames, *rows_and_more, **how):
        seen.extend(rows_and_more[:2])
        return real(frames, *rows_and_more, **how)

    monkeypatch.setattr(segmentation, "fit", fit)
    run(data)
    splits = [{data.samples[data.traced[row][0]].split for row in rows} for rows in seen]
    assert splits == [{"train"}, {"val"}] * 2  # of two heads


def test_a_linear_head_finds_what_tokens_show():
    lv, lv_linear, la, la_linear, found, _, true = run(traced_data())
    names = [tuple(cell.variant.values()) for cell in (lv, lv_linear, la, la_linear)]
    assert names == [*itertools.product(("LV", "LA"), ("linear+place", "linear"))]
    assert (lv.kind, lv.unit) == (SEGMENTATION, "mm")
    assert len(lv.ids) == len(lv.predicted) == 2 * len(found.ids)
    assert lv.not_scored == found.not_scored == 0
    for cell in (lv, lv_linear, la, la_linear):
        scores = dict(zip(MEASURES, np.mean(cell.predicted, axis=0), strict=True))
        guess = dict(zip(MEASURES, np.mean(cell.guess, axis=0), strict=True))
        assert scores["limit"] + 0.05 > scores["dice"] > 0.85 > guess["dice"]
        assert scores["hd95"] < guess["hd95"]
        # Four columns of the LV are outside; inside it is 4 wide, and 8 or 4 high.
        cut = [64 / (64 + 32), 64 / (64 + 16)] if cell.variant["structure"] == "LV" else [0]
        assert scores["cut_off"] == guess["cut_off"] == pytest.approx(100 * np.mean(cut))
    # Volumes of true masks do not depend on the head: twice as high, hence half is ejected.
    assert [c.variant["masks"] for c in (found, true)] == ["found", "true"]
    assert found.unit == "%"
    picture = lv.pictures[0]
    mask = segmentation.unpacked(picture["true"], picture["size"])
    assert set(np.unique(mask)) == {0, 1, 2}


def test_what_cannot_be_read_is_counted():
    data = traced_data()
    whole = run(data)
    test = [i for i, (row, _) in enumerate(data.traced) if data.samples[row].split == "test"]
    masks = data.features[MASKS]
    there = masks.there.copy()
    there[test[0]] = False
    features = {**data.features, MASKS: dataclasses.replace(masks, there=there)}
    lv, _, _, _, ef, *_ = run(dataclasses.replace(data, features=features))
    assert lv.not_scored == 1
    assert lv.ids == whole[0].ids[1:]
    assert ef.not_scored == 1
    # So does a structure that was traced, but has no pixel in the clip.
    labels = masks.tokens.copy()
    labels[test[0]][labels[test[0]] == LA] = 0
    features = {**data.features, MASKS: dataclasses.replace(masks, tokens=labels)}
    lv, _, la, *_ = run(dataclasses.replace(data, features=features))
    assert (lv.not_scored, la.not_scored) == (0, 1)
    # A test video without any traced frame counts as well.
    kept = [i for i in range(len(data.traced)) if i not in test[:2]]
    fewer = {
        name: dataclasses.replace(f, tokens=f.tokens[kept], there=f.there[kept], at=f.at[kept])
        for name, f in data.features.items()
    }
    traced = [data.traced[i] for i in kept]
    lv, *_ = run(dataclasses.replace(data, features=fewer, traced=traced))
    assert lv.not_scored == 1
    # And tracings past the end of their video, here both of it.
    beyond = [data.traced[i][0] for i in test[:2]]
    lv, *_ = run(dataclasses.replace(data, features=fewer, traced=traced, beyond=beyond))
    assert lv.not_scored == 2
    # So does one whose file was rejected.
    rejected = [dataclasses.replace(data.samples[data.traced[test[0]][0]], name="damaged")]
    data = dataclasses.replace(data, features=fewer, traced=traced, rejected=rejected)
    lv, *_ = run(data)
    assert lv.not_scored == 2


def test_a_video_without_an_lv_is_kept_without_a_number(monkeypatch):
    """It was left out for the model that did not find the LV, and for no other."""

    predict = segmentation.predict

    def blind(*arguments):
        found = predict(*arguments)
        found[0] = 0  # end diastole of the first video
        return found

    monkeypatch.setattr(segmentation, "predict", blind)
    ef = next(cell for cell in run(traced_data()) if cell.variant.get("masks") == "found")
    assert np.flatnonzero(np.isnan(ef.predicted)).tolist() == [0]
    assert ef.not_scored == 0


def test_a_structure_that_was_never_traced_is_an_error():
    with pytest.raises(UserError, match="shows the structure 'myocardium': leave it out"):
        run(traced_data(), structures=("LV", "myocardium"))


def test_the_suite_on_camus(tmp_path, cache):
    """From files to tables. All patients are alike, so the guess is where both masks are."""
    source = write_camus(tmp_path / "camus", 3)
    weights = random_weights(parts=("encoder",), clip=ClipInput(4, 32, "stride", 2))
    write_weights(weights, tmp_path / "encoder", "safetensors")
    config = phantom.get_config()
    with config.unlocked():
        config.tasks = {"masks": config.tasks.segmentation.to_dict() | {"structures": ("LV",)}}
        config.data = {"adult": config.data.adult.to_dict() | {"sources": (source,)}}
    config.weights, config.bootstrap = (str(tmp_path / "encoder"),), 5
    evaluate(config, tmp_path / "run")
    lines = tables.rows(tmp_path / "run" / "tables.csv")
    found = {(x["model"], x["variant"], x["score"]): x for x in lines}
    assert {model for model, *_ in found} >= {"encoder", "initial", "pca"}
    variant = "structure=LV; head=linear+place"
    guess = found["mean mask of training", variant, "dice"]
    shapes = [ellipse(70, 50, (20 + k, 25 + k), (14, 9)) for k in (1, 11)]
    both = [in_clip(shape.astype(np.uint8), 32) for shape in shapes]
    expected = np.mean([dice(mask == LV, (both[0] & both[1]) == LV) for mask in both])
    assert float(guess["value"]) == pytest.approx(expected)
    assert (guess["examples"], guess["patients"], guess["unit"]) == ("4", "1", "")
    units = {score: found["pca", variant, score]["unit"] for score in ("dice", "hd95", "cut_off")}
    assert units == {"dice": "", "hd95": "mm", "cut_off": "%"}
    # Bright pixels are enough to see the shape.
    assert float(found["pca", variant, "dice"]["value"]) > 1.5 * expected
    cut = np.mean([1 - shape[10:60].sum() / shape.sum() for shape in shapes])
    assert float(found["pca", variant, "cut_off"]["value"]) == pytest.approx(100 * cut)


def test_structures_have_the_numbers_of_camus():
    assert STRUCTURES == ("background", "LV", "myocardium", "LA")
