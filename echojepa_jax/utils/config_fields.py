"""Fields of a config: a table of rows by dotted name, which documents and checks them."""

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ml_collections import ConfigDict

from echojepa_jax.utils.errors import UserError

TEXTS = tuple[str, ...]
NUMBERS = tuple[float, ...]
_TYPE_NAMES = {TEXTS: "tuple of strings", NUMBERS: "tuple of numbers"}


class Rule(NamedTuple):
    """A condition on the value of a field, and its text, such as "must be positive"."""

    fits: Callable[[Any], bool]
    text: str


POSITIVE = Rule(lambda value: value > 0, "must be positive")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "must not be negative")
RANGE = Rule(
    lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1],
    "must be two positive numbers, the smaller first",
)
RANGE_TO_1 = Rule(
    lambda pair: RANGE.fits(pair) and pair[1] <= 1, f"{RANGE.text}, the larger at most 1"
)


@dataclasses.dataclass(frozen=True)
class Field:
    """A row of the table of a program's fields.

    Attributes:
      type: bool, int, float, str, TEXTS or NUMBERS. A float may be written as an integer.
      meaning: for the documentation, without the default value.
      rule: a condition on the value, in addition to its type.
      choices: the allowed strings; empty = any.
    """

    type: Any
    meaning: str
    rule: Rule | None = None
    choices: Collection[str] = ()

    @property
    def type_name(self) -> str:
        return _TYPE_NAMES.get(self.type) or self.type.__name__


def described(fields: Mapping[str, Field]) -> Iterator[tuple[str, str, str]]:
    """(name, type, meaning) of every field, for the reference pages."""
    for name, field in fields.items():
        meaning = field.meaning
        if field.choices:
            meaning += f": {', '.join(field.choices)}"
        if field.rule:
            meaning += f"; {field.rule.text}"
        yield name, field.type_name, meaning


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All fields of a config as ("section.field", value)."""
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


_ELSEWHERE = {
    "lr": ("peak_lr", "learning_rates"),
    "learning_rate": ("peak_lr", "learning_rates"),
    "batch_size": ("global_batch", "batch"),
}
"""Names of fields in many other programs, and the names here, in training and in probes."""


def nearest(name: str, names: list[str]) -> str:
    """A hint at the field that was probably meant; it may be empty."""
    # Many other programs have a field for the number of steps; here it is a product.
    if re.search(r"(^|[._])(steps|iterations|iters)$", name) and "optim.epochs" in names:
        product = "optim.epochs x optim.updates_per_epoch"
        product = product if "optim.updates_per_epoch" in names else "set by optim.epochs"
        return f"; the number of steps is {product}"
    by_leaf = {n.rsplit(".", 1)[-1]: n for n in names}
    leaf = name.rsplit(".", 1)[-1]
    # A wrong hint is worse than none: two fields of one section have much text in common.
    close = difflib.get_close_matches(name, names, 1, 0.85) or [
        by_leaf[other]
        for other in (
            *(other for other in _ELSEWHERE.get(leaf, ()) if other in by_leaf),
            *(other for other in by_leaf if other.startswith(f"{leaf}_")),
            *difflib.get_close_matches(leaf, by_leaf, 1, 0.75),
        )
    ]
    return f"; the nearest is {close[0]!r}" if close else ""


def read_config(path: Path) -> ConfigDict:
    """The config.json of a run.

    Raises:
      UserError: there is none, or it is damaged.
    """
    try:
        return ConfigDict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The entries in which two dictionaries differ, as text for a sentence."""
    return [
        f"{name} ({there.get(name, 'missing')!r} there, {now.get(name, 'missing')!r} now)"
        for name in sorted(set(there) | set(now))
        if there.get(name) != now.get(name)
    ]


def require(condition: bool, field: str, value: Any, rule: str) -> None:
    """Raises UserError about the field unless the condition holds."""
    if not condition:
        raise UserError(f"config field {field!r} is {value!r}, but it {rule}")


def require_multiple(field: str, value: int, of: int, what: str) -> None:
    """Raises UserError with the nearest possible value unless `value` is a multiple of `of`.

    Args:
      what: `of` as text, such as "model.patch, 16".
    """
    near = max(1, round(value / of)) * of
    rule = f"must be a multiple of {what}; the nearest is {near}"
    require(value % of == 0, field, value, rule)


def check_fields(config: ConfigDict, fields: Mapping[str, Field]) -> None:
    """Checks that a config has exactly the fields of a table, each with an allowed value.

    Raises:
      UserError: names the first field that is unknown or missing, or whose type or value is wrong.
    """
    values = dict(leaves(config))
    for name in values:
        if name not in fields:
            raise UserError(
                f"the config has an unknown field {name!r}{nearest(name, list(fields))}"
            )
    for name, field in fields.items():
        if name not in values:
            raise UserError(f"the config lacks the field {name!r} ({field.meaning})")
        value = values[name]
        rule = f"must be of type {field.type_name} ({field.meaning})"
        require(_is_of(field.type, value), name, value, rule)
        if field.choices:
            close = difflib.get_close_matches(value, list(field.choices), 1)
            hint = f"; the nearest is {close[0]!r}" if close else ""
            rule = f"must be one of {', '.join(field.choices)}{hint}"
            require(value in field.choices, name, value, rule)
        if field.rule:
            require(field.rule.fits(value), name, value, field.rule.text)


def _is_of(kind: Any, value: Any) -> bool:
    if items := get_args(kind):
        return isinstance(value, tuple) and all(_is_of(items[0], item) for item in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
