"""Probe runs as a whole: complete, resumable, the same on any number of devices."""

import json
import logging
import os
import re
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from echojepa_jax.api import load_encoder, load_probe, worst_and_best
from echojepa_jax.data import manifest
from echojepa_jax.data.clips.sampling import clip_frame_ids
from echojepa_jax.data.formats.decode import decode
from echojepa_jax.features import encode
from echojepa_jax.preparation.plan import Options
from echojepa_jax.probes import finetune, held_out, training
from echojepa_jax.probes.reading import reading
from echojepa_jax.probes.run import score_on
from echojepa_jax.probes.saved import load_probe as load_saved
from echojepa_jax.probes.task import Task
from echojepa_jax.report.probe_page import write_probe_report
from echojepa_jax.train.load_weights import load_encoder_weights
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import original
from echojepa_jax.utils.metrics_writer import read_lines
from echojepa_jax.weights.read import read_weights
from echojepa_jax.weights.write import write_weights
from tests import programs
from tests.makers.calls import before, interrupt_at
from tests.makers.configs import PHANTOM
from tests.makers.prepared import prepared
from tests.makers.tables import rows, write_rows

pytestmark = pytest.mark.slow

LVEF = "--config=configs/probes/phantom_lvef.py"


def lines(workdir, name="predictions.csv"):
    return rows(workdir / name)


def metrics_of(workdir):
    return json.loads((workdir / "metrics.json").read_text())


@pytest.fixture(scope="module")
def samples(cache):
    return manifest.load((PHANTOM,), quarantine=None, workers=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("probe") / "run"


@pytest.fixture
def lvef(finished, run_probe):
    """A finished run of the program: the shipped config, shrunken."""
    if not finished.exists():
        done = run_probe(LVEF, f"--workdir={finished}")
        assert done.returncode == 0, done.stderr
        assert re.search(r"head: \S+ parameters, trained with each of 2 learning", done.stderr)
        # The first epoch compiles: it says nothing of the time that is left.
        assert re.search(r"epoch 1/3  val MAE .* at epoch 1\)\n", done.stderr)
        assert re.search(r"epoch 2/3  val MAE .*s left", done.stderr)
        last = done.stdout.strip().splitlines()[-1]
        said = rf"complete: ef: MAE .* on 4 examples of 2 patients\. The report is {finished}/"
        assert re.fullmatch(said + r"report\.html", last), last
    return finished


def test_a_run_leaves_what_is_promised(lvef, samples):
    test = [sample for sample in samples if sample.split == "test"]
    found = lines(lvef)
    assert [line["id"] for line in found] == [sample.name for sample in test]
    for line, sample in zip(found, test, strict=True):
        assert float(line["target"]) == sample.targets["ef"]
        assert np.isfinite(float(line["prediction"]))
        assert float(line["spread"]) >= 0
        assert (line["study"], line["view"], line["status"]) == (sample.study, sample.view, "ok")
    result = metrics_of(lvef)
    assert set(result["test"]["scores"]) == {"mae", "rmse", "r2", "pearson"}
    error = [abs(float(line["target"]) - float(line["prediction"])) for line in found]
    assert result["test"]["scores"]["mae"]["value"] == pytest.approx(np.mean(error))
    assert result["study"]["examples"] == 2
    assert len(lines(lvef, "studies.csv")) == 2
    # The clinical reading comes from the table; its thresholds, which validation chose, do not.
    about = json.loads((lvef / "probe.json").read_text())
    task = Task(**about["task"] | {"classes": ()})
    found_in_table = reading(task, found, dict(about["thresholds"]), 50, 0)
    assert result["clinical"] == json.loads(json.dumps(found_in_table))
    assert result["clinical"]["scored"] == 4
    assert {line["flag"] for line in found} <= {"far", "near"}
    for line in found:
        assert (line["flag"] == "far") == (float(line["distance"]) > 1)
    epochs = [line["step"] for line in read_lines(lvef / "metrics.jsonl")]
    assert epochs == [1, 2, 3]
    assert re.search("<svg|data:image", (lvef / "report.html").read_text())
    # The report shows the beginning of the worst video.
    with np.load(lvef / "worst.npz") as pictures:
        assert pictures["rows"].tolist() == np.argsort(error)[::-1].tolist()
        (first,) = decode(test[pictures["rows"][0]].path, np.array([0]))
        np.testing.assert_array_equal(pictures["picture_0"][:, : first.shape[1]], first)
    facts = json.loads((lvef / "manifest.json").read_text())
    assert facts["command"].startswith("python -m echojepa_jax.probe ")
    assert (lvef / "best").is_dir()
    assert (lvef / "checkpoints" / "00000003").is_dir()


def test_the_worst_and_the_best_cases_are_there_from_python(lvef, samples, tmp_path):
    worst, best = worst_and_best(lvef)
    found = {line["id"]: line for line in lines(lvef)}
    videos = {sample.name: sample for sample in samples}
    errors = [abs(case.true - case.predicted) for case in worst]
    assert len(errors) == 4
    assert errors == sorted(errors, reverse=True)
    assert [case.name for case in best] == [case.name for case in worst[:1:-1]]
    for case in (*worst, *best):
        line = found[case.name]
        told = line["view"], float(line["target"]), float(line["prediction"])
        assert (case.view, case.true, case.predicted) == told
        (first,) = decode(videos[case.name].path, np.array([0]))
        np.testing.assert_array_equal(case.picture[:, : first.shape[1]], first)
    with pytest.raises(UserError, match="finish the probe run"):
        worst_and_best(tmp_path)

    # Pictures count the examples that could be read; of classes, values are names.
    shutil.copy(lvef / "worst.npz", tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"task": {"kind": "classification"}}))
    broken = {"id": "broken", "status": "unreadable: cut off"}
    write_rows(tmp_path / "predictions.csv", [found[worst[0].name] | broken, *lines(lvef)])
    again, _ = worst_and_best(tmp_path)
    assert [case.name for case in again] == [case.name for case in worst]
    assert again[0].true == found[worst[0].name]["target"]


