"""Predictions for files without labels: a table that tells everything, and survives a kill."""

import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from echojepa_jax.api import load_probe
from echojepa_jax.data import manifest
from echojepa_jax.features.clip_input import clip_spec
from echojepa_jax.probes import table
from echojepa_jax.probes.config import make_head
from echojepa_jax.probes.saved import SavedProbe
from echojepa_jax.probes.table import predict_table
from echojepa_jax.probes.task import Task
from echojepa_jax.train.load_weights import load_encoder_weights
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.utils.errors import UserError
from tests import programs
from tests.makers.calls import interrupt_at
from tests.makers.configs import PHANTOM
from tests.makers.tables import rows

pytestmark = pytest.mark.slow

# Every seed makes other patients.
NEW = "phantom:pediatric,patients=10,views=2,seed=5"
EF = Task("regression", "ef", mean=55.0, std=12.0)
VIEWS = Task("classification", "view", classes=("A2C", "A4C", "PLAX", "PSAX"), commonest="A4C")


@partial(jax.jit, static_argnums=0)
def init(head, *inputs):
    return head.init(*inputs)


@pytest.fixture
def saved(tiny_probe, encoder_folder, tmp_path):
    """A finished probe with a random head, which predicts as well as a trained one."""

    def save(task=EF, **changes):
        config, weights = tiny_probe(**changes), load_encoder_weights(str(encoder_folder))
        head = make_head(config, task.outputs)
        width = weights.shape.width * (3 if config.head.tokens == "motion" else 1)
        slots = head.views * head.clips
        inputs = np.zeros((1, slots, 1, width)), np.ones((1, slots), bool)
        params = init(head, jax.random.key(0), *inputs)["params"]
        # Far from zero, so that what is said of two videos differs.
        params = jax.tree.map(lambda leaf: np.asarray(leaf) * 5, params)
        probe = SavedProbe(
            head=head,
            params=params,
            heads=jax.tree.map(lambda leaf: np.stack([leaf, 1.5 * leaf]), params),
            task=task,
            clip=clip_spec(weights, 0, 0, "", 0.0, ""),
            clips=config.data.clips,
            views=tuple(config.task.views),
            encoder=weights.fingerprints()["encoder"],
            width=width,
            tokens=config.head.tokens,
            dtype="float32",
        )
        folder = tmp_path / "probe"
        folder.mkdir(exist_ok=True)
        probe.save(folder)
        (folder / "config.json").write_text(config.to_json())
        Workdir(folder).mark_done(1)
        return folder

    return save


@pytest.fixture(scope="module")
def samples(cache):
    """Of patients nobody knows."""
    return manifest.load((NEW,), quarantine=None, workers=1)


@pytest.fixture
def lvef(saved):
    return saved()


@pytest.fixture
def folder(tmp_path, samples):
    """Videos of patients nobody knows, a still, 5 frames, and a file that is no video."""
    # The name of the folder is no UTF-8, as one from an old Windows.
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/clips\xfc"))
    folder.mkdir()
    for name, sample in zip(("b", "d"), samples[:2], strict=True):
        shutil.copy(sample.path, folder / f"{name}.avi")
    (folder / "a.avi").write_bytes(b"no video at all")
    for name, frames in (("c", 1), ("e", 5)):
        path = tmp_path / f"{name}.avi"  # OpenCV takes no other names
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (32, 32))
        for frame in range(frames):
            video.write(np.full((32, 32, 3), 40 * frame, np.uint8))
        video.release()
        path.rename(folder / path.name)
    return folder


def test_a_table_has_every_file_in_order_with_a_value_or_a_reason(lvef, folder, tmp_path):
    out = tmp_path / "out" / "predictions.csv"
    said = predict_table(lvef, [f"videos:{folder}"], out)
    found = rows(out)
    assert [line["id"] for line in found] == ["a.avi", "b.avi", "c.avi", "d.avi", "e.avi"]
    assert {line["source"] for line in found} == {f"videos:{tmp_path}/clips\\xfc"}
    probe = load_probe(lvef)
    for line in (found[1], found[3]):
        value, *spreads, _ = probe.predict(folder / line["id"])
        assert float(line["prediction"]) == pytest.approx(value, rel=1e-5)
        of_table = [float(line[name]) for name in ("spread", "spread_heads")]
        assert of_table == pytest.approx(spreads, rel=1e-2)
        assert min(spreads) > 0
        assert line["status"] == "ok"
        # A folder tells neither patients nor studies.
        assert line["patient"] == line["study"] == line["study_prediction"] == ""
    # Four frames, each the fourth: of 0, 4, 8 and 12 a video of 5 frames lacks two.
    assert [found[i]["padded"] for i in (1, 3, 4)] == ["0", "0", "2"]
    for line in (found[0], found[2]):
        assert line["prediction"] == line["spread"] == ""
    assert found[0]["status"].startswith("rejected: ")
    assert found[2]["status"] == "rejected: still: the file holds one frame"
    wanted = rf"{out} contains ef.* of 3 videos; 2 have none \(1 .*\): see column .*"
    assert re.fullmatch(wanted, said)
    assert {path.name for path in out.parent.iterdir()} == {out.name, f"{out.name}.json"}


