"""Units of labels come from the sources, and names of labels ignore case."""

import pytest

from echojepa_jax.data.sample import Sample, by_name
from echojepa_jax.data.units import check_unit, of_errors, unit_of
from echojepa_jax.utils.errors import UserError


def sample(source, **units):
    return Sample("a", "/a.avi", source, targets={name: 1.0 for name in units}, units=units)


def test_units_of_several_sources_must_agree():
    known, same, none = sample("one", rvsp="mmHg"), sample("two", RVSP="mmhg"), sample("three")
    assert unit_of([known, same, none], "rvsp") == "mmHg"
    assert unit_of([none], "rvsp") == ""
    with pytest.raises(UserError, match=r"'rvsp' is in mmHg in one, but in kPa in four: convert"):
        unit_of([known, none, sample("four", rvsp="kPa")], "rvsp")


def test_a_probe_is_scored_in_its_own_unit_where_both_are_known():
    for mine, theirs in (("%", "%"), ("mL", "ml"), ("", "kPa"), ("kPa", "")):
        check_unit(mine, theirs, "x")
    with pytest.raises(UserError, match="predicts 'x' in mmHg, but the source has it in kPa"):
        check_unit("mmHg", "kPa", "x")
    assert [of_errors(unit) for unit in ("%", "mmHg", "")] == ["points", "mmHg", ""]


def test_a_name_is_the_same_in_any_case_unless_there_are_two():
    assert by_name({"EF": 1.0}, "ef") == 1.0
    assert by_name({"EF": 1.0, "ef": 2.0}, "ef") == 2.0
    assert by_name({"EF": 1.0, "Ef": 2.0}, "ef") is None