def test_f07_f12_a_finished_run_is_not_touched_again(lvef, run_probe):
    before = {path: path.stat().st_mtime_ns for path in lvef.rglob("*") if path.is_file()}
    again = run_probe(LVEF, f"--workdir={lvef}")
    assert again.stdout.startswith(f"{lvef} is complete: nothing to do")
    other = run_probe("--config=configs/probes/phantom_multiview.py", f"--workdir={lvef}")
    sentence = r"was started with another config, .*head\.streams"
    assert re.search(sentence, programs.error_of(other))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_f07_a_finished_run_of_an_earlier_version_is_complete_as_well(lvef, tmp_path, run_probe):
    folder = tmp_path / "run"
    shutil.copytree(lvef, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["optim"]["class_weights"], config["optim"]["focal_gamma"]
    (folder / "config.json").write_text(json.dumps(config))
    again = run_probe(LVEF, f"--workdir={folder}")
    assert again.stdout.startswith(f"{folder} is complete: nothing to do"), again.stderr


def test_what_validation_tells_is_kept_with_the_probe_and_used_elsewhere(
    tiny_probe, train_probe, tmp_path, monkeypatch, samples
):
    """Thresholds, heads of the grid and the training data; without them, cells are empty."""
    seen, told = [], []

    def spy(task, true, predicted):
        seen.append(true.tolist())
        return {50.0: float(np.median(predicted))}

    def learn(setting, best):
        told.append(held_out.held_out(setting, best))
        return told[-1]

    monkeypatch.setattr(held_out, "thresholds", spy)
    monkeypatch.setattr(held_out, "beats_the_guess", lambda *_: np.array([True, True]))
    monkeypatch.setattr("echojepa_jax.probes.run.held_out", learn)
    train_probe(tiny_probe(head__kind="linear", eval__bootstrap=5), tmp_path / "run")
    assert seen == [[s.targets["ef"] for s in samples if s.split == "val"]]
    probe = load_saved(tmp_path / "run", with_heads=True)
    assert probe.thresholds == told[0].thresholds
    jax.tree.map(np.testing.assert_array_equal, probe.heads, told[0].heads)
    score_on(tmp_path / "run", [PHANTOM], "train", "", tmp_path / "train")
    clinical = metrics_of(tmp_path / "train")["clinical"]
    assert clinical["cutoffs"][0]["threshold"] == probe.thresholds[50.0]
    found = lines(tmp_path / "train")
    for line in found:
        assert float(line["spread_heads"]) > 0
        assert float(line["distance"]) > 0
    assert len(found) == 14
    # The same numbers as from embeddings of the Python API.
    first = next(s for s in samples if s.name == found[0]["id"])
    tokens = load_probe(tmp_path / "run").encoder._encode(first.path, 2, "motion")
    distance = probe.familiar.distances(tokens.mean(axis=(0, 1))[None])[0]
    assert distance == pytest.approx(float(found[0]["distance"]), rel=1e-3)

    # As an earlier version would have written it.
    about = json.loads((tmp_path / "run" / "probe.json").read_text())
    del about["thresholds"]
    (tmp_path / "run" / "probe.json").write_text(json.dumps(about))
    (tmp_path / "run" / "heads.safetensors").unlink()
    arrays = load_file(tmp_path / "run" / "head.safetensors")
    mine = {name: x for name, x in arrays.items() if not name.startswith("familiar.")}
    assert len(mine) < len(arrays)
    save_file(mine, tmp_path / "run" / "head.safetensors")
    score_on(tmp_path / "run", [PHANTOM], "train", "", tmp_path / "older")
    older = lines(tmp_path / "older")
    assert [line["prediction"] for line in older] == [line["prediction"] for line in found]
    for name in ("spread_heads", "distance", "flag"):
        assert {line[name] for line in older} == {""}
    assert load_probe(tmp_path / "run").predict(first.path).flag == ""
    assert metrics_of(tmp_path / "older")["clinical"]["cutoffs"][0]["threshold"] is None
    write_probe_report(tmp_path / "older")


def test_f17_a_stopped_run_continues_to_the_same_head(
    tiny_probe, train_probe, tmp_path, monkeypatch
):
    interrupt_at(monkeypatch, training, "_validate", 2)
    with pytest.raises(KeyboardInterrupt):
        train_probe(tiny_probe(), tmp_path / "run")
    for name in ("run", "whole"):
        train_probe(tiny_probe(), tmp_path / name)
    for file in ("head.safetensors", "predictions.csv"):
        run, whole = ((tmp_path / name / file).read_bytes() for name in ("run", "whole"))
        assert run == whole
    assert [line["step"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]


def test_a_run_does_not_go_on_with_other_weights(
    tiny_probe, train_probe, tmp_path, encoder_folder, monkeypatch
):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    config = tiny_probe(weights=str(folder), head__kind="linear")

    def full(*_):
        raise UserError("stopped after the first epoch")

    monkeypatch.setattr(training, "_log", full)
    with pytest.raises(UserError, match="stopped after the first epoch"):
        train_probe(config, tmp_path / "run")
    monkeypatch.undo()
    weights = read_weights(folder)
    weights.params["encoder"]["norm"]["bias"][0] += 1
    shutil.rmtree(folder)
    write_weights(weights, folder, "safetensors")
    with pytest.raises(UserError, match=r"the weights that .* was started from have changed"):
        train_probe(config, tmp_path / "run")
    unfinished = "does not contain a finished probe: train it to its last epoch"
    with pytest.raises(UserError, match=unfinished):
        load_probe(tmp_path / "run")


def test_features_that_do_not_fit_are_encoded_again_with_the_same_result(
    tiny_probe, train_probe, tmp_path, caplog
):
    fits, not_all = tmp_path / "fits", tmp_path / "not"
    settings = {"optim__epochs": 1, "optim__learning_rates": (1e-2,), "data__clips": 1}
    train_probe(tiny_probe(**settings), fits)
    # Room for three videos of 288 bytes each.
    with caplog.at_level(logging.INFO):
        train_probe(tiny_probe(data__cache_gb=1e-6, **settings), not_all)
    assert "clips are encoded again in every epoch" in caplog.text
    one, two = (np.array([float(x["prediction"]) for x in lines(w)]) for w in (fits, not_all))
    np.testing.assert_allclose(one, two, rtol=1e-4)


def test_classes_are_predicted_with_their_probabilities(tiny_probe, train_probe, tmp_path):
    config = tiny_probe(
        task__kind="classification",
        task__target="view",
        head__kind="linear",
        head__tokens="mean",
        eval__by_study=False,
    )
    said = train_probe(config, tmp_path / "run")
    assert said.startswith("view: accuracy ")
    for line in lines(tmp_path / "run"):
        shares = {k.removeprefix("p_"): float(v) for k, v in line.items() if k.startswith("p_")}
        assert sum(shares.values()) == pytest.approx(1)
        assert line["prediction"] == max(shares, key=shares.get)
    scores = metrics_of(tmp_path / "run")["test"]["scores"]
    assert set(scores) == {"accuracy", "balanced_accuracy", "macro_f1", "auroc"}


def test_classes_of_studies_weights_and_the_focal_loss(table, tiny_probe, train_probe, tmp_path):
    """A class for each patient: the majority of a study's videos is scored."""
    grades = {"age": lambda s: s.targets["heart_rate"], "sex": lambda s: "FM"[len(s.view) % 2]}
    grades |= {"grade": lambda s: "low" if s.targets["ef"] < 50 else "other"}
    settings = {"task__kind": "classification", "task__target": "grade", "head__kind": "linear"}
    settings |= {"data__sources": (table(grades),), "optim__learning_rates": (1e-2,)}
    found = []
    for changes in ({}, {"optim__class_weights": True}, {"optim__focal_gamma": 2.0}):
        name = next(iter(changes), "plain")
        train_probe(tiny_probe(**settings, **changes), tmp_path / name)
        found.append(lines(tmp_path / name))
    assert len({tuple(line["p_low"] for line in of) for of in found}) == 3
    result = metrics_of(tmp_path / "plain")
    studies = lines(tmp_path / "plain", "studies.csv")
    right = np.mean([line["majority"] == line["target"] for line in studies])
    assert result["study"]["scores"]["majority_accuracy"]["value"] == right
    assert [row["name"] for row in result["clinical"]["classes"]] == ["low", "other"]
    assert {line["sex"] for line in found[0]} <= {"F", "M"}
    assert all(float(line["age"]) > 40 for line in found[0])


def test_several_views_answer_with_one_dropped(tmp_path, tiny_probe, train_probe, samples):
    views = {"task__views": ("A2C", "A4C", "PLAX", "PSAX"), "head__streams": True}
    config = tiny_probe(**views, head__view_dropout=0.1, eval__by_study=False)
    train_probe(config, tmp_path / "run")
    found = {line["id"]: line for line in lines(tmp_path / "run")}
    probe = load_probe(tmp_path / "run")
    for study, line in found.items():
        files = {s.view: s.path for s in samples if s.study == study}
        assert len(files) == 2
        together = probe.predict(files).value
        assert together == pytest.approx(float(line["prediction"]), rel=1e-4)
        for view in files:
            alone = probe.predict({view: files[view]}).value
            assert np.isfinite(alone)
            assert alone != pytest.approx(together, rel=1e-6)
    with pytest.raises(UserError, match=r"must be some of the probe's, .*, not \['A9C'\]"):
        probe.predict({"A9C": samples[0].path})
    with pytest.raises(UserError, match=r"this probe takes \{view: file\} of \['A2C', 'A4C'"):
        probe.predict(samples[0].path)


def test_fine_tuning_changes_the_encoder_and_leaves_it_to_export(
    tiny_probe, train_probe, tmp_path, encoder_folder, samples
):
    from configs.probes import phantom_finetune

    config = tiny_probe(optim__learning_rates=(1e-2,), optim__epochs=1, data__clips=1)
    config.encoder.update(phantom_finetune.get_config().encoder)
    config.data.augment = "crops"
    train_probe(config, tmp_path / "run")
    before, after = read_weights(encoder_folder), load_encoder_weights(str(tmp_path / "run"))
    told = json.loads((tmp_path / "run" / "probe.json").read_text())["encoder"]
    assert after.fingerprints() == {"encoder": told}
    both = (weights.params["encoder"] for weights in (before, after))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), *both)
    # Layers learn, the later ones faster.
    kernel = moved["stack"]["blocks"]["mlp"]["fc2"]["kernel"]
    assert 0 < moved["patch_embed"]["kernel"] < kernel
    # The probe finds its own encoder.
    assert np.isfinite(load_probe(tmp_path / "run").predict(samples[0].path).value)


