"""Model FLOPs: the figures of the paper's configs."""

import importlib

import pytest

from echojepa_jax.costs import flops


def test_vit_l_costs_what_is_known_of_it():
    clip = flops.of_clip(importlib.import_module("configs.vit_l").get_config())
    assert clip.target == pytest.approx(1.19e12, rel=0.01)
    assert clip.predictor == pytest.approx(0.40e12, rel=0.02)
    assert clip.total == pytest.approx(2.3e12, rel=0.03)
    # By hand: 296 and 80 tokens, three times forward.
    by_hand = sum(2 * n * 24 * 1024**2 * 12 + 4 * n * n * 24 * 1024 for n in (296, 80))
    assert clip.context == pytest.approx(3 * by_hand)


def test_vit_l_and_its_baseline_cost_what_the_paper_overlooked():
    """In multiply-adds of a clip, which are two FLOPs each; of tokens that are embedded alone."""

    def cost(name):
        clip = flops.of_clip(importlib.import_module(f"configs.{name}").get_config())
        return {part: value / 2e9 for part, value in vars(clip).items()} | {"all": clip.total / 2e9}

    jepa, mae = cost("vit_l"), cost("mae_l")
    assert mae["target"] == 0
    assert mae["context"] == pytest.approx(154 - 5, abs=1)  # less those not embedded
    assert mae["predictor"] == pytest.approx(93 - 3.6, abs=0.5)  # less bridge and head
    assert mae["all"] == pytest.approx(247 - 4.4, rel=0.01)
    assert jepa["all"] == pytest.approx(1164 - 8, rel=0.01)
    assert jepa["all"] / mae["all"] == pytest.approx(4.77, abs=0.01)


@pytest.mark.parametrize(("baseline", "name"), [("mae_l", "vit_l"), ("demo_mae", "demo")])
def test_a_fair_baseline_costs_as_much(baseline, name):
    def cost(name):
        config = importlib.import_module(f"configs.{name}").get_config()
        return flops.of_step(config) * config.optim.epochs * config.optim.updates_per_epoch

    assert cost(baseline) == pytest.approx(cost(name), rel=0.01)


def test_a_transformer_without_attention_counts_its_weights_twice():
    weights = 12 * 64**2 * 3
    assert flops.transformer(1, 64, 3, 256) == pytest.approx(2 * weights + 4 * 64 * 3)
