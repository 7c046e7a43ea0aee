"""A head is trained once for a suite, and reads what it needs and no more."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.evaluation import fit as fits
from echojepa_jax.evaluation import heads
from echojepa_jax.evaluation.data import divided
from echojepa_jax.evaluation.fit import HowToFit, fit, predict
from echojepa_jax.evaluation.tasks import regression, robustness, transfer
from tests.makers.labelled import VIEWS, data_of, probe_config

pytestmark = pytest.mark.slow

EF = {"data": "adult", "target": "ef", "views": ()}
GAIN = [Perturbation("gain", severity) for severity in ("low", "medium", "high")]
TASKS = (
    (regression, {"heads": ("linear", "pca3-linear"), "by_study": False}),
    (robustness, {"head": "linear", "perturbations": ("gain",)}),
    (transfer, {"head": "linear", "to": "child", "alone": (), "ages": ()}),
)


@pytest.fixture
def data(tmp_path):
    found = {"adult": data_of(perturbations=GAIN), "child": data_of(30, "child")}
    return {k: dataclasses.replace(one, heads=tmp_path / k) for k, one in found.items()}


@pytest.fixture
def trainings(monkeypatch):
    """The heads that were trained; grows with every training."""
    found = []

    def counted(how, *arguments):
        found.append(how.head)
        return fit(how, *arguments)

    monkeypatch.setattr(heads, "fit", counted)
    return found


def answers(data):
    probe = probe_config(epochs=2)
    return [task.run(data, ConfigDict(EF | options), probe, 0) for task, options in TASKS]


def test_a_head_is_trained_once_whatever_tasks_use_it(data, trainings):
    whole = answers({name: dataclasses.replace(one, heads=None) for name, one in data.items()})
    assert len(trainings) == 2 + 1 + 2
    trainings.clear()
    first = answers(data)
    assert trainings == ["linear", "pca3-linear", "linear"]  # adult, adult, child
    assert answers(data) == first == whole, "bit for bit"
    assert len(trainings) == 3


def test_a_damaged_head_is_trained_again(data, trainings):
    first = answers(data)
    files = sorted(path for one in data.values() for path in one.heads.iterdir())
    assert len(files) == 2 * 3
    for path in files[:3]:  # two sets of arrays, and what one of them was made from
        path.write_bytes(path.read_bytes()[:-9])
    trainings.clear()
    assert answers(data) == first
    assert len(trainings) == 2


def test_what_a_head_is_trained_from_is_a_part_of_its_name(data, trainings):
    adult = data["adult"]
    parts = divided(adult, "regression", "ef", (), study=False)
    few = dataclasses.replace(parts, train=parts.train[::2])
    other = [dataclasses.replace(e, label=e.label + 1) for e in parts.val]
    how = HowToFit("linear")
    for arguments in (
        (how, adult, parts, probe_config(), 0),
        (how, adult, parts, probe_config(), 1),
        (how, adult, parts, probe_config(epochs=2), 0),
        (dataclasses.replace(how, updates=5), adult, parts, probe_config(), 0),
        (how, adult, few, probe_config(), 0),
        (how, adult, dataclasses.replace(parts, val=other), probe_config(), 0),
    ):
        for _ in range(2):
            heads.trained(*arguments)
    assert trainings == 6 * ["linear"]
    # The test split has no part in training.
    heads.trained(how, adult, dataclasses.replace(parts, test=[]), probe_config(), 0)
    assert len(trainings) == 6


@pytest.mark.parametrize(("head", "fusion"), [("linear", "late"), ("mlp", "early")])
def test_the_mean_token_is_as_good_as_all_tokens(head, fusion, monkeypatch):
    """Linear and MLP heads need no more; they read all tokens in every epoch."""
    data = data_of()
    parts = divided(data, "regression", "ef", VIEWS, study=True)
    how = HowToFit(head, views=3, streams=True, fusion=fusion, view_dropout=0.3)
    features, found = data.features[None], []
    for averages in (True, False):
        monkeypatch.setattr(fits.HeadChoice, "averages", averages)
        fitted = fit(how, features, parts.train, parts.val, parts.task, probe_config(), 0)
        found.append(predict(fitted, features, parts.test, 4)[0])
    np.testing.assert_allclose(*found, rtol=1e-4)
    assert np.ptp(found[0]) > 5


def test_a_head_of_mean_tokens_scores_each_clip_alone():
    """As the paper probed EchoMAE: one vector of a clip, and the mean of what clips give."""
    data = data_of()
    parts = divided(data, "regression", "ef", (), study=False)
    one = data.features[None]
    count = len(one.at)
    noise = np.random.default_rng(2).standard_normal(one.tokens.shape)
    both = dataclasses.replace(
        one,
        tokens=np.concatenate([one.tokens, one.tokens + noise]).astype(np.float32),
        at=np.stack([np.arange(count), count + np.arange(count)], axis=1),
        there=np.ones(2 * count, bool),
        repeats=np.zeros((count, 2), bool),
    )
    means = both.tokens.mean(axis=1, keepdims=True).repeat(3, axis=1)

    def predictions(head, *seen):
        learned = both, parts.train, parts.val, parts.task, probe_config()
        fitted = fit(HowToFit(head), *learned, 0)
        return [predict(fitted, features, parts.test, 4)[0] for features in seen]

    clips = [dataclasses.replace(both, at=both.at[:, k : k + 1]) for k in (0, 1)]
    clips = [dataclasses.replace(c, repeats=c.repeats[:, :1]) for c in clips]
    seen = both, dataclasses.replace(both, tokens=means), *clips
    together, of_means, first, second = predictions("mean-attentive-1", *seen)
    np.testing.assert_allclose(together, of_means, rtol=1e-4)
    np.testing.assert_allclose(together, (first + second) / 2, rtol=1e-4)
    assert np.ptp(together) > 5
    together, of_means, first, second = predictions("attentive-1", *seen)
    assert np.abs(together - of_means).max() > 0.1
    assert np.abs(together - (first + second) / 2).max() > 0.1


class Counted:
    """Tokens that count the bytes that are read."""

    def __init__(self, tokens):
        self.tokens, self.shape, self.bytes = tokens, tokens.shape, 0

    def __getitem__(self, places):
        found = self.tokens[places]
        self.bytes += found.nbytes
        return found


@pytest.mark.parametrize("head", ["attentive-1", "linear"])
def test_a_grid_of_six_heads_reads_and_batches_as_much_as_one(head, monkeypatch):
    """Only the work of heads may be six times as much."""
    data, read, batches = data_of(), [], []
    features = data.features[None]
    parts = divided(data, "regression", "ef", (), study=False)
    step = fits.grids.grid_step

    def counted(heads, tokens, *arguments):
        batches.append(tokens.nbytes)
        return step(heads, tokens, *arguments)

    monkeypatch.setattr(fits.grids, "grid_step", counted)
    for rates, decays in (((1e-2,), (0.1,)), ((1e-2, 3e-3), (0.0, 0.01, 0.1))):
        tokens = Counted(features.tokens)
        grid = {"learning_rates": rates, "attentive_rates": rates, "weight_decays": decays}
        probe = probe_config(standardise=False, epochs=1, **grid)
        some = dataclasses.replace(features, tokens=tokens)
        fit(HowToFit(head), some, parts.train, parts.val, parts.task, probe, 0)
        read.append(tokens.bytes)
    assert read[0] == read[1] > 0
    one, six = np.split(np.array(batches), 2)
    np.testing.assert_array_equal(one, six)
    if head == "linear":
        assert read[0] == features.tokens.nbytes, "once, for the means"