def test_fine_tuning_encodes_equal_clips_once(tiny_probe, train_probe, tmp_path, monkeypatch):
    config = tiny_probe(optim__learning_rates=(1e-2,), optim__epochs=1)
    config.encoder.update(trainable=True, drop_path=0.0)
    config.data.update(sample_by="share", sample_value=1.0, clips=2)  # a clip is the whole video
    seen, run = [], finetune.finetune_step

    def spy(state, batch, rng, *rates, encoder, mean_std, keep, times, **others):
        seen.append((batch["clips"].shape[1], times))
        if len(seen) == 1:
            params = state["encoder"]["params"]
            settings = {"encoder": encoder, "mean_std": mean_std, "keep": keep}
            once = finetune.tokens_of_slots(params, batch["clips"], rng, times=2, **settings)
            clips = np.repeat(batch["clips"], 2, axis=1)
            twice = finetune.tokens_of_slots(params, clips, rng, times=1, **settings)
            np.testing.assert_allclose(once, twice, rtol=1e-5, atol=1e-5)
        settings = {"encoder": encoder, "mean_std": mean_std, "keep": keep, "times": times}
        return run(state, batch, rng, *rates, **settings, **others)

    monkeypatch.setattr(finetune, "finetune_step", spy)
    train_probe(config, tmp_path / "run")
    assert set(seen) == {(1, 2)}
    assert len(lines(tmp_path / "run")) == 4


