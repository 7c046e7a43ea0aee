"""Derived random generators."""

import numpy as np
import pytest

from echojepa_jax.utils.rng import generator
from tests.programs import run_code

GOLDEN = (7359835040032626616, 7695702828388390284)


def first(*names) -> int:
    return int(generator(*names).integers(2**63))


def test_values_never_change():
    # A change here changes the clips and masks of every run that resumes.
    assert first(0) == GOLDEN[0]
    assert first(7, "mask", 1, 1000, 5) == GOLDEN[1]


def test_every_part_of_the_name_counts():
    names = [
        (0,),
        (1,),
        (0, "a"),
        (0, "b"),
        (0, "a", 1),
        (0, "a1"),
        (0, "a", "1"),
        (0, 1, "a"),
        (0, 11),
        (0, 1, 1),
    ]
    assert len({first(*name) for name in names}) == len(names)


def test_numpy_integers_are_integers_and_other_types_are_refused():
    assert first(np.int64(3), np.int32(4)) == first(3, 4)
    with pytest.raises(TypeError):
        generator(0, 1.5)


def test_another_process_draws_the_same():
    code = (
        "from echojepa_jax.utils.rng import generator;"
        "print(generator(5, 'crop', 2).integers(2**63))"
    )
    assert int(run_code(code).stdout) == first(5, "crop", 2)


def test_neighbouring_names_are_uncorrelated():
    draws = np.array(
        [[generator(0, step, position).random() for position in range(50)] for step in range(50)]
    )
    for ahead in (draws[1:], draws[:, 1:]):
        behind = draws[: ahead.shape[0], : ahead.shape[1]]
        assert abs(np.corrcoef(ahead.ravel(), behind.ravel())[0, 1]) < 0.07
    assert abs(draws.mean() - 0.5) < 0.02
