"""Faults of other evaluations of echo models that are known: each would fail a test here."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.spatial.distance import cosine

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.evaluation import fit as fits
from echojepa_jax.evaluation import stored
from echojepa_jax.evaluation.data import divided, load
from echojepa_jax.evaluation.fit import HowToFit, fit, predict
from echojepa_jax.evaluation.tasks import (
    classification,
    geometry,
    multiview,
    regression,
    robustness,
    transfer,
)
from echojepa_jax.features.encode import EncodedClips
from echojepa_jax.probes.examples import share_of
from echojepa_jax.utils.errors import UserError
from tests.makers.labelled import SPLITS, VIEWS, data_of, probe_config

pytestmark = pytest.mark.slow

LVEF = {"data": "adult", "target": "ef", "views": (), "heads": ("linear",), "by_study": False}


@pytest.fixture(scope="module")
def adult():
    return data_of()


def lvef(data, seed=0, **changes):
    return regression.run({"adult": data}, ConfigDict(LVEF | changes), probe_config(), seed)


VIEW = {"data": "adult", "target": "view", "views": (), "heads": ("linear",), "shares": (1.0,)}
VIEW |= {"subsets": ("patient",), "lengths": ("epochs",)}
VIEW |= {"class_weights": False, "focal_gamma": 0.0, "by_study": False}


def classified(data, seed=0, **changes):
    return classification.run({"adult": data}, ConfigDict(VIEW | changes), probe_config(), seed)


def transferred(data, **changes):
    options = {"data": "adult", "to": "child", "target": "ef", "views": (), "head": "linear"}
    options |= {"alone": (), "ages": ()}
    return transfer.run(data, ConfigDict(options | changes), probe_config(), 0)


def test_labels_keep_their_fractions(adult):
    """Labels were read as integers: z-scores within one SD became 0, and errors looked small."""
    (cell,) = lvef(adult)
    truth = {s.name: s.targets["ef"] for s in adult.samples}
    assert cell.true == [truth[name] for name in cell.ids]
    assert any(Fraction(value).denominator > 1 for value in cell.true)
    train = [s.targets["ef"] for s in adult.samples if s.split == "train"]
    assert cell.guess == pytest.approx(np.mean(train), abs=1e-12)


def test_every_test_video_is_scored_once_and_no_other(adult):
    """Lists named validation files, samplers repeated videos, or the last batch was left out."""
    (cell,) = lvef(adult)
    assert cell.ids == [s.name for s in adult.samples if s.split == "test"]
    assert len(cell.ids) % probe_config().batch, "the last batch is not full"
    assert cell.not_scored == 0


def test_a_video_that_cannot_be_read_is_counted_and_not_replaced(adult):
    """Broken videos were replaced by random other ones, in the test split too."""
    (whole,) = lvef(adult)
    features = adult.features[None]
    broken = next(row for row, s in enumerate(adult.samples) if s.split == "test")
    there = features.there.copy()
    there[broken] = False
    without = dataclasses.replace(features, there=there, errors={broken: "damaged"})
    (cell,) = lvef(dataclasses.replace(adult, features={None: without}))
    assert cell.not_scored == 1
    assert cell.ids == whole.ids[1:]
    np.testing.assert_allclose(cell.predicted, whole.predicted[1:], rtol=1e-5)


def test_a_video_without_a_label_is_counted(adult):
    samples = list(adult.samples)
    row = next(row for row, s in enumerate(samples) if s.split == "test")
    samples[row] = dataclasses.replace(samples[row], targets={})
    assert lvef(dataclasses.replace(adult, samples=samples))[0].not_scored == 1


def test_the_best_head_of_validation_is_scored_whatever_the_test_labels_are(adult, monkeypatch):
    """The first head of the grid was scored whichever was best, or the best on the test split."""
    parts = divided(adult, "regression", "ef", (), study=False)
    validate, seen = fits._validate, []

    def spy(*arguments):
        found = validate(*arguments)
        seen.append(found[0])
        return found

    monkeypatch.setattr(fits, "_validate", spy)
    probe = probe_config(learning_rates=(1e-9, 3e-2))
    features = adult.features[None]
    fitted = fit(HowToFit("linear"), features, parts.train, parts.val, parts.task, probe, 0)
    assert fitted.chosen["val"] == pytest.approx(np.min(seen), abs=1e-9)
    assert fitted.chosen["head"] == "lr0.03_wd0.01"
    shuffled = [
        dataclasses.replace(s, targets={"ef": 50.0 + row % 7}) if s.split == "test" else s
        for row, s in enumerate(adult.samples)
    ]
    (other,) = lvef(dataclasses.replace(adult, samples=shuffled))
    assert other.predicted == lvef(adult)[0].predicted


def test_the_head_that_was_trained_is_the_one_that_predicts(adult):
    """Weights of the probe were not loaded at inference."""
    parts = divided(adult, "regression", "ef", (), study=False)
    features, probe = adult.features[None], probe_config()
    for head in ("linear", "pca3-linear", "mlp", "attentive-2"):
        fitted = fit(HowToFit(head), features, parts.train, parts.val, parts.task, probe, 0)
        found, readable = predict(fitted, features, parts.val, 3)
        away = np.abs(found - [example.label for example in parts.val])
        assert readable.all()
        assert away.mean() == pytest.approx(fitted.chosen["val"], rel=1e-5)


def test_features_in_another_order_than_their_videos_are_refused():
    """Embeddings were stored in a shuffled order."""
    rows = np.array([0, 2, 1])
    piece = EncodedClips(rows, np.full(3, ""), np.zeros(3, int), np.zeros((3, 1, 2), np.float32))
    with pytest.raises(RuntimeError, match="another order"):
        list(stored._checked(iter([piece]), np.ones((3, 1), bool)))
    with pytest.raises(RuntimeError, match="1 of 3 clips"):
        list(stored._checked(iter([piece.cut(0, 1)]), np.ones((3, 1), bool)))


def section_of(folder, lines, header="path,name,patient,split"):
    """A section of a suite's `data` that reads a table."""
    table = folder / "table.csv"
    table.write_text("\n".join([header, *lines]))
    section = {"sources": (f"csv:{table}",), "max_bad_share": 0.5, "workers": 1}
    section |= dict(zip(("train_split", "val_split", "test_split"), SPLITS, strict=True))
    return ConfigDict(section)


