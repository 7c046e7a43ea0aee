"""Units of labels: found in the samples, and compared between data and a probe."""

from collections.abc import Iterable

from echojepa_jax.data.sample import Sample, by_name
from echojepa_jax.utils.errors import UserError


def unit_of(samples: Iterable[Sample], target: str) -> str:
    """The unit that the sources of these samples give to a target; "" if none of them does.

    Raises:
      UserError: two sources give the target in different units.
    """
    found: dict[str, tuple[str, str]] = {}
    for sample in samples:
        if unit := by_name(sample.units, target):
            found.setdefault(_plain(unit), (unit, sample.source))
    if len(found) > 1:
        (one, first), (other, second) = list(found.values())[:2]
        raise UserError(
            f"the label {target!r} is in {one} in {first}, but in {other} in {second}: convert one "
            "of them, or use one source"
        )
    return next(iter(found.values()))[0] if found else ""


def check_unit(mine: str, theirs: str, target: str) -> None:
    """Checks that a probe predicts in the unit of the data that it is scored on.

    Raises:
      UserError: both units are known, and they differ.
    """
    if mine and theirs and _plain(mine) != _plain(theirs):
        raise UserError(
            f"the probe predicts {target!r} in {mine}, but the source has it in {theirs}: convert "
            "the labels of the source"
        )


def _plain(unit: str) -> str:
    return unit.strip().lower()


def of_errors(unit: str) -> str:
    """The unit of a difference; "points" for "%", because "8 %" could mean 8 % of the value."""
    return "points" if unit == "%" else unit
