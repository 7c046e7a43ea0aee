"""The suite as a whole: from weights and videos to tables, restartable, each model encoded once."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest

from configs.evaluation.phantom import get_config as shipped
from echojepa_jax.api import evaluate
from echojepa_jax.data import manifest
from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.data.clips.sampling import PLACES, ClipSpec
from echojepa_jax.evaluation import config as configs
from echojepa_jax.evaluation import heads, models, pixels, stored, suite
from echojepa_jax.evaluation.tasks import KINDS
from echojepa_jax.evaluation.tasks import segmentation as masks_task
from echojepa_jax.models.family import V2, VIDEOMAE
from echojepa_jax.utils.config_fields import leaves
from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights.pretrained import ClipInput
from echojepa_jax.weights.write import write_weights
from tests import programs
from tests.makers import recomputed, tables
from tests.makers.calls import interrupt_at
from tests.makers.configs import PHANTOM
from tests.makers.recorder import Recorder
from tests.makers.weights import TINY, random_weights

pytestmark = pytest.mark.slow

MODELS = ("encoder", "initial", "pca")
VIDEOS = {"train": 14, "val": 2, "test": 4}  # of PHANTOM
TRACED = 2 * 11  # two frames of each video that shows the A2C or the A4C view
SHRINK = {
    "data.adult.sources": (PHANTOM,),
    "data.pediatric.sources": ("phantom:pediatric,patients=10,views=2,seed=1",),
    "probe.learning_rates": (1e-2,),
    "probe.attentive_rates": (1e-2, 1e-3),
    "probe.mask_rates": (1e-1,),
    "probe.weight_decays": (0.1,),
    "probe.epochs": 2,
    "probe.batch": 16,
    "probe.heads": 2,
    "probe.hidden": 8,
    "tasks.heads.heads": ("pca3-linear", "mlp", "attentive-2"),
    "tasks.heads.seeds": (0,),
    "tasks.lvef.seeds": (0,),
    "tasks.segmentation.seeds": (0,),
    "tasks.views.seeds": (0,),
    "tasks.views.shares": (1.0, 0.5),
    "tasks.multiview.seeds": (0,),
    "tasks.pediatric.seeds": (0,),
    "tasks.pediatric.alone": (),
    "tasks.robustness.seeds": (0,),
    "tasks.robustness.perturbations": ("h264", "dropped_frames"),
    "bootstrap": 20,
}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """An exported encoder of 24 channels for clips of 4 frames of 32 pixels."""
    weights = random_weights(parts=("encoder",), clip=ClipInput(4, 32, "stride", 4))
    folder = tmp_path_factory.mktemp("weights") / "encoder"
    write_weights(weights, folder, "safetensors")
    return folder


def changed(config, changes):
    """The config with other values, by "section.field", even of wrong types or unknown fields."""
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(changes)
    return config


@pytest.fixture
def small(encoder):
    """configs/evaluation/phantom.py, shrunken; call it with the tasks that are kept, () = all."""

    def make(*tasks):
        config = changed(shipped(), SHRINK | {"weights": (str(encoder),)})
        for name in list(config.tasks):
            if tasks and name not in tasks:
                del config.tasks[name]
        if tasks and "pediatric" not in tasks:
            del config.data.pediatric
        return config

    return make


@pytest.fixture(scope="session")
def complete(encoder, tmp_path_factory):
    """The whole suite, as a user starts it."""
    workdir = tmp_path_factory.mktemp("suite") / "run"
    fields = programs.as_fields(SHRINK)
    words = ["--config=configs/evaluation/phantom.py", f"--weights={encoder}", *fields]
    done = programs.succeed("evaluate", *words, f"--workdir={workdir}")
    assert done.stdout.startswith("complete: 8 tasks, 3 models. The report is ")
    left = r"(less than 1s|[1-9]\S*) left"
    assert re.search(rf"features 3 of 7: model encoder on adult, .+, {left}", done.stderr)
    assert re.search(rf"probes 24 of 24: task views, model pca, seed 0, {left}", done.stderr)
    return workdir


def lines(workdir):
    return tables.rows(workdir / suite.CSV)


def files(workdir):
    """What is in a workdir, and when it was written; not who holds it."""
    found = (path for path in workdir.rglob("*") if path.is_file())
    return {path.relative_to(workdir): path.stat().st_mtime_ns for path in found}


def test_every_task_has_all_models_and_the_guess(complete):
    found = lines(complete)
    models_of = {}
    for line in found:
        models_of.setdefault(line["task"], {})[line["model"]] = line
    assert list(models_of) == list(shipped().tasks)
    for task, rows in models_of.items():
        guess = {
            "geometry": set(),
            "views": {"commonest class"},
            "segmentation": {"mean mask of training", "mean of training"},
        }.get(task, {"mean of training"})
        assert set(rows) == {*MODELS, *guess}
        assert rows["encoder"]["tokens_of_a_clip"] == "32"
        assert float(rows["encoder"]["flops_of_a_clip"]) > float(rows["pca"]["flops_of_a_clip"])
    lvef = next(line for line in found if line["task"] == "lvef" and line["model"] == "pca")
    assert float(lvef["low"]) <= float(lvef["value"]) <= float(lvef["high"])
    assert lvef["difference"]
    assert (lvef["examples"], lvef["patients"], lvef["not_scored"]) == ("4", "2", "0")
    heads = {line["variant"] for line in found if line["task"] == "heads"}
    assert len(heads) == 3


def assert_recomputed(workdir):
    """That tables.csv has the numbers that follow from the files of results, and no others."""
    found = lines(workdir)
    of_models = {"tokens_of_a_clip", "flops_of_a_clip", "tokens_for_the_head"}
    texts = {"task", "variant", "model", "score", "unit"}
    for task in dict.fromkeys(line["task"] for line in found):
        mine = [line for line in found if line["task"] == task]
        expected = recomputed.table(workdir, task, MODELS)
        assert [(x["variant"], x["model"], x["score"]) for x in mine] == list(expected)
        for line, numbers in zip(mine, expected.values(), strict=True):
            for column in line.keys() - texts - of_models:
                value = float(line[column] or "nan")
                wanted = pytest.approx(numbers.get(column, np.nan), rel=1e-9, abs=1e-9, nan_ok=True)
                assert value == wanted, (*list(line.values())[:4], column)


def test_every_number_of_the_tables_follows_from_the_results_by_scikit_learn(complete):
    assert_recomputed(complete)


def test_the_report_draws_every_task_that_has_labels(complete):
    page = (complete / "report.html").read_text()
    drawn = re.findall(r'<img src="data:image/svg[^"]+" alt="([^"]+)">', page)
    drawn = [text for text in drawn if " variants of " in text]
    tasks = [text.rsplit(" of ", 1)[1].removesuffix(".") for text in drawn]
    assert tasks == [task for task in shipped().tasks if task != "geometry"]
    assert "MAE (points) of 4 models in 5 variants of robustness." in drawn


def test_the_report_has_a_clinical_reading_of_every_model_with_thresholds_of_validation(complete):
    page = (complete / "report.html").read_text()
    of_task = dict(re.findall(r'<h2 id="([^"]+)">(.*?)(?=<h2|$)', page, re.DOTALL))
    for task in shipped().tasks:
        models_of = re.findall(r"<summary>Clinical reading of (\w+),", of_task[task])
        without = task in ("geometry", "segmentation")
        assert models_of == ([] if without else [*MODELS])
        assert ("<h3>By class</h3>" in of_task[task]) == (task == "views")
        curves = re.findall(
            r'alt="Error over the share of examples that is kept: by ([^"]+)"', of_task[task]
        )
        assert len(curves) == len(models_of)
        # Of one clip of a video, or one of each view of a study.
        assert all(("spread over clips" in text) == (task == "multiview") for text in curves)
        assert all("distance from the training data" in text for text in curves)
        of_numbers = not without and task != "views"
        assert ("<h3>Agreement and calibration</h3>" in of_task[task]) == of_numbers


def test_the_report_shows_the_worst_and_the_best_cases_of_every_task(complete):
    page = (complete / "report.html").read_text()
    of_task = dict(re.findall(r'<h2 id="([^"]+)">(.*?)(?=<h2|$)', page, re.DOTALL))
    for task in shipped().tasks:
        ranks = re.findall(r"<p>(Worst|Best): <strong>", of_task[task])
        # Of four videos or two studies.
        other = {"geometry": [], "segmentation": [], "multiview": ["Worst"]}
        assert ranks[::2] == other.get(task, ["Worst", "Best"])


def test_the_report_shows_masks_on_the_same_frames_for_every_model(complete):
    page = (complete / "report.html").read_text()
    of_models = [re.findall(rf'alt="{m} on ([^"]+)\."', page) for m in MODELS]
    assert of_models[0] == of_models[1] == of_models[2]
    assert set(of_models[0][0].split(", ")) == {"A4C ED", "A4C ES"}


def test_a_model_is_encoded_once_for_a_data_set_and_for_a_degradation(complete):
    table = (complete / suite.MARKDOWN).read_text()
    adult = sum(VIDEOS.values())
    degraded = (1 + 3) * VIDEOS["test"]
    (row,) = re.findall(r"^\| adult \|.*$", table, re.MULTILINE)
    assert row.endswith(f"| 10 | 0 | 0 | {adult} | {degraded} | {TRACED} | 0 |")
    (row,) = re.findall(r"^\| encoder \| .* px \| .*$", table, re.MULTILINE)
    assert f"| {adult + degraded + 20 + TRACED} |" in row
    parts = sorted((complete / suite.FEATURES).glob("*/part-*.npy"))
    assert len(parts) == 3 * (2 + 4 + 1) + 1, "and the true masks, once for all models"


def test_a_head_is_trained_once_for_all_tasks(complete):
    """That of EF is used by lvef, pediatric and robustness; multiview has six others."""
    for data, count in (("adult", 1 + 6), ("pediatric", 1)):
        found = list((complete / suite.HEADS).glob(f"*-{data}-*/attentive-1-seed0-*.json"))
        assert len(found) == 3 * count


def test_all_formats_show_the_same_numbers(complete):
    value = next(line for line in lines(complete) if line["model"] == "pca")["value"]
    for name in (suite.MARKDOWN, suite.LATEX, "report.html"):
        content = (complete / name).read_text()
        assert f"{float(value):.2f}" in content, name
        assert "/tmp" not in content, "folders may name people"


def test_f07_a_second_start_changes_nothing(complete, encoder):
    before = files(complete)
    words = ["--config=configs/evaluation/phantom.py", f"--weights={encoder}"]
    again = programs.run("evaluate", *words, *programs.as_fields(SHRINK), f"--workdir={complete}")
    assert again.stdout.startswith(f"{complete} is complete: nothing to do")
    with pytest.raises(UserError, match="was started with another config; it differs in "):
        evaluate(changed(shipped(), {"weights": (str(encoder),)}), complete)
    assert files(complete) == before


def test_f17_killed_anywhere_it_makes_the_same_tables(complete, small, tmp_path, monkeypatch):
    """By SIGKILL while it writes features; interrupted while it scores, keeps a trained head, and
    writes tables."""
    workdir = tmp_path / "run"
    config = small("lvef", "segmentation", "views")
    whole = tmp_path / "whole"
    evaluate(config, whole)
    _kill_while_it_writes_features(config, tmp_path / "suite.py", workdir)
    for module, name, after in (
        (masks_task, "predict", 0),
        (heads, "write_about", 1),
        (suite.tables, "as_csv", 0),
    ):
        function, calls = getattr(module, name), []

        def killed(*arguments, after=after, calls=calls, function=function, **others):
            calls.append(1)
            if len(calls) > after:
                raise KeyboardInterrupt
            return function(*arguments, **others)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                evaluate(config, workdir)
    evaluate(config, workdir)
    for name in (suite.MARKDOWN, suite.CSV, suite.LATEX):
        assert (workdir / name).read_bytes() == (whole / name).read_bytes()
    # The numbers are those of the suite with all tasks, in another process.
    of_bias = [x for x in lines(complete) if (x["task"], x["score"]) == ("lvef", "bias")]
    shared = {(x["variant"], x["model"]): x for x in of_bias}
    for line in lines(whole):
        if line["task"] == "lvef" and line["score"] == "bias":
            expected = shared[line["variant"], line["model"]]
            assert float(line["value"]) == pytest.approx(float(expected["value"]), rel=1e-4)


def _kill_while_it_writes_features(config, file, workdir):
    """Starts the program, and kills it at the first file of features, be it whole or not."""
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({config.to_dict()!r})\n"
    )
    # Other flags of the compiler than those of this process would give other bits.
    same = {"XLA_FLAGS": os.environ["XLA_FLAGS"] + programs.QUICK_ON_CPU}
    words = f"--config={file}", f"--workdir={workdir}"
    process = programs.start("evaluate", *words, environment=same)
    while not any(workdir.glob(f"{suite.FEATURES}/*/*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.kill()
    assert programs.finish(process).returncode == -signal.SIGKILL
    assert len(list(workdir.glob(f"{suite.FEATURES}/*/part-*.json"))) < 3 * 2 + 1


def test_a_patient_of_training_in_the_other_test_split_is_an_error(small, tmp_path):
    """Each set was compared with itself alone; it is found before anything is encoded."""
    config = small("pediatric")
    config.data.pediatric.update(sources=(PHANTOM,), train_split="test", test_split="train")
    found = r"patient [\w-]+ is in split 'train or val of adult' .* in split 'train of pediatric'"
    with pytest.raises(UserError, match=found):
        evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run" / suite.FEATURES).exists()


@pytest.mark.parametrize(
    ("task", "field", "value", "sentence"),
    [
        ("lvef", "views", ("A5C",), "no video of data.adult shows the view 'A5C'"),
        ("heads", "target", "gls", "20 of 20 videos have no label 'gls'"),
        ("views", "target", "study", "20 of 20 videos have no label 'study'"),
        ("multiview", "views", ("A4C", "A5C"), "no video of data.adult shows the view 'A5C'"),
        ("pediatric", "alone", ("A5C",), "no video of data.pediatric shows the view 'A5C'"),
        ("robustness", "target", "view", "'view' is not a number in 14 of 14 examples"),
        ("segmentation", "views", ("A2C",), "the split 'test' .* no traced frame of the views A2C"),
        ("segmentation", "ef", "gls", "no traced training video of data.adult has the label 'gls'"),
    ],
)
def test_an_impossible_task_is_found_before_anything_is_encoded(
    task, field, value, sentence, small, tmp_path
):
    config = changed(small(task), {f"tasks.{task}.{field}": value})
    with pytest.raises(UserError, match=f"^task {task}: {sentence}"):
        evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run" / suite.FEATURES).exists()


@pytest.fixture
def few_pixels(monkeypatch):
    """Principal components of smaller frames: those of 4,096 pixels take half a minute."""
    monkeypatch.setattr(pixels, "SIDE", 8)


@pytest.fixture
def copy(complete, tmp_path):
    return shutil.copytree(complete, tmp_path / "copy")


def test_f12_damaged_features_and_results_are_made_again(copy, small, caplog):
    before = (copy / suite.CSV).read_bytes()
    (features,) = (copy / suite.FEATURES).glob("pca-adult-??????????")
    path = features / "part-00000.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (copy / suite.RESULTS / "lvef" / "pca" / "seed0.json").write_text("{")
    (copy / suite.CSV).unlink()
    evaluate(small(), copy)
    assert "is made again: its SHA-256 does not match" in caplog.text
    assert (copy / suite.CSV).read_bytes() == before


def test_a_finished_suite_gets_a_seed_and_loses_tasks_and_encodes_nothing(copy, small, caplog):
    config = small("views")
    config.tasks.views.seeds, config.bootstrap = (0, 1), 10
    # An earlier version, which had no other place for clips, began it.
    told = json.loads((copy / suite.CONFIG).read_text())
    assert told["clip"].pop("place") == "spread"
    (copy / suite.CONFIG).write_text(json.dumps(told))
    before = files(copy)
    caplog.set_level("INFO")
    evaluate(config, copy)
    assert "tasks.views.seeds ([0] there, [0, 1] now)" in caplog.text
    kept = {path for path in before if path.parts[0] in (suite.FEATURES, suite.RESULTS)}
    after = files(copy)
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    new = {str(path) for path in after.keys() - kept if path.parts[0] == suite.RESULTS}
    assert new == {f"results/views/{name}/seed1.json" for name in MODELS}
    assert {(line["task"], line["seeds"]) for line in lines(copy)} == {("views", "2")}
    assert_recomputed(copy)
    assert "is complete: nothing to do" in evaluate(config, copy)
    config.data.adult.max_bad_share = 0.5
    with pytest.raises(UserError, match=r"differs in data\.adult\.max_bad_share \(0\.0 there"):
        evaluate(config, copy)


def test_a_complete_suite_of_other_weights_or_labels_is_not_complete(
    small, encoder, tmp_path, monkeypatch, caplog, few_pixels
):
    """Training went on in the same folder, and the tables still showed the earlier weights."""
    caplog.set_level("INFO")
    weights, workdir = tmp_path / "encoder", tmp_path / "run"
    shutil.copytree(encoder, weights)
    config = small("geometry")
    config.weights, config.controls = (str(weights),), ("pca",)
    evaluate(config, workdir)
    before = {line["model"]: line["value"] for line in lines(workdir)}
    assert "is complete: nothing to do" in evaluate(config, workdir)
    shutil.rmtree(weights)
    clip = ClipInput(4, 32, "stride", 4, mean=(0.1, 0.1, 0.1))
    write_weights(random_weights(parts=("encoder",), clip=clip), weights, "safetensors")
    assert "complete: 1 task, 2 models" in evaluate(config, workdir)
    assert "weights, data or this program have changed" in caplog.text
    after = {line["model"]: line["value"] for line in lines(workdir)}
    assert {name for name in after if after[name] != before[name]} == {"encoder"}

    def relabelled(*arguments, change):
        data = load(*arguments)
        first, *others = data.samples
        other = dataclasses.replace(first, **change)
        return dataclasses.replace(data, samples=[other, *others])

    load = suite.load
    ef = load("adult", config.data.adult, tmp_path / "bad", True).samples[0].targets
    for change in ({"targets": ef | {"ef": 1.0}}, {"study": "another"}):
        monkeypatch.setattr(suite, "load", functools.partial(relabelled, change=change))
        assert "complete: 1 task, 2 models" in evaluate(config, workdir)
        assert "is complete: nothing to do" in evaluate(config, workdir)


def test_every_architecture_and_size_has_its_own_controls(
    small, encoder, tmp_path, cache, few_pixels
):
    """Tubes of pixels have other random weights; another size has other tokens."""
    paths = [str(encoder)]
    for name, family in (("mae", VIDEOMAE), ("twin", V2)):
        shape = dataclasses.replace(TINY, family=family)
        clip = ClipInput(4, 32, "stride", 4)
        write_weights(
            random_weights(shape, None, ("encoder",), clip), tmp_path / name, "safetensors"
        )
        paths.append(str(tmp_path / name))
    config = small("geometry")
    config.weights = tuple(paths)
    facts = suite.opened(config, tmp_path).facts
    assert [*facts] == ["encoder", "mae", "twin", "initial", "initial-mae", "pca"]
    assert "architecture of mae" in facts["initial-mae"].about
    shutil.copytree(tmp_path / "mae", tmp_path / "encoder-16px")
    config.weights = (str(encoder), str(tmp_path / "encoder-16px"))
    config.clip.more_sizes = (16,)
    with pytest.raises(UserError, match="two models would have the name encoder-16px in tables"):
        suite.opened(config, tmp_path)
    config.weights = paths[:1]
    assert [*suite.opened(config, tmp_path).facts] == [
        *("encoder", "encoder-16px", "initial", "initial-encoder-16px"),
        *("pca", "pca-encoder-16px"),
    ]


def test_f18_every_field_of_a_suite_is_read(copy, small, monkeypatch):
    """By what encodes, trains and draws resamples; not by tables that only show it."""
    config = changed(
        small(),
        {
            "controls": ("pca",),
            "tasks.heads.heads": ("mlp",),
            "tasks.views.shares": (0.5,),
            "tasks.multiview.ablations": False,
            "tasks.robustness.perturbations": ("h264",),
        },
    )
    assert {options.kind for options in config.tasks.values()} == set(KINDS)
    assert dict(leaves(config)).keys() == configs.fields_of(config).keys()
    for folder in (suite.RESULTS, suite.HEADS):
        shutil.rmtree(copy / folder)
    recorder = Recorder.of(config)
    Recorder.read.clear()
    recorder, _ = configs.used(recorder)
    monkeypatch.setattr(suite, "_facts_of", lambda *_: {})
    interrupt_at(monkeypatch, suite.rows, "of_task", 1)
    with pytest.raises(KeyboardInterrupt):
        suite.run(recorder, copy, suite.opened(recorder, copy))
    assert configs.fields_of(config).keys() - Recorder.read == set()


@pytest.fixture
def model(encoder):
    how = models.HowToEncode(0, 0, "", 0.0, "steps", "float32", 0)
    return models.open_weights("encoder", str(encoder), how)


def features(root, model, samples, rows, perturbation=None):
    wanted = stored.Wanted("adult", samples, rows, 1, "steps", "float32", "float32", perturbation)
    stored.make(root, model, wanted)
    found = stored.load(root, model.facts, wanted)
    return found.tokens[found.at[found.place[rows]]]


def test_degraded_features_do_not_depend_on_the_order_of_videos(model, tmp_path, cache):
    samples = manifest.load((PHANTOM,), quarantine=None, workers=1)[:5]
    haze = Perturbation("haze", "high")
    one = features(tmp_path / "1", model, samples, [0, 1, 2, 3, 4], haze)
    two = features(tmp_path / "2", model, samples[::-1], [0, 2, 4], haze)
    np.testing.assert_array_equal(two, one[[4, 2, 0]])
    clean = features(tmp_path / "1", model, samples, [0, 1, 2, 3, 4])
    assert np.abs(clean - one).max() > 1e-3


def test_parts_are_one_array(tmp_path, model, monkeypatch, cache):
    samples = manifest.load((PHANTOM,), quarantine=None, workers=1)[:5]
    whole = features(tmp_path / "1", model, samples, [0, 1, 2, 3, 4])
    monkeypatch.setattr(stored, "PART", 2)
    parts = features(tmp_path / "2", model, samples, [0, 1, 2, 3, 4])
    assert len(list((tmp_path / "2").glob("*/part-*.npy"))) == 3
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


def test_contiguous_clips_are_other_features_of_the_same_weights(encoder, tmp_path, cache):
    samples = manifest.load((PHANTOM,), quarantine=None, workers=1)[:2]
    found = []
    for place in PLACES:
        how = models.HowToEncode(0, 0, "", 0.0, "steps", "float32", 0, place)
        model = models.open_weights("encoder", str(encoder), how)
        found.append(features(tmp_path, model, samples, [0, 1]))
    assert len(list(tmp_path.iterdir())) == 2
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-30],
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],  # an array
        lambda content: content.replace(b"matrix", b"motrix"),
    ],
)
def test_damaged_components_are_made_again(damage, tmp_path, caplog):
    made, file = (np.arange(20.0), np.arange(60.0).reshape(20, 3)), tmp_path / "pca.npz"
    pixels._kept(file, lambda: made)
    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert file.read_bytes() != content
    for _ in range(2):
        found = pixels._kept(file, lambda: made)
        assert all(map(np.array_equal, found, made))
    (record,) = caplog.records
    assert record.message.startswith(f"{file} is made again: ")


def test_principal_components_are_those_of_their_own_sizes(tmp_path, cache, few_pixels):
    """An earlier encoder of other sizes had left its components in the workdir."""
    train = manifest.load((PHANTOM,), quarantine=None, workers=1)[:5]
    clip, how = ClipSpec(8, 32, "stride", 2.0), models.HowToEncode(0, 0, "", 0.0, "steps", "", 0)
    for tubelet, width in ((2, 3), (2, 4), (4, 3)):
        facts = models.of_pixels(models.PCA, tmp_path, train, clip, tubelet, 8, width, how).facts
        assert (facts.width, facts.tokens, facts.times) == (width, 8 // tubelet, 8 // tubelet)
        assert f"{tubelet} frames" in facts.about
    assert len(list(tmp_path.iterdir())) == 3


def test_another_normalisation_is_another_model(encoder, tmp_path):
    """Adapters normalised twice or with other numbers, and nobody could see it in a table."""
    weights = models.load_encoder_weights(str(encoder))
    how = models.HowToEncode(0, 0, "", 0.0, "mean", "float32", 0)
    white = dataclasses.replace(weights.clip, std=(1.0, 1.0, 1.0))
    other = dataclasses.replace(weights, clip=white)
    marks = {models.of_pretrained("m", "", w, how).facts.fingerprint for w in (weights, other)}
    assert len(marks) == 2


def test_names_of_models_are_short_and_different():
    assert models.names_of(["runs/a", "out/b/"]) == ["a", "b"]
    assert models.names_of(["x/run", "y/run"]) == ["x-run", "y-run"]
    assert models.names_of(["runs/initial"]) == ["runs-initial"]
    assert models.names_of(["runs/pca-a"]) == ["runs-pca-a"]
    with pytest.raises(UserError, match="names the same model twice"):
        models.names_of(["runs/a", "runs/a/"])


def test_the_shipped_config_is_accepted():
    config = shipped()
    config.weights = ("runs/demo",)
    configs.check(config)
    assert {options.kind for options in config.tasks.values()} == set(KINDS)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": ()}, "no model is named: name at least one with --weights"),
        ({"controls": ("random",)}, "'controls' has 'random', but it must contain only 'initial'"),
        ({"tasks.lvef.kind": "regresion"}, "'regresion', but it must be one of regression"),
        ({"tasks.lvef.data": "adlut"}, r"'tasks\.lvef\.data' is 'adlut', .* adult, pediatric"),
        ({"tasks.lvef.heads": ("deep",)}, r"must name heads such as linear, pca512-linear"),
        ({"tasks.multiview.head": "mean-attentive-4"}, r"head that can see all views together"),
        ({"tasks.lvef.seeds": (0.5,)}, "at least one whole number"),
        ({"tasks.views.shares": (0.0,)}, "must be above 0 and at most 1"),
        ({"tasks.robustness.perturbations": ("fog",)}, "must contain only these kinds"),
        ({"tasks.multiview.views": ("A4C",)}, "must name several views"),
        ({"tasks.segmentation.structures": ("LV", "RV")}, "must name some of LV, myocardium, LA"),
        ({"data.adult.val_split": "test"}, "must be three different names"),
        ({"clip.sample_by": "fps"}, "must be given with sample_by=fps"),
        ({"probe.lr": 1.0}, r"unknown field 'probe\.lr'"),
    ],
)
def test_an_impossible_config_is_one_sentence_that_names_the_field(changes, sentence):
    config = changed(shipped(), {"weights": ("runs/demo",)} | changes)
    with pytest.raises(UserError, match=sentence):
        configs.check(config)


def test_result_files_hold_what_scores_need(complete):
    found = json.loads((complete / suite.RESULTS / "views" / "pca" / "seed0.json").read_text())
    cell = found["cells"][0]
    assert len(cell["ids"]) == len(cell["true"]) == len(cell["predicted"]) == VIDEOS["test"]
    assert np.allclose(np.sum(cell["predicted"], axis=1), 1)
