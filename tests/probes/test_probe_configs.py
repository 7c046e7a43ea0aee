"""Every shipped probe config is accepted, and every mistake in one is a sentence."""

import importlib
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from echojepa_jax.probes import config as configs
from echojepa_jax.train.config import complete
from echojepa_jax.utils.config_fields import leaves
from echojepa_jax.utils.errors import UserError
from tests.programs import REPOSITORY

SHIPPED = sorted(path.stem for path in (REPOSITORY / "configs" / "probes").glob("*.py"))


def shipped(name):
    config = importlib.import_module(f"configs.probes.{name}").get_config()
    config.weights = config.weights or "out/encoder"
    config.data.sources = config.data.sources or ("csv:/data/table.csv",)
    return config


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_is_accepted_and_says_how_to_run_it(name):
    configs.check(shipped(name), devices=1)
    text = (REPOSITORY / "configs" / "probes" / f"{name}.py").read_text()
    for word in (f"--config=configs/probes/{name}.py", "Hardware:", "Duration:", "Expect:"):
        assert word in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"head.knid": "linear"}, r"unknown field 'head\.knid'; the nearest is 'head\.kind'"),
        ({"optim.lr": 0.1}, r"'optim\.lr'; the nearest is 'optim\.learning_rates'"),
        ({"data.cache": 8}, r"'data\.cache'; the nearest is 'data\.cache_gb'"),
        ({"head.kind": "atentive"}, "the nearest is 'attentive'"),
        ({"head.kind": "linear"}, r"'head\.tokens' is 'all', but it needs the attentive head"),
        ({"task.views": ("A4C", 3)}, "must be of type tuple of strings"),
        ({"optim.batch": 60}, r"microbatches = 4 x 16; the nearest is 64"),
        ({"optim.learning_rates": ()}, "at least one number"),
        ({"encoder.drop_path": 0.1}, "has no meaning for a frozen encoder: set it to 0"),
        ({"encoder.trainable": True}, "needs one learning rate and one weight decay"),
        ({"data.augment": "orignal"}, "must be one of none, crops, original; the nearest is 'orig"),
        ({"data.val_split": "test"}, "must be three different names"),
        ({"data.train_share": 1.5}, "must be above 0 and not above 1"),
        ({"task.target": "view"}, "task.kind=classification"),
        ({"head.view_dropout": 0.1}, r"needs several task\.views"),
        ({"optim.class_weights": True}, r"is for task\.kind=classification: set it to False"),
        ({"optim.focal_gamma": 2.0}, r"is for task\.kind=classification: set it to 0"),
        ({"weights": ""}, "must name the encoder's weights"),
    ],
)
def test_an_impossible_config_is_one_sentence_that_names_the_field(changes, sentence):
    config = shipped("lvef")
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=sentence):
        configs.check(config, devices=4)


@pytest.mark.parametrize(("before", "now"), [(False, "none"), (True, "crops")])
def test_a_config_of_an_earlier_version_means_what_it_meant(before, now):
    config = shipped("view")
    old = config.to_dict()
    old["data"]["augment"] = before
    del old["data"]["place"], old["optim"]["class_weights"], old["optim"]["focal_gamma"]
    config.data.augment = now
    assert complete(ConfigDict(old)) == config


def test_f18_every_field_is_read_somewhere():
    text = "".join(
        path.read_text()
        for path in (REPOSITORY / "echojepa_jax").rglob("*.py")
        if path.name != "config.py" or path.parent.name != "probes"
    )
    text += configs.make_head.__doc__ + Path(configs.__file__).read_text().split("def make_head")[1]
    for name, _ in leaves(shipped("lvef")):
        field = name.rpartition(".")[2]
        assert re.search(rf"(\.|\[\")({field})\b", text), name
