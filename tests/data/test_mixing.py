"""Shares of several sources, and the sentences that describe them."""

from types import SimpleNamespace

import pytest

from echojepa_jax.data import mixing
from echojepa_jax.data.sample import Sample


def samples(**counts):
    return [
        Sample(f"{source}{k}", "", source) for source, count in counts.items() for k in range(count)
    ]


def settings(temperature=1.0, weights=()):
    return SimpleNamespace(sources=("a", "b"), weights=weights, temperature=temperature)


def test_a_higher_temperature_makes_shares_more_equal():
    mine = samples(a=16, b=4)
    assert mixing.weights(settings(), mine) is None
    assert mixing.weights(settings(2.0), mine) == pytest.approx({"a": 4.0, "b": 2.0})
    assert mixing.weights(settings(weights=(1, 3)), mine) == {"a": 1.0, "b": 3.0}
    assert mixing.weights(settings(2.0), samples(a=16)) is None


def test_the_share_of_each_source_is_described():
    mine = samples(a=16, b=4)
    assert list(mixing.describe_mix(mine, {"a": 4.0, "b": 2.0}, clips=600)) == [
        "a: 66.7% of the clips; its 16 videos are seen 25 times each",
        "b: 33.3% of the clips; its 4 videos are seen 50 times each",
    ]
    assert next(mixing.describe_mix(mine, None, clips=100)).startswith("a: 80.0% of the clips")
    assert not list(mixing.describe_mix(samples(a=3), None, clips=100))