def test_augmented_frozen_training_runs_the_encoder_and_leaves_it(
    tiny_probe, train_probe, tmp_path, monkeypatch, samples
):
    # In clips that begin with the video.
    changes = {"data__augment": "original", "data__place": "contiguous", "data__clips": 1}
    config = tiny_probe(optim__epochs=1, **changes)
    meshes, mesh = [], jax.sharding.get_abstract_mesh
    before(monkeypatch, finetune, "tokens_of_slots", lambda _: meshes.append(dict(mesh().shape)))
    train_probe(config, tmp_path / "run")
    # Kernels are told the devices.
    assert meshes[0] == {"replica": jax.local_device_count(), "fsdp": 1}
    assert not (tmp_path / "run" / "encoder").exists()
    said = {line["id"]: float(line["prediction"]) for line in lines(tmp_path / "run")}
    assert len(said) == 4
    # Predictions are for the same clips and crops as in its own validation and test.
    probe = load_probe(tmp_path / "run")
    assert (probe.encoder.clip.centre, probe.encoder.clip.place) == (32 / 36, "contiguous")
    for sample in samples:
        if sample.name in said:
            assert probe.predict(sample.path).value == pytest.approx(said[sample.name], rel=1e-5)


def test_scoring_elsewhere_is_the_same_on_1_2_and_8_devices(
    lvef, run_probe, tmp_path, samples, monkeypatch
):
    """On one as a user does; on more, those of this process."""
    source = "phantom:pediatric,patients=4,views=4,seed=3"
    out = tmp_path / "1"
    done = run_probe(f"--eval_only={lvef}", f"--source={source}", f"--workdir={out}", shrink=False)
    assert done.returncode == 0, done.stderr
    said, found = [done.stdout], [lines(out)]
    assert (out / "report.html").exists()
    for devices in (2, 8):
        out = tmp_path / str(devices)
        monkeypatch.setattr(jax, "local_devices", lambda n=devices: jax.devices()[:n])
        said.append(score_on(lvef, [source], "", "", out))
        found.append(lines(out))
        write_probe_report(out)
    assert all("on 16 examples of 4 patients" in sentence for sentence in said)
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 16
    # The scaling is that of training: a constant head would say the training mean.
    task = json.loads((lvef / "probe.json").read_text())["task"]
    train = [s.targets["ef"] for s in samples if s.split == "train"]
    assert task["mean"] == pytest.approx(np.mean(train))
    assert task["std"] == pytest.approx(np.std(train))