def test_a_patient_in_two_splits_is_an_error(videos, tmp_path):
    lines = [f"{path},{path.stem},{'ABAC'[i % 4]},{SPLITS[i % 3]}" for i, path in enumerate(videos)]
    with pytest.raises(UserError, match=r"patient A is in split .* and in split"):
        load("mine", section_of(tmp_path, lines), tmp_path / "rejected.jsonl", True)


def test_a_damaged_file_and_a_file_of_another_split_are_counted(videos, tmp_path, caplog):
    """They were left out without a word: damaged test videos did not count as not scored."""
    paths = [*videos, tmp_path / "gone.avi", tmp_path / "no.avi"]
    parts = ("train", "holdout", "train", "", "val", "holdout", "test", "test", "test", "train")
    lines = [
        f"{path},{path.stem},p{i},s{i},{part},{'A2C' if i % 2 else 'A4C'},{i}.5"
        for i, (path, part) in enumerate(zip(paths, parts, strict=True))
    ]
    section = section_of(tmp_path, lines, "path,name,patient,study,split,view,ef")
    data = load("mine", section, tmp_path / "rejected.jsonl", True)
    assert (len(data.samples), [s.name for s in data.rejected]) == (5, ["gone", "no"])
    assert data.outside == {"holdout": 2, "no split": 1}
    assert "3 files in none of the splits train, val, test, left out: holdout 2" in caplog.text
    views = {
        (views, study): divided(data, "regression", "ef", views, study).not_scored
        for views in ((), ("A4C",))
        for study in (False, bool(views))
    }
    assert views == {((), False): 1, (("A4C",), False): 1, (("A4C",), True): 1}
    without = dataclasses.replace(data, rejected=[])
    assert divided(without, "regression", "ef", (), False).not_scored == 0


def test_zero_shot_compares_raw_targets_of_the_other_population():
    """Targets were scaled with another population's mean and SD, or were of the first one."""
    adult, child = data_of(), data_of(20, "child")
    cells = transferred({"adult": adult, "child": child}, alone=("A4C",))
    at_home, zero_shot, retrained, a4c, _ = cells
    truth = {s.name: s.targets["ef"] for s in child.samples if s.split == "test"}
    for cell in (zero_shot, retrained):
        assert dict(zip(cell.ids, cell.true, strict=True)) == truth
    assert set(a4c.views) == {"A4C"}
    assert zero_shot.guess == at_home.guess  # the mean of its own training
    assert retrained.guess != at_home.guess
    assert retrained.against == zero_shot.variant
    # It learned EF in percent, of hearts that differ from these in nothing but their names.
    assert np.abs(np.subtract(zero_shot.predicted, zero_shot.true)).mean() < 5


