"""Worst and best cases of a task as strips of frames."""

import dataclasses

import numpy as np
import pytest

from echojepa_jax.data import manifest
from echojepa_jax.evaluation.cells import MEASURE, Cell
from echojepa_jax.evaluation.films import films_of
from echojepa_jax.probes.worst import FRAMES, strip_of

pytestmark = pytest.mark.slow


def test_films_are_of_the_worst_and_of_the_best_examples(hearts):
    source = f"echonet_dynamic:{hearts}"
    samples = manifest.load((source,), quarantine=None, workers=1)[:7]
    names = [sample.name for sample in samples]
    cell = Cell(
        {"head": "linear"},
        "regression",
        unit="%",
        ids=[*names, "study of nobody"],
        patients=[f"{source}#p{i}" for i in range(8)],
        studies=[""] * 8,
        views=["A4C"] * 8,
        true=[50.0] * 8,
        predicted=[50.5, 70.0, 49.0, 20.0, 51.5, float("nan"), 60.0, 50.0],
    )
    found = films_of(cell, samples)
    # The last example has the smallest error, but there is no video of it.
    wanted = [*(("worst", names[i]) for i in (5, 3, 1, 6)), ("best", names[0])]
    assert [(film.rank, film.name) for film in found] == wanted
    assert (found[1].true, found[1].predicted, found[1].view) == ("50.0 %", "20.0 %", "A4C")
    np.testing.assert_array_equal(found[1].picture, strip_of(samples[3]))
    # Eight frames of 64 pixels with gaps of three; the first second is at most that long.
    assert found[1].picture.shape == (64, FRAMES * 64 + 3 * (FRAMES - 1), 3)

    shares = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]
    views = dataclasses.replace(
        cell, kind="classification", classes=["A2C", "A4C"], true=[0, 0, 0], predicted=shares,
        ids=names[:3],
    )  # fmt: skip
    found = films_of(views, samples)
    assert [(film.name, film.predicted) for film in found] == [
        *((names[1], "A4C"), (names[2], "A2C"), (names[0], "A2C"))
    ]
    assert films_of(Cell({}, MEASURE), samples) == []


def test_a_strip_shows_the_first_second(hearts):
    (sample, *_) = manifest.load((f"echonet_dynamic:{hearts}",), quarantine=None, workers=1)
    assert sample.frames > sample.fps
    first, whole = strip_of(sample), strip_of(dataclasses.replace(sample, fps=0.0))
    np.testing.assert_array_equal(first[:, :64], whole[:, :64])
    assert (first[:, -64:] != whole[:, -64:]).any()
    assert strip_of(dataclasses.replace(sample, path="/nowhere/there.avi")) is None