def test_f08_a_probe_is_not_scored_on_another_encoder(lvef, tmp_path, encoder_folder):
    weights = read_weights(encoder_folder)
    weights.params["encoder"]["norm"]["bias"][0] += 1
    write_weights(weights, tmp_path / "other", "safetensors")
    with pytest.raises(UserError, match="was trained on an encoder with the fingerprint"):
        score_on(lvef, [PHANTOM], "", str(tmp_path / "other"), tmp_path / "out")
    with pytest.raises(UserError, match="nothing does not exist"):
        score_on(tmp_path / "nothing", [PHANTOM], "", "", tmp_path / "out")
    with pytest.raises(UserError, match="is not empty: give a new folder"):
        score_on(lvef, [PHANTOM], "", "", lvef)
    assert not (tmp_path / "out").exists()


def test_patients_that_were_trained_on_are_counted_and_named(lvef, tmp_path, caplog, samples):
    seen = sum(sample.split != "test" for sample in samples)
    said = f"{seen} of {len(samples)} examples are of patients that the probe was trained on"
    score_on(lvef, [PHANTOM], "", "", tmp_path / "all")
    assert said in caplog.text
    assert metrics_of(tmp_path / "all")["test"]["of_patients_trained_on"] == seen
    caplog.clear()
    score_on(lvef, [PHANTOM], "test", "", tmp_path / "test")
    assert "trained on" not in caplog.text
    assert metrics_of(tmp_path / "test")["test"]["of_patients_trained_on"] == 0