def test_subsets_are_nested_and_by_patient_or_of_the_papers_size():
    """The paper's formula gives its 221 and 2158 videos."""
    counts = (1788, 1442, 4223, 894, 2040, 3274, 382, 2019, 445, 1470, 259, 1677, 1616)
    example = divided(data_of(), "classification", "view", (), study=False).train[0]
    many = [
        dataclasses.replace(example, name=f"{k}-{i}", label=f"v{k}")
        for k, count in enumerate(counts)
        for i in range(count)
    ]
    one, ten = (classification.by_video(many, share, 1) for share in (0.01, 0.1))
    assert (len(one), len(ten)) == (221, 2158)
    assert {e.name for e in one} < {e.name for e in ten}
    train = divided(data_of(), "classification", "view", (), study=False).train
    few, more = (share_of(train, share, 1) for share in (0.1, 0.5))
    assert {e.name for e in few} < {e.name for e in more}
    for chosen in (few, more):
        patients = {e.patient for e in chosen}
        assert [e for e in train if e.patient in patients] == chosen


def test_few_labels_know_all_classes_and_get_as_many_updates(adult):
    whole, epochs, updates = classified(adult, shares=(1.0, 0.05), lengths=("epochs", "updates"))
    assert whole.classes == epochs.classes == list(VIEWS)
    assert np.shape(epochs.predicted)[1] == 3
    assert updates.chosen["updates"] == whole.chosen["updates"] > epochs.chosen["updates"]
    assert np.mean(np.argmax(whole.predicted, axis=1) == whole.true) > 0.9


def test_rare_classes_can_count_as_much_as_common_ones(adult):
    parts = divided(adult, "classification", "view", (), study=False)
    labelled = [(i, e) for i, e in enumerate(parts.train) if e.label != "PLAX"]
    few = [e for i, e in labelled if e.label == "A2C" or i % 3]
    arguments = adult.features[None], few, parts.task, len(few)
    for how in (HowToFit("linear"), HowToFit("linear", class_weights=True)):
        _, batch = next(fits._batches(*arguments, how, 0))
        a2c, a4c = (batch["weight"][batch["labels"] == k].sum() for k in (0, 1))
        assert (a2c == pytest.approx(a4c)) == how.class_weights
    changes = {}, {"class_weights": True}, {"focal_gamma": 2.0}
    assert len({str(classified(adult, **change)[0].predicted) for change in changes}) == 3


def test_a_missing_view_has_no_say(adult):
    """What a slot without a video holds must not matter, nor must a view that is not asked for."""
    parts = divided(adult, "regression", "ef", VIEWS, study=True)
    features, probe = adult.features[None], probe_config()
    how = HowToFit("attentive-1", views=3, streams=True, view_dropout=0.3)
    fitted = fit(how, features, parts.train, parts.val, parts.task, probe, 0)
    found, _ = predict(fitted, features, parts.test, 4)
    # Where a view is missing, the last tokens stand in its place.
    changed = dataclasses.replace(features, tokens=features.tokens.copy())
    changed.tokens[-1] = 1e3
    again, _ = predict(fitted, changed, parts.test, 4)
    assert all(() in example.rows for example in parts.test)
    np.testing.assert_array_equal(found[:-1], again[:-1])
    assert found[-1] != again[-1]


def test_ablations_are_one_at_a_time_and_cumulative(adult):
    options = {"data": "adult", "target": "ef", "views": VIEWS, "head": "attentive-1"}
    options |= {"view_dropout": 0.2, "ablations": True}
    cells = multiview.run({"adult": adult}, ConfigDict(options), probe_config(epochs=2), 0)
    assert [c.variant["without"] for c in cells] == [
        *("", "embeddings", "early fusion", "view dropout"),
        *("embeddings, early fusion", "embeddings, early fusion, view dropout"),
    ]
    base, *others = cells
    # Labels of studies were cut off as well.
    truth = {s.study: s.targets["ef"] for s in adult.samples}
    assert base.true == [truth[name] for name in base.ids]
    assert any(Fraction(value).denominator > 1 for value in base.true)
    assert base.against is None
    assert all(c.against == base.variant and c.predicted != base.predicted for c in others)


def test_a_probe_of_clean_videos_is_scored_on_degraded_ones():
    kinds = ("gain", "shadow")
    perturbations = [Perturbation(k, s) for k in kinds for s in ("low", "medium", "high")]
    data = data_of(perturbations=perturbations)
    options = {"data": "adult", "target": "ef", "views": (), "head": "linear"}
    options = ConfigDict(options | {"perturbations": kinds})
    needed = robustness.needs(options)
    assert needed == [("adult", None), *(("adult", p) for p in perturbations)]
    clean, *degraded = robustness.run({"adult": data}, options, probe_config(), 0)
    assert clean.predicted == lvef(data)[0].predicted
    assert len(degraded) == 6
    for cell in degraded:
        assert (cell.ids, cell.true) == (clean.ids, clean.true)
        assert cell.chosen == clean.chosen
        assert cell.against == clean.variant
        assert cell.predicted != clean.predicted


