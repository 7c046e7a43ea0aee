"""What tests of probes share: a tiny encoder with random weights, and a shrunken shipped config."""

from pathlib import Path

import pytest

from echojepa_jax.train.claim import claimed
from echojepa_jax.train.load_weights import load_encoder_weights
from echojepa_jax.train.workdir import Workdir
from echojepa_jax.weights.pretrained import ClipInput
from echojepa_jax.weights.write import write_weights
from tests import programs
from tests.makers.configs import PHANTOM
from tests.makers.weights import random_weights

SHRINK = {
    "data.sources": (PHANTOM,),
    "data.clips": 2,
    "head.heads": 2,
    "head.hidden": 8,
    "optim.learning_rates": (1e-2, 1e-3),
    "optim.weight_decays": (0.1,),
    "optim.epochs": 3,
    "optim.batch": 8,
    "eval.bootstrap": 50,
}


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> Path:
    """An exported encoder of 24 channels for clips of 4 frames of 32 pixels."""
    clip = ClipInput(4, 32, "stride", 4)
    weights = random_weights(predictor=None, parts=("encoder",), clip=clip)
    # Random bits of unit size would make features that no head of this size can read.
    for leaf in _leaves(weights.params["encoder"]):
        leaf *= 0.2
    folder = tmp_path_factory.mktemp("weights") / "encoder"
    write_weights(weights, folder, "safetensors")
    return folder


def _leaves(tree):
    for value in tree.values():
        yield from _leaves(value) if isinstance(value, dict) else [value]


@pytest.fixture
def tiny_probe(encoder_folder):
    """configs/probes/phantom_lvef.py, shrunken; call it with changes as section__field=value."""
    from configs.probes import phantom_lvef

    def make(**changes):
        config = phantom_lvef.get_config()
        config.weights = str(encoder_folder)
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        config.update_from_flattened_dict(SHRINK | changes)
        return config

    return make


@pytest.fixture
def train_probe():
    """What the program does before it writes its report, in this process."""
    from echojepa_jax.probes import config as configs
    from echojepa_jax.probes.run import run

    def train(config, workdir):
        configs.check(config, 8)
        with claimed(Workdir(workdir), config):
            summary = run(config, workdir, load_encoder_weights(config.weights))
            Workdir(workdir).mark_done(config.optim.epochs)
            return summary

    return train


@pytest.fixture
def run_probe(encoder_folder):
    """Runs the program as a user does, in a process of its own with that many devices."""

    def run(*arguments, devices=1, shrink=True):
        fields = SHRINK | {"weights": encoder_folder} if shrink else {}
        return programs.run("probe", *arguments, *programs.as_fields(fields), devices=devices)

    return run
