"""Fields of a config: listed by their dotted names, and checked against a table of types."""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from echojepa_jax.utils.errors import UserError


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All fields of a config as ("section.field", value)."""
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def nearest(name: str, names: list[str]) -> str:
    """A hint at the field that was probably meant."""
    # What other programs call so is a product here.
    if re.search(r"(^|[._])(steps|iterations|iters)$", name) and "optim.epochs" in names:
        told = "optim.epochs x optim.updates_per_epoch"
        told = told if "optim.updates_per_epoch" in names else "set by optim.epochs"
        return f"; the number of steps is {told}"
    by_leaf = {n.rsplit(".", 1)[-1]: n for n in names}
    close = difflib.get_close_matches(name, names, 1, 0.6) or [
        by_leaf[leaf]
        for leaf in difflib.get_close_matches(name.rsplit(".", 1)[-1], by_leaf, 1, 0.5)
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
    """Entries in which two dictionaries differ, for a sentence."""
    return [
        f"{name} ({there.get(name, 'not there')!r} there, {now.get(name, 'not there')!r} now)"
        for name in sorted(set(there) | set(now))
        if there.get(name) != now.get(name)
    ]


def require(condition: bool, field: str, value: Any, rule: str) -> None:
    """Raises UserError about a field whose value is impossible."""
    if not condition:
        raise UserError(f"config field {field!r} is {value!r}, but it {rule}")


def one_of(field: str, value: str, allowed: Collection[str]) -> None:
    """Raises UserError unless the value is a word of that list."""
    close = difflib.get_close_matches(str(value), list(allowed), 1)
    hint = f"; the nearest is {close[0]!r}" if close else ""
    require(value in allowed, field, value, f"must be one of {', '.join(allowed)}{hint}")


def check_types(
    config: ConfigDict, fields: Mapping[str, tuple[type, str]], text_tuples: Collection[str]
) -> dict[str, Any]:
    """The values of a config by name, if it has exactly the fields of the table.

    Args:
      fields: name -> (type, meaning). A float may be written as an integer.
      text_tuples: names of the tuples that hold texts; all others hold numbers.

    Raises:
      UserError: one sentence about the first field that is unknown, missing or of another type.
    """
    values = dict(leaves(config))
    for name in values:
        if name not in fields:
            raise UserError(
                f"the config has an unknown field {name!r}{nearest(name, list(fields))}"
            )
    for name, (kind, meaning) in fields.items():
        if name not in values:
            raise UserError(f"the config lacks the field {name!r} ({meaning})")
        value = values[name]
        fits = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
        require(
            fits or (kind is float and type(value) is int),
            name,
            value,
            f"must be of type {kind.__name__} ({meaning})",
        )
        if kind is tuple:
            wanted: tuple[type, ...] = (str,) if name in text_tuples else (int, float)
            what = "texts" if name in text_tuples else "numbers"
            require(
                all(type(item) in wanted for item in value),
                name,
                value,
                f"must hold {what} ({meaning})",
            )
    return values