def test_a_mean_over_a_study_is_of_predictions_and_patients_stay_together(adult):
    video, study = lvef(adult, by_study=True)
    assert len(study.true) * 2 == len(video.true)
    for i, name in enumerate(study.ids):
        rows = [row for row, other in enumerate(video.studies) if other == name]
        assert study.predicted[i] == pytest.approx(np.mean([video.predicted[r] for r in rows]))
        assert study.true[i] == video.true[rows[0]]


def test_components_and_scales_are_fitted_on_training_alone(adult):
    features = adult.features[None]
    rows = [row for row, s in enumerate(adult.samples) if s.split == "train"]
    changed = dataclasses.replace(features, tokens=features.tokens.copy())
    others = [row for row in range(len(adult.samples)) if row not in rows]
    changed.tokens[others] = 7
    for name in ("attentive-1", "pca3-linear"):
        choice = fits.head_choice(name)
        one, two = (fits.fit_look(f, rows, choice, True) for f in (features, changed))
        np.testing.assert_array_equal(one.shift, two.shift)
        np.testing.assert_array_equal(one.scale, two.scale)
        seen = one.of(features).tokens[np.array(rows)]
        np.testing.assert_allclose(seen.mean(axis=(0, 1)), 0, atol=1e-5)
        np.testing.assert_allclose(seen.std(axis=(0, 1)), 1, atol=1e-5)


def test_a_class_that_training_lacks_is_an_error(adult):
    videos = [dataclasses.replace(s, view="SSN") if s.split == "test" else s for s in adult.samples]
    other = dataclasses.replace(adult, samples=videos)
    with pytest.raises(UserError, match=r"\['SSN'\] of 'view' do not occur in the training split"):
        divided(other, "classification", "view", (), study=False)


def test_a_seed_is_of_the_subset_the_probe_and_the_order(adult):
    """Subsets of few labels had seeds, but the probes on them had none."""

    def predicted(seed):
        cells = classified(adult, seed, shares=(0.3,), subsets=("patient", "video"))
        return [cell.predicted for cell in cells]

    assert predicted(1) == predicted(1)
    assert all(one != two for one, two in zip(predicted(1), predicted(2), strict=True))
    train = divided(adult, "classification", "view", (), study=False).train
    for draw in (share_of, classification.by_video):
        assert draw(train, 0.3, 1) != draw(train, 0.3, 2)
    # On all labels, a seed is of the probe alone.
    assert lvef(adult, 1)[0].predicted != lvef(adult, 2)[0].predicted


def test_embeddings_that_collapsed_are_seen_without_labels():
    """Embeddings of another hospital pointed the same way, and nobody looked."""
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((50, 6))
    line = np.outer(rng.standard_normal(50), np.ones(6))
    same = 1 + 1e-3 * spread
    healthy, flat, collapsed = map(geometry.measures, (spread, line, same))
    assert healthy["effective_rank"] > 5
    assert flat["effective_rank"] == pytest.approx(1, abs=1e-3)
    pairs = [1 - cosine(a, b) for i, a in enumerate(spread) for b in spread[:i]]
    assert healthy["mean_cosine"] == pytest.approx(np.mean(pairs))
    assert collapsed["mean_cosine"] > 0.999
    assert collapsed["variance"] == pytest.approx(1e-6 * healthy["variance"], rel=1e-6)


def test_a_view_that_is_not_there_is_an_error_and_not_fewer_videos(adult):
    told = "shows the view 'A5C' of this task; its views are A2C, A4C"
    with pytest.raises(UserError, match=told):
        lvef(adult, views=("A4C", "A5C"))


def test_errors_by_age_are_of_the_same_predictions():
    child = data_of(60, "child")
    samples = [
        dataclasses.replace(s, targets=s.targets | ({"age": float(row % 3)} if row % 7 else {}))
        for row, s in enumerate(child.samples)
    ]
    child = dataclasses.replace(child, samples=samples)
    data = {"adult": data_of(), "child": child}
    _, everybody, _, *groups = transferred(data, ages=(1.0, 2.0))
    zero_shot = groups[::2]
    assert [c.variant["age"] for c in zero_shot] == ["below 1", "1 to 2", "2 and more"]
    answer = dict(zip(everybody.ids, everybody.predicted, strict=True))
    age = {s.name: s.targets.get("age", -1) for s in samples}
    for cell, ages in zip(zero_shot, ({0}, {1}, {2}), strict=True):
        assert cell.ids == [name for name in everybody.ids if age[name] in ages]
        assert cell.predicted == [answer[name] for name in cell.ids]