def test_contiguous_clips_are_padded_where_the_video_ends(lvef, folder, tmp_path, samples):
    about = json.loads((lvef / "probe.json").read_text())
    about["clip"]["place"] = "contiguous"
    (lvef / "probe.json").write_text(json.dumps(about))
    predict_table(lvef, [f"videos:{folder}"], tmp_path / "predictions.csv")
    found = {line["id"]: line for line in rows(tmp_path / "predictions.csv")}
    # The second clip has the frames 16, 20, 24 and 28.
    shown = sum(frame < samples[0].frames for frame in (16, 20, 24, 28))
    assert found["b.avi"]["padded"] == str(4 - shown)
    assert found["e.avi"]["padded"] == "4"
    value = load_probe(lvef).predict(folder / "b.avi").value
    assert float(found["b.avi"]["prediction"]) == pytest.approx(value, rel=1e-5)


def test_means_over_studies(lvef, samples, tmp_path):
    out = tmp_path / "predictions.csv"
    predict_table(lvef, [NEW], out)
    found = rows(out)
    assert [(x["id"], x["patient"], x["study"], x["view"]) for x in found] == [
        (s.name, s.patient, s.study, s.view) for s in samples
    ]
    for line in found:
        values = [float(x["prediction"]) for x in found if x["study"] == line["study"]]
        assert line["study_videos"] == str(len(values)) == "2"
        assert float(line["study_prediction"]) == pytest.approx(np.mean(values), rel=1e-12)


def test_f17_a_killed_program_continues_to_the_same_table(lvef, tmp_path, monkeypatch, caplog):
    whole, out = tmp_path / "whole.csv", tmp_path / "killed.csv"
    monkeypatch.setattr(table, "PART", 8)
    predict_table(lvef, [NEW], whole)
    calls = interrupt_at(monkeypatch, table, "encode_videos", 2)
    # Another table, which was stopped before its first part, is in nobody's way.
    (tmp_path / "killed.csv.partial").write_text('{"probe": "another"}\n')
    with pytest.raises(KeyboardInterrupt):
        predict_table(lvef, [NEW], out)
    assert not out.exists()
    # As a kill may: in the middle of a line.
    with (tmp_path / "killed.csv.partial").open("ab") as file:
        file.write(b'{"first": 8, "val')
    other = r"is the beginning of another table, .*, the videos, their studies or views: "
    with pytest.raises(UserError, match=other):
        predict_table(lvef, [PHANTOM], out)
    caplog.set_level("INFO")
    predict_table(lvef, [NEW], out)
    assert "1 of 3 parts are done already" in caplog.text
    assert len(calls) == 4  # the first part was not made again
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "killed.csv.partial").exists()


def test_f12_a_finished_table_is_verified_and_never_overwritten(lvef, saved, tmp_path):
    out = tmp_path / "tables" / "predictions.csv"
    predict_table(lvef, [PHANTOM], out)
    before = out.read_bytes()
    assert predict_table(lvef, [PHANTOM], out) == f"{out} is complete: nothing to do"
    other = "is another table, which differs in --source, the videos, their studies or views:"
    with pytest.raises(UserError, match=other):
        predict_table(lvef, [NEW], out)
    assert out.read_bytes() == before
    out.write_text("what somebody made of it")
    with pytest.raises(UserError, match="was changed after it was written"):
        predict_table(lvef, [PHANTOM], out)
    assert out.read_text() == "what somebody made of it"
    out.unlink()
    predict_table(lvef, [PHANTOM], out)
    assert out.read_bytes() == before
    mine = out.with_name("mine.csv")
    mine.write_text("somebody's")
    with pytest.raises(UserError, match="already exists: give another --out"):
        predict_table(lvef, [PHANTOM], mine)
    with pytest.raises(UserError, match="is a folder: name a file in it"):
        predict_table(lvef, [PHANTOM], tmp_path)
    saved(task=VIEWS)
    with pytest.raises(UserError, match=r"which differs in the probe: "):
        predict_table(lvef, [PHANTOM], out)
    assert out.read_bytes() == before
    found = {path.name for path in out.parent.iterdir()}
    assert found == {"mine.csv", out.name, f"{out.name}.json"}