@pytest.mark.parametrize(
    ("row", "reason"),
    [({"study": ""}, "has no study"), ({"ef": "1"}, "has two values of ef, 1.0 and")],
)
def test_without_studies_there_are_no_means_over_them(lvef, table, tmp_path, caplog, row, reason):
    score_on(lvef, [table(row0=row)], "", "", tmp_path / "out")
    assert "means over studies are not reported: " in caplog.text
    assert reason in caplog.text
    assert metrics_of(tmp_path / "out")["study"] is None
    assert not (tmp_path / "out" / "studies.csv").exists()
    assert len(lines(tmp_path / "out")) == 20


def test_f08_a_head_that_is_not_whole_is_refused(lvef, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("probe.json", "head.safetensors", "config.json", "done.json"):
        shutil.copy(lvef / name, folder)
    head = folder / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"the probe in .* is damaged"):
        load_probe(folder)
    about = json.loads((folder / "probe.json").read_text())
    shutil.copy(lvef / "head.safetensors", folder)
    about["head"]["depth"] = 3
    (folder / "probe.json").write_text(json.dumps(about))
    other = r"is not the one that probe\.json describes; they differ in"
    with pytest.raises(UserError, match=other):
        load_probe(folder)


@pytest.fixture
def table(tmp_path, samples):
    """A CSV source of the phantom's videos; call it with changes of rows by their number, and with
    further columns as functions of a sample."""

    def make(columns=None, **changes):
        path, found = tmp_path / "table.csv", []
        columns = columns or {"ef": lambda s: s.targets["ef"]}
        for i, s in enumerate(samples):
            known = ("path", "name", "patient", "study", "view", "split")
            row = {name: getattr(s, name) for name in known}
            row |= {name: value(s) for name, value in columns.items()}
            found.append(row | changes.get(f"row{i}", {}))
        write_rows(path, found)
        return f"csv:{path}"

    return make


LINEAR = {"head__kind": "linear", "head__tokens": "mean", "optim__epochs": 1, "data__clips": 1}


def is_reduced(sample):
    return "reduced" if sample.targets["ef"] < 52 else "normal"


def test_texts_of_a_column_are_classes(table, tiny_probe, train_probe, tmp_path, samples):
    source = table({"my_label": is_reduced})
    settings = {"data__sources": (source,), "task__target": "my_label", "eval__by_study": False}
    config = tiny_probe(task__kind="classification", **settings, **LINEAR)
    assert train_probe(config, tmp_path / "run").startswith("my_label: accuracy")
    samples = {s.name: s for s in samples}
    for line in lines(tmp_path / "run"):
        assert line["target"] == is_reduced(samples[line["id"]])
        assert line["prediction"] in ("normal", "reduced")
    with pytest.raises(UserError, match=r"'my_label' is not a number in \d+ of \d+ exa"):
        train_probe(tiny_probe(**settings, **LINEAR), tmp_path / "number")
    # Prepared shards keep the classes that are named, and are read in the same way.
    shards = tmp_path / "shards"
    prepared(source, shards, Options(size=32, sector="never", targets="my_label"), workers=1)
    config.data.sources = (str(shards),)
    assert train_probe(config, tmp_path / "again").startswith("my_label: accuracy")
    of_table, of_shards = (lines(tmp_path / name) for name in ("run", "again"))
    assert sorted(x["target"] for x in of_table) == sorted(x["target"] for x in of_shards)


