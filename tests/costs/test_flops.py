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


def test_a_transformer_without_attention_counts_its_weights_twice():
    weights = 12 * 64**2 * 3
    assert flops.transformer(1, 64, 3, 256) == pytest.approx(2 * weights + 4 * 64 * 3)
