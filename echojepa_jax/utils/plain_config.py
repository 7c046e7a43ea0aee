"""A stand-in for ml_collections, for machines that have nothing but JAX and the model's libraries.

Configs are written with `ConfigDict`. The benchmark runs where ml_collections may be missing; this
has as much of it as reading a config needs.
"""

import ast
import runpy
import sys
import types
from typing import Any

from echojepa_jax.utils import shipped_configs
from echojepa_jax.utils.errors import UserError


class ConfigDict(dict):
    """A dict whose entries are attributes; dicts inside become the same."""

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, ConfigDict.of(value) if isinstance(value, dict) else value)

    def update(self, *others: Any, **values: Any) -> None:
        for name, value in dict(*others, **values).items():
            self[name] = value

    @classmethod
    def of(cls, value: dict[str, Any]) -> "ConfigDict":
        made = cls()
        made.update(value)
        return made


def stand_in() -> None:
    """Makes `import ml_collections` give this module's `ConfigDict`, if the real one is missing."""
    try:
        import ml_collections  # noqa: F401
    except ImportError:
        module: Any = types.ModuleType("ml_collections")
        module.ConfigDict = ConfigDict
        sys.modules["ml_collections"] = module


def load(path: str, fields: dict[str, str]) -> Any:
    """The config of a file, with fields such as {"optim.global_batch": "64"} changed.

    Args:
      path: or the name of a shipped config, see `shipped.find`.

    Raises:
      UserError: the file is not there, or has no such field.
    """
    # Late, for it wants `stand_in` to have been called.
    from echojepa_jax.utils.config_fields import leaves, nearest

    path = shipped_configs.find(path)
    shipped_configs.let_import(path)
    try:
        config = runpy.run_path(path)["get_config"]()
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise UserError(f"{path} does not load: {type(error).__name__}: {error}") from error
    known = dict(leaves(config))
    for name, text in fields.items():
        if name not in known:
            raise UserError(f"the config has no field {name!r}{nearest(name, list(known))}")
        *sections, field = name.split(".")
        part = config
        for section in sections:
            part = part[section]
        part[field] = _as(type(known[name]), name, text)
    return config


def _as(kind: type, name: str, text: str) -> Any:
    """The value that a text means for a field of that type."""
    if kind is str:
        return text
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"config field {name!r} = {text!r} must be of type {kind.__name__}")
    return value


def split_fields(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Takes `--config.section.field=value` out of a command line."""
    rest, fields = [], {}
    for word in argv:
        name, _, value = word.removeprefix("--config.").partition("=")
        if word.startswith("--config."):
            fields[name] = value
        else:
            rest.append(word)
    return rest, fields