def test_units_are_those_of_the_source(lvef, table, tiny_probe, train_probe, tmp_path):
    source = table({"rvsp [kPa]": lambda s: s.targets["ef"] / 10})
    config = tiny_probe(data__sources=(source,), task__target="rvsp", **LINEAR)
    assert re.match(r"rvsp: MAE [\d.]+ kPa \(95 %", train_probe(config, tmp_path / "run"))
    assert metrics_of(tmp_path / "run")["task"]["unit"] == "kPa"
    assert metrics_of(lvef)["task"]["unit"] == "%"
    assert re.search(r"ef: MAE [\d.]+ points", score_on(lvef, [PHANTOM], "", "", tmp_path / "one"))
    source = table({"ef [share]": lambda s: s.targets["ef"] / 100})
    with pytest.raises(UserError, match="predicts 'ef' in %, but the source has it in share"):
        score_on(lvef, [source], "", "", tmp_path / "two")


@pytest.mark.parametrize("gigabytes", [4.0, 1e-6], ids=["kept features", "features made again"])
def test_clips_that_cannot_differ_are_encoded_once(
    tiny_probe, train_probe, tmp_path, monkeypatch, caplog, gigabytes
):
    # 60 frames, one clip of 4 that are 15 apart.
    settings = {"data__sample_by": "stride", "data__sample_value": 15.0}
    settings |= LINEAR | {"data__cache_gb": gigabytes}
    count, real = [], encode.encode_clips

    def counted(params, clips, *rest):
        count.append(len(clips))
        return real(params, clips, *rest)

    monkeypatch.setattr(encode, "encode_clips", counted)
    caplog.set_level(logging.INFO)
    found = []
    for clips in (1, 2):
        train_probe(tiny_probe(**settings | {"data__clips": clips}), tmp_path / str(clips))
        found.append((sum(count), lines(tmp_path / str(clips))))
        count.clear()
    assert found[0][0] == found[1][0]
    assert "are too short for 2 different clips: equal clips count once" in caplog.text
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert one["spread"] == two["spread"] == ""
        assert float(one["prediction"]) == pytest.approx(float(two["prediction"]), rel=1e-4)


