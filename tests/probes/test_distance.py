"""The distance from the training data: Mahalanobis's, with a limit that validation sets."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from echojepa_jax.probes import distance

WIDTH = 20


def drawn(count, seed, shift=0.0, width=WIDTH):
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(9).standard_normal((4, width))
    along = rng.standard_normal((count, 4)) @ mixed
    return (5 + along + 0.1 * rng.standard_normal((count, width)) + shift).astype(np.float32)


def test_it_is_mahalanobis_with_the_covariance_of_probabilistic_pca():
    train, val = drawn(60, 0), drawn(50, 1)
    found = distance.fit(train, val)
    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    pca = PCA(len(found.axes)).fit((train - mean) / scale)
    away = (val - mean) / scale
    expected = np.sqrt(np.einsum("nd,de,ne->n", away, pca.get_precision(), away))
    measured = found.distances(val) * found.limit
    np.testing.assert_allclose(measured, expected, rtol=1e-3)
    assert found.limit == pytest.approx(np.quantile(expected, 0.95), rel=1e-3)


def test_one_in_twenty_is_far_and_what_is_elsewhere_is_far():
    found = distance.fit(drawn(500, 0), drawn(400, 1))
    assert 0.02 < np.mean(found.distances(drawn(2000, 2)) > 1) < 0.1
    # Off the directions in which training varies, a small step is far.
    rng = np.random.default_rng(3)
    odd = drawn(100, 2) + 0.5 * rng.standard_normal((100, WIDTH)).astype(np.float32)
    assert (found.distances(odd) > 1).mean() > 0.9
    assert (found.distances(drawn(100, 2) * 3) > 1).mean() > 0.9


def test_the_unit_of_a_channel_does_not_matter():
    units = np.logspace(-3, 3, WIDTH).astype(np.float32)
    train, val, new = drawn(60, 0), drawn(50, 1), drawn(50, 2)
    one = distance.fit(train, val).distances(new)
    other = distance.fit(train * units, val * units).distances(new * units)
    np.testing.assert_allclose(one, other, rtol=1e-2)


@pytest.mark.parametrize("width", [1, 3, 200])
def test_few_examples_and_constant_channels_have_a_distance(width):
    train, val = drawn(8, 0, width=width), drawn(4, 1, width=width)
    if width > 1:
        train[:, 0] = val[:, 0] = 1.0
    found = distance.fit(train, val)
    assert np.isfinite(found.distances(val)).all()
    assert found.distances(train + 1000).min() > 1


def test_without_examples_there_is_no_distance():
    train, val = drawn(8, 0), drawn(4, 1)
    assert distance.fit(train[:2], val) is None
    assert distance.fit(train, val[:0]) is None
    assert distance.fit(np.ones((8, 3)), np.ones((4, 3))) is None


def test_flags():
    assert [distance.flag(x) for x in (0.99, 1.0, 1.01, np.nan)] == ["near", "near", "far", ""]