def test_f12_a_table_is_of_the_studies_that_its_source_tells(lvef, samples, tmp_path):
    table, out = tmp_path / "videos.csv", tmp_path / "predictions.csv"

    def told(*studies):
        lines = [f"{s.path},one,{study}" for s, study in zip(samples[:2], studies, strict=True)]
        table.write_text("\n".join(["path,patient,study", *lines]) + "\n")
        return [f"csv:{table}"]

    predict_table(lvef, told("a", "a"), out)
    assert {line["study_videos"] for line in rows(out)} == {"2"}
    with pytest.raises(UserError, match="which differs in their studies or views:"):
        predict_table(lvef, told("a", "b"), out)


def test_classes_have_probabilities_of_videos_and_of_studies(saved, tmp_path):
    out = tmp_path / "predictions.csv"
    predict_table(saved(VIEWS, head__kind="linear"), [NEW], out)
    found, classes = rows(out), VIEWS.classes
    assert len({line["p_A4C"] for line in found}) == 20  # so that means are no copies
    for line in found:
        shares = {name: float(line[f"p_{name}"]) for name in classes}
        assert sum(shares.values()) == pytest.approx(1)
        assert line["prediction"] == max(shares, key=shares.get)
        study = [x for x in found if x["study"] == line["study"]]
        means = {name: np.mean([float(x[f"p_{name}"]) for x in study]) for name in classes}
        assert {n: float(line[f"study_p_{n}"]) for n in classes} == pytest.approx(means)
        assert line["study_prediction"] == max(means, key=means.get)


def test_one_clip_has_no_spread(saved, tmp_path):
    predict_table(saved(data__clips=1), [NEW], tmp_path / "one.csv")
    assert {line["spread"] for line in rows(tmp_path / "one.csv")} == {""}


def test_several_views_make_a_line_for_every_study(saved, samples, tmp_path, folder):
    probe = saved(task__views=("A2C", "A4C"), head__streams=True)
    out = tmp_path / "studies.csv"
    said = predict_table(probe, [NEW, f"videos:{folder}"], out)
    found = {line["id"]: line for line in rows(out)}
    studies = {s.study for s in samples if s.view in ("A2C", "A4C")}
    assert {name for name, line in found.items() if line["status"] == "ok"} == studies
    assert re.search(rf"contains ef.* of {len(studies)} studies; ", said)
    for sample in samples:
        if sample.view not in ("A2C", "A4C"):
            status = f"rejected: other view: {sample.view}; the probe takes A2C, A4C"
            assert found[sample.name]["status"] == status
    assert found["b.avi"]["status"].startswith("rejected: no study: ")


@pytest.fixture
def moved(lvef, encoder_folder):
    """A probe whose encoder is no longer where it was."""
    config = (lvef / "config.json").read_text().replace(str(encoder_folder), "/nowhere")
    (lvef / "config.json").write_text(config)
    return lvef


def test_a_fine_tuned_probe_brings_its_encoder(moved, samples, encoder_folder, tmp_path):
    shutil.copytree(encoder_folder, moved / "encoder")
    (moved / "manifest.json").write_text("{}")
    predict_table(moved, [NEW], tmp_path / "fine.csv")
    line = rows(tmp_path / "fine.csv")[0]
    value = load_probe(moved).predict(samples[0].path).value
    assert float(line["prediction"]) == pytest.approx(value, rel=1e-5)


def test_nothing_usable_is_an_error_that_names_the_table(lvef, folder, tmp_path):
    out = tmp_path / "none.csv"
    with pytest.raises(UserError, match=rf"none of 1 file can be used .*; {out} lists the reasons"):
        predict_table(lvef, [f"videos:{folder}/a.avi"], out)
    assert rows(out)[0]["status"].startswith("rejected: ")
    with pytest.raises(UserError, match="is another table, which differs in --source, the videos"):
        predict_table(lvef, [NEW], out)
    # Once the file is mended, the same command is no longer refused.
    shutil.copy(folder / "b.avi", folder / "a.avi")
    assert "of 1 video" in predict_table(lvef, [f"videos:{folder}/a.avi"], out)


def test_an_encoder_that_has_moved_is_asked_for(moved, encoder_folder, tmp_path):
    with pytest.raises(UserError, match=r"/nowhere.*give the encoder of .* with --weights"):
        predict_table(moved, [NEW], tmp_path / "moved.csv")
    assert not list(tmp_path.glob("moved*"))
    predict_table(moved, [NEW], tmp_path / "moved.csv", weights_path=str(encoder_folder))


def test_the_program_on_one_device_gives_the_same_bytes(lvef, tmp_path):
    predict_table(lvef, [NEW], tmp_path / "eight.csv")
    flags = (f"--probe={lvef}", f"--source={NEW}", f"--out={tmp_path / 'one.csv'}")
    done = programs.succeed("predict", *flags, devices=1)
    last = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(rf"{tmp_path / 'one.csv'} contains ef.* of 20 videos", last)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "eight.csv").read_bytes()