def test_f04_an_unreadable_test_video_keeps_its_line(lvef, table, tmp_path, samples):
    bad = tmp_path / "bad.avi"
    bad.write_bytes(Path(samples[2].path).read_bytes())
    source = table(row2={"path": str(bad)})
    manifest.load((source,), quarantine=None, workers=1)  # measured while it was whole
    stamp = bad.stat()
    content = bytearray(bad.read_bytes())
    content[3000:] = bytes(len(content) - 3000)
    bad.write_bytes(content)
    os.utime(bad, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    said = score_on(lvef, [source], "", "", tmp_path / "out")
    assert said.endswith("on 19 examples of 10 patients; 1 could not be read")
    found = lines(tmp_path / "out")
    assert len(found) == 20
    assert [line["status"] == "ok" for line in found] == [i != 2 for i in range(20)]
    assert found[2]["status"].startswith("unreadable: ")
    assert found[2]["prediction"] == ""


def test_any_file_name_is_scored_and_reported(lvef, table, tmp_path, samples):
    first = Path(samples[0].path)
    odd = tmp_path / os.fsdecode(b"caf\xe9\n,.avi")
    shutil.copy(first, odd)
    source = table(row0={"path": str(odd), "name": ""})
    folder = tmp_path / os.fsdecode(b"f\xe9")
    folder.mkdir()
    moved = Path(shutil.move(source.removeprefix("csv:"), folder))
    score_on(lvef, [f"csv:{moved}"], "", "", tmp_path / "out")
    found = lines(tmp_path / "out")
    assert original(found[0]["id"]).endswith(odd.name)
    assert {original(line["source"]) for line in found} == {f"csv:{moved}"}
    assert all(line["status"] == "ok" for line in found)
    write_probe_report(tmp_path / "out")


def test_a_table_without_splits_gets_some_by_patient(lvef, table, tmp_path, caplog):
    """And its column EF is the target ef."""
    caplog.set_level("INFO")
    source = table(**{f"row{i}": {"split": ""} for i in range(20)})
    path = Path(source.removeprefix("csv:"))
    path.write_text(path.read_text().replace("split,ef", "Split,EF"))
    score_on(lvef, [source], "train", "", tmp_path / "out")
    found = lines(tmp_path / "out")
    assert 0 < len(found) < 20
    assert {line["split"] for line in found} == {"train"}
    assert f"split by patient: train {len(found)} videos" in caplog.text


@pytest.mark.parametrize(
    ("rows", "changes", "sentence"),
    [
        ({"row0": {"ef": ""}}, {}, "1 of 20 videos have no label 'ef'"),
        ({"row0": {"split": "test"}}, {}, r"patient .* is in split"),
        ({}, {"task__target": "rvsp"}, "20 of 20 videos have no label 'rvsp'"),
        ({}, {"data__test_split": "holdout"}, r"'data\.test_split' is 'holdout'"),
        ({}, {"head__heads": 5}, r"'head\.heads' is 5, which does not divide"),
        ({}, {"data__frames": 3}, r"data\.frames is 3, but it must be a multiple of 2"),
        ({}, {"weights": "nowhere"}, "nowhere does not exist"),
        (
            {f"row{i}": {"view": "X"} for i in (2, 3)},
            {"task__kind": "classification", "task__target": "view", "eval__by_study": False},
            r"classes \['X'\] of 'view' do not occur in the training split",
        ),
    ],
)
def test_bad_labels_and_settings_are_one_sentence(
    table, tiny_probe, train_probe, tmp_path, rows, changes, sentence
):
    config = tiny_probe(data__sources=(table(**rows),), **changes)
    with pytest.raises(UserError, match=sentence):
        train_probe(config, tmp_path / "run")
    assert not (tmp_path / "run" / "predictions.csv").exists()


def test_the_api_embeds_and_predicts_as_the_programs_do(lvef, encoder_folder, samples):
    encoder = load_encoder(encoder_folder)
    one = encoder.embed(samples[0].path)
    assert one.shape == (24,)
    np.testing.assert_allclose(one, encoder.tokens(samples[0].path).mean(axis=(0, 1)), atol=1e-6)
    probe = load_probe(lvef)
    found = {line["id"]: line for line in lines(lvef)}
    for sample in samples:
        if sample.name in found:
            line = found[sample.name]
            value, spread, of_heads, flag = probe.predict(sample.path)
            assert value == pytest.approx(float(line["prediction"]), rel=1e-4)
            assert spread == pytest.approx(float(line["spread"]), rel=1e-2, abs=1e-4)
            assert (of_heads, line["spread_heads"]) == (None, "")  # one head beat the guess
            assert flag == line["flag"] != ""
    with pytest.raises(UserError, match=r"nowhere\.avi cannot be read"):
        probe.predict("nowhere.avi")


def test_the_api_takes_lists_arrays_and_batches(encoder_folder, samples):
    samples = samples[:3]
    encoder = load_encoder(encoder_folder)
    paths = [sample.path for sample in samples]
    alone = np.stack([encoder.embed(path) for path in paths])
    together = encoder.embed(paths)
    close = partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
    close(together, alone)
    np.testing.assert_array_equal(encoder.embed(np.array(paths)), together)
    assert encoder.embed([Path(p) for p in paths], clips=2).shape == (3, 24)
    spec = {"length": 4, "by": "stride", "value": 4}
    clips = [decode(s.path, clip_frame_ids(s.frames, s.fps, None, **spec)[0]) for s in samples]
    close(encoder.embed(clips[0]), alone[0])
    close(encoder.embed(clips), alone)
    close(encoder.embed(np.stack(clips)), alone)
    close(encoder.embed(clips[0][..., 0]), alone[0])  # grey
    assert encoder.tokens(np.stack(clips)).shape == (3, 1, 32, 24)
    for wrong, sentence in (
        (clips[0][:3], r"an array of shape \[3, 112, 112, 3\] is not a clip .*\[4, H, W, 3\]"),
        (np.zeros((2, 4, 8, 8), np.uint8), r"shape \[2, 4, 8, 8\]"),
        (np.zeros(7, np.uint8), r"shape \[7\]"),
        (clips[0] / 255, "an array of float64 is not a clip: give uint8 pixels"),
        ([], "the list of videos is empty"),
        ([paths[0], clips[0]], "either files or arrays, not both"),
        ([paths[0], "nowhere.avi"], r"nowhere\.avi cannot be read"),
    ):
        with pytest.raises(UserError, match=sentence):
            encoder.embed(wrong)
    with pytest.raises(UserError, match="an array is one clip"):
        encoder.embed(clips[0], clips=2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--workdir=x", "--source=y"), "--source, --split and --weights need --eval_only"),
        (("--workdir=x", "--eval_only=y"), "--eval_only needs --source"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(run_probe, arguments, sentence):
    assert sentence in programs.error_of(run_probe(*arguments, shrink=False))
