"""Every shipped config: accepted, built, and as large as the tables say."""

import importlib

import jax
import pytest

from echojepa_jax.masking.masks import check_mask
from echojepa_jax.train import config as configs
from echojepa_jax.train.state import init_params, make_networks, make_schedules
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.trees import count_parameters

SHIPPED = ["demo", "demo_adapt", "vit_l", "vit_l_cooldown", "vit_g", "vit_g_cooldown"]
SHIPPED += ["demo_v21", "vit_b_v21", "vit_b_v21_cooldown", "vit_l_v21", "vit_l_v21_cooldown"]
SHIPPED += ["vit_l_v21_full", "vit_l_v21_images"]
SHIPPED += ["demo_mae", "mae_l", "mae_l_paper"]


def shipped(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    configs.fill_sources(config)
    return config


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_is_accepted_and_builds(name):
    config = shipped(name)
    configs.check(config, devices=8)
    networks = make_networks(config)
    shapes = jax.eval_shape(
        lambda: init_params(networks, jax.random.key(0), config.data.frames, config.data.size)
    )
    encoder, predictor = (count_parameters(shapes[k]) / 1e6 for k in ("encoder", "predictor"))
    if name in ("vit_l_v21_full", "vit_l_v21_images"):
        # 42.6 M in the blocks, 7.7 M before and after them.
        assert predictor == pytest.approx(42.6 + 7.7, abs=0.1)
    elif name.startswith("vit_b"):
        # As its authors count the public file.
        assert encoder == pytest.approx(86.8, abs=0.05)
        assert predictor == pytest.approx(22.2, abs=0.3)
    elif name.startswith("vit_l"):
        assert encoder == pytest.approx(304, abs=0.9)
        assert predictor == pytest.approx(22, abs=0.5)
    elif name.startswith("mae_l"):
        assert encoder == pytest.approx(303.86, abs=0.01)
        assert predictor == pytest.approx(14, abs=0.5)
    elif name.startswith("vit_g"):
        assert encoder == pytest.approx(1010, abs=5)
        assert predictor == pytest.approx(22, abs=0.7)
    grid = networks.encoder.grid(config.data.frames, config.data.size, config.data.size)
    for spec in configs.mask_specs(config).values():
        check_mask(spec, grid)


@pytest.mark.parametrize(
    ("name", "updates", "total", "lr"),
    [
        # name, updates, length of the schedules, learning rate at the first and the last update
        ("vit_l", 72_000, 90_000, (3.33e-5 + (1.75e-4 - 3.33e-5) / 12_000, 1.75e-4)),
        ("vit_l_cooldown", 24_000, 24_000, (1.75e-4 - 1.74e-4 / 24_000, 1e-6)),
        ("vit_g", 120_000, 120_000, (2.08e-5 + (1.094e-4 - 2.08e-5) / 1500, 1.094e-4)),
        ("vit_g_cooldown", 60_000, 60_000, (5.47e-5 - 5.4596e-5 / 60_000, 1.04e-7)),
        ("vit_b_v21", 72_000, 90_000, (3.33e-5 + (1.75e-4 - 3.33e-5) / 12_000, 1.75e-4)),
        ("vit_l_v21", 36_000, 45_000, (3.33e-5 + (1.75e-4 - 3.33e-5) / 12_000, 1.75e-4)),
        ("vit_l_v21_cooldown", 9_000, 9_000, (1.75e-4 - 1.74e-4 / 9_000, 1e-6)),
    ],
)
def test_recipes_of_the_paper(name, updates, total, lr):
    config = shipped(name)
    optim = config.optim
    assert optim.updates_per_epoch * optim.epochs == updates
    assert int(optim.updates_per_epoch * optim.epochs * optim.ipe_scale) == total
    schedule = make_schedules(config)
    assert schedule.learning_rate(1) == pytest.approx(lr[0], rel=1e-9)
    assert schedule.learning_rate(updates) == pytest.approx(lr[1], rel=1e-9)
    assert schedule.weight_decay(updates // 2) == pytest.approx(0.04)
    assert schedule.momentum(updates // 2) == pytest.approx(0.99925)
    # Learning rates scale with the batch: 5.25e-4 at 3,072 clips.
    if not name.endswith("cooldown"):
        assert optim.peak_lr == pytest.approx(5.25e-4 * optim.global_batch / 3072, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "updates", "start", "peak", "last"),
    [
        ("mae_l", 343_500, 4e-6, 1.5e-4 * 1024 / 256, 1e-5 * 1024 / 256),
        ("mae_l_paper", 84_132, 4e-6, 8.789e-7 * 1024 / 256, 4e-6),
    ],
)
def test_recipes_of_the_baseline(name, updates, start, peak, last):
    config = shipped(name)
    optim, schedule = config.optim, make_schedules(config)
    assert optim.updates_per_epoch * optim.epochs == updates
    assert schedule.learning_rate(1) == pytest.approx(start)
    warmup = int(optim.warmup_epochs * optim.updates_per_epoch)
    assert schedule.learning_rate(warmup) == pytest.approx(peak, rel=1e-3)
    assert schedule.learning_rate(updates) == pytest.approx(last, rel=1e-3)
    assert schedule.momentum is None
    mine, theirs = config.data.to_dict(), shipped("vit_l").data.to_dict()
    if name == "mae_l":
        assert mine == theirs  # the same videos, clips and crops
        assert warmup == pytest.approx(0.05 * updates, abs=1)


@pytest.mark.parametrize("name", ["vit_l", "vit_g", "vit_l_v21", "vit_b_v21"])
def test_a_cooldown_starts_from_a_checkpoint_that_its_pretraining_keeps(name):
    kept, start = shipped(name).checkpoint.keep_every, shipped(f"{name}_cooldown").init.step
    assert start % kept == 0


def assert_refused(config, changes, sentence):
    """That `configs.check` says this of a config with these fields, whatever their types."""
    for name, value in changes.items():
        *sections, field = name.split(".")
        part = config
        for key in sections:
            part = part[key]
        with part.unlocked(), part.ignore_type():
            part[field] = value
    with pytest.raises(UserError, match=sentence):
        configs.check(config, devices=8)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.depht": 3}, r"unknown field 'model\.depht'; the nearest is 'model\.depth'"),
        ({"optim.steps": 3}, r"number of steps is optim\.epochs x optim\.updates_per_epoch"),
        ({"optim.lr": 0.1}, r"unknown field 'optim\.lr'; the nearest is 'optim\.peak_lr'"),
        ({"optim.batch_size": 8}, r"'optim\.batch_size'; the nearest is 'optim\.global_batch'"),
        ({"data.csv": "a"}, r"unknown field 'data\.csv'$"),
        ({"optim.peak_lr": "0.1"}, r"'optim\.peak_lr' is '0\.1', but it must be of type float"),
        ({"log.tensorboard": 1}, r"must be of type bool"),
        ({"model.depth": True}, r"must be of type int"),
        ({"optim.global_batch": 30}, r"30, .* multiple of .* 8 x 1; the nearest is 32"),
        ({"data.crop_area": (0.5, "a")}, "must be of type tuple of numbers"),
        ({"data.crop_area": (0.9, 0.5)}, "the smaller first"),
        ({"data.weights": (1.0, 2.0)}, "one positive number for each of the 1 sources"),
        ({"predictor.heads": 12}, r"'predictor\.heads' is 12, but it leaves 4 channels per head"),
        ({"data.frames": 15}, r"multiple of model\.tubelet, 2"),
        ({"optim.momentum": (0.9, 1.1)}, "between 0 and 1"),
        ({"data.std": (0.2, 0.2, 0)}, "three positive numbers"),
        ({"optim.peak_lr": 0.0}, "must be positive"),
        ({"model.family": "videomae"}, r"'model\.family' .* needs objective=mae: .*=demo_mae"),
        ({"masks.large.keep": "rastr"}, "the nearest is 'raster'"),
        (
            {"masks.small.scale": 1.5},
            r"'masks\.small': .*'scale' must be greater than 0 and less than 1",
        ),
        ({"masks.large.context_tokens": 500}, r"'masks\.large': .* use at most context_tokens="),
        ({"data.weights": (0.0,)}, "one positive number"),
        ({"data.sample_by": "stride", "data.sample_value": 1.5}, "a whole number of frames"),
        ({"optim.final_lr": 0.1}, r"must not be above optim\.peak_lr"),
        ({"optim.schedule": "linear"}, r"'optim\.warmup_epochs' .* is not used by"),
        ({"optim.betas": (0.9, 1.0)}, "at least 0 and below 1"),
        ({"checkpoint.keep_every": 450}, r"must be a multiple of checkpoint\.every, 300"),
        ({"probe.batch": 12}, r"'probe\.batch' is 12, .*the nearest is 16"),
        ({"probe.test_split": "train"}, r"must differ from probe\.train_split"),
        ({"probe.targets": (), "probe.view": False}, "must name a target"),
    ],
)
def test_an_impossible_config_is_one_sentence_that_names_the_field(changes, sentence):
    assert_refused(shipped("demo"), changes, sentence)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images.sources": ()}, r"'images\.sources' .* at least one source"),
        ({"images.share": 1.0}, r"'images\.share' is 1\.0, but it must be above 0 and below 1"),
        ({"images.size": 100}, r"'images\.size' .* multiple of model\.patch, 16; .* 96"),
        ({"images.global_batch": 4}, r"'images\.global_batch' .* 8 x 1; the nearest is 8"),
        ({"images.mask.scale": 2.0}, r"section 'images\.mask': .*'scale'"),
        ({"images.frames": 2}, r"unknown field 'images\.frames'"),
        (
            {"model.family": "v2", "objective.levels": 1, "objective.context_weight": 0.0}
            | {"objective.context_ramp": (0, 0), "objective.by_distance": False},
            r"'model\.family' is 'v2', but it must be v2\.1 in a config with 'images'",
        ),
    ],
)
def test_impossible_images_are_one_sentence(changes, sentence):
    assert_refused(shipped("vit_l_v21_images"), changes, sentence)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("mae.mask", "tubes", "the nearest is 'tube'"),
        ("mae.mask_ratio", 0.001, r"'mae\.mask_ratio': a tube .* hides 0 of 512 tokens"),
        ("predictor.mask_tokens", 10, "must be 1 with objective=mae"),
        ("data.sample_by", "share", "must be at most 1, the whole video"),
        ("optim.schedule", "cosine", "must be one of warmup_cosine, warmup_cosine_from_0, linear"),
        ("objective", {"levels": 1}, r"'model\.family' is 'videomae', .* needs .*objective=mae"),
        ("objective", "jepa", r"'model\.family' is 'videomae', .* needs .*objective=mae"),
        ("model.family", "v2", r"must be videomae with objective=mae; to train V-JEPA, .*=demo"),
    ],
)
def test_an_impossible_config_of_the_baseline_names_the_field(field, value, sentence):
    assert_refused(shipped("demo_mae"), {field: value}, sentence)


def test_an_earlier_config_of_the_baseline_gets_its_objective():
    earlier = shipped("demo_mae")
    del earlier.objective
    assert configs.complete(earlier).to_dict() == shipped("demo_mae").to_dict()


def test_a_missing_field_is_named():
    config = shipped("demo")
    del config.data.size
    with pytest.raises(UserError, match=r"lacks the field 'data\.size'"):
        configs.check(config, devices=1)
