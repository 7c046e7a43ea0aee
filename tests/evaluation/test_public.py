"""The suite on public data sets: every layout in miniature, through the shipped config."""

import shutil
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs.evaluation import public
from echojepa_jax.api import evaluate
from echojepa_jax.evaluation import config as configs
from echojepa_jax.evaluation import suite
from echojepa_jax.preparation.plan import Options
from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights.pretrained import ClipInput
from echojepa_jax.weights.write import write_weights
from tests.makers import public_sets, tables
from tests.makers.prepared import prepared
from tests.makers.weights import random_weights

pytestmark = pytest.mark.slow

SMALL_PROBE = {
    "learning_rates": (1e-2,),
    "attentive_rates": (1e-2,),
    "mask_rates": (1e-1,),
    "weight_decays": (0.1,),
    "epochs": 1,
    "batch": 4,
    "heads": 2,
    "hidden": 8,
}
SMALL_TASKS = {
    "dynamic_lvef": {"heads": ("linear",)},
    "dynamic_robustness": {"head": "linear", "perturbations": ("shadow",)},
    "pediatric_lvef": {"head": "linear"},
    "camus_lvef": {"heads": ("linear",)},
    "camus_views": {"shares": (1.0,)},
    "tmed2_views": {"heads": ("linear",), "shares": (1.0,)},
    "tmed2_stenosis": {"heads": ("linear",)},
    "mimic_lvef": {"heads": ("linear",)},
    "mimic_rvsp": {"head": "linear", "ablations": False},
}


def shrunken(weights: str, sets: Path) -> ConfigDict:
    """The shipped config for miniature sets, with few, short probes of one seed."""
    config = public.get_config()
    config.weights, config.controls, config.bootstrap = (weights,), (), 10
    config.clip.update(more_sizes=(16,))
    config.features.update(encoder_dtype="float32", dtype="float32", workers=0)
    config.probe.update(SMALL_PROBE)
    for section in config.data.values():
        sources = tuple(source.replace("/data/", f"{sets}/") for source in section.sources)
        section.update(sources=sources, max_bad_share=0.0, workers=1)
    for name, options in config.tasks.items():
        options.update(SMALL_TASKS.get(name, {}), seeds=(0,))
    return config


def of_camus(weights: str, sets: Path) -> ConfigDict:
    config = shrunken(weights, sets)
    config.only, config.pca_data, config.clip.more_sizes = ("camus",), "camus", ()
    return config


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An exported encoder that was trained on clips of 4 frames, every fourth one."""
    weights = random_weights(parts=("encoder",), clip=ClipInput(4, 32, "stride", 4))
    folder = tmp_path_factory.mktemp("weights") / "encoder"
    write_weights(weights, folder, "safetensors")
    return str(folder)


@pytest.fixture(scope="module")
def sets(videos, tmp_path_factory):
    """The folder that holds what the shipped config expects in /data."""
    folder = tmp_path_factory.mktemp("sets")
    public_sets.write(folder, videos)
    return folder


@pytest.fixture(scope="module")
def complete(encoder, sets, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("public") / "run"
    evaluate(shrunken(encoder, sets), workdir)
    return workdir


def lines(workdir):
    return tables.rows(workdir / suite.CSV)


def test_every_public_set_fills_its_tables(complete):
    found = [line for line in lines(complete) if line["model"] == "encoder"]
    assert {line["task"] for line in found} == set(public.get_config().tasks)
    main = {(x["task"], x["variant"]): x for x in found if x["score"] in ("mae", "accuracy")}
    scored = {key: (int(x["examples"]), int(x["not_scored"])) for key, x in main.items()}
    of = "probe=of echonet_dynamic; scored on=echonet_pediatric; views="
    assert scored["dynamic_lvef", "head=linear"] == (2, 0)
    assert scored["pediatric_lvef", f"{of}all"] == (4, 0)
    assert scored["pediatric_lvef", f"{of}PSAX"] == (2, 0)
    assert scored["pediatric_lvef", f"{of}all; age=1 to 6"] == (2, 0)
    assert scored["pediatric_lvef", f"{of}all; age=12 and more"] == (2, 0)
    assert ("pediatric_lvef", f"{of}all; age=below 1") not in scored
    assert scored["camus_lvef", "head=linear; level=video"] == (4, 0)
    assert scored["camus_lvef", "head=linear; level=study"] == (2, 0)
    for task, frames in (("camus_segmentation", 8), ("dynamic_segmentation", 4)):
        dice = [x for x in found if x["task"] == task and x["score"] == "dice"]
        assert {(x["examples"], x["not_scored"]) for x in dice} == {(str(frames), "0")}
    assert scored["tmed2_views", "head=linear; labels=100 %"] == (4, 0)
    stenosis = {
        level: scored["tmed2_stenosis", f"head=linear; labels=100 %; level={level}"]
        for level in ("video", "study", "study majority")
    }
    assert stenosis == {"video": (4, 0), "study": (2, 0), "study majority": (2, 0)}
    assert scored["mimic_lvef", "head=linear; level=video"] == (2, 0)
    assert scored["mimic_rvsp", ""] == (2, 0)
    assert scored["mimic_views", "head=linear; labels=100 %"] == (4, 0)
    robust = [variant for task, variant in scored if task == "dynamic_robustness"]
    assert len(robust) == 1 + 3


def test_numbers_of_the_paper_stand_beside_those_of_its_data_sets(complete):
    text = (complete / suite.MARKDOWN).read_text()
    published = [row.split(" | ") for row in text.splitlines() if "as published" in row]
    names = [next(cell for cell in row if "as published" in cell) for row in published]
    assert len([row for row in published if "4.32" in row]) == 1, "zero-shot, all ages and views"
    assert len([row for row in published if "3.88" in row]) == 1
    assert names.count("EchoJEPA-L, as published") == 2 + 4
    theirs = [line for line in lines(complete) if line["model"].endswith("as published")]
    assert len(theirs) == len(published)
    assert {line["value"] for line in theirs if "EchoJEPA-G" in line["model"]} == {"4.32", "3.88"}
    assert {(line["score"], line["unit"]) for line in theirs} == {("mae", "points")}


def test_another_size_is_another_model_of_the_same_weights(complete):
    found = {line["model"]: line for line in lines(complete) if line["examples"]}
    guesses = {"mean of training", "commonest class", "mean mask of training"}
    assert set(found) == {"encoder", "encoder-16px"} | guesses
    tokens = [int(found[name]["tokens_of_a_clip"]) for name in ("encoder", "encoder-16px")]
    assert tokens[0] == 4 * tokens[1]


def test_a_user_who_has_one_set_names_it(encoder, sets, tmp_path):
    config = of_camus(encoder, sets)
    config.data.echonet_dynamic.sources = ()
    evaluate(config, tmp_path / "run")
    tasks = {"camus_lvef", "camus_segmentation", "camus_views"}
    assert {line["task"] for line in lines(tmp_path / "run")} == tasks
    left_out = ", ".join(name for name in config.tasks if not name.startswith("camus"))
    assert f"were left out: {left_out}." in (tmp_path / "run" / suite.MARKDOWN).read_text()


def test_clips_by_stride_need_no_frame_rates(encoder, sets, tmp_path):
    """Neither where the config says so, nor where the weights do."""
    shutil.copytree(sets / "CAMUS_public", tmp_path / "CAMUS_public")
    for path in tmp_path.rglob("Info_*.cfg"):
        path.write_text(path.read_text().replace("FrameRate: 48.5", ""))
    config = of_camus(encoder, tmp_path)
    del config.tasks.camus_lvef
    config.clip.update(sample_by="", sample_value=0.0)
    evaluate(config, tmp_path / "run")
    config.clip.update(sample_by="fps", sample_value=8.0)
    with pytest.raises(UserError, match=r"12 of 12 files .* were rejected .12 no frame rate"):
        evaluate(config, tmp_path / "other")


def test_a_prepared_set_stands_in_the_place_of_its_source(complete, encoder, sets, tmp_path):
    config = of_camus(encoder, sets)
    prepared(config.data.camus.sources[0], tmp_path / "camus", Options(size=64))
    config.data.camus.sources = (str(tmp_path / "camus"),)
    del config.tasks.camus_segmentation, config.tasks.camus_views
    evaluate(config, tmp_path / "run")

    def of_lvef(workdir):
        rows = [x for x in lines(workdir) if (x["task"], x["score"]) == ("camus_lvef", "mae")]
        return {(x["variant"], x["model"]): x for x in rows if x["model"] != "encoder-16px"}

    found, direct = of_lvef(tmp_path / "run"), of_lvef(complete)
    assert found.keys() == direct.keys()
    for key, line in found.items():
        same = ("examples", "patients", "not_scored", "kind", "unit")
        assert [line.get(x) for x in same] == [direct[key].get(x) for x in same]
        # Pictures of a prepared set are JPEG.
        close = 1e-12 if key[1] == "mean of training" else 0.05
        assert float(line["value"]) == pytest.approx(float(direct[key]["value"]), rel=close)


@pytest.mark.parametrize(
    ("only", "sentence"),
    [
        (
            ("echonet",),
            r"'only' is \('echonet',\), but it must contain only sections of data: camus, ",
        ),
        (("camus",), "'pca_data' is 'echonet_dynamic', .* sections of data, camus"),
    ],
)
def test_what_the_user_has_must_be_enough(only, sentence):
    config = public.get_config()
    config.weights, config.only = ("out/encoder",), only
    with pytest.raises(UserError, match=sentence):
        configs.check(configs.used(config)[0])
