"""A stand-in for ml_collections, for machines that have nothing but JAX and the model's libraries.

Configs are written with `ConfigDict`. The benchmark runs where ml_collections may be missing; this
has as much of it as reading a config needs.
"""

import ast
import runpy
import sys
import types
from pathlib import Path
from typing import Any

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

    Raises:
      UserError: the file is not there, or has no such field.
    """
    if not Path(path).is_file():
        raise UserError(f"--config={path}: there is no such file; the shipped ones are in configs/")
    sys.path.insert(0, ".")  # configs import each other
    config = runpy.run_path(path)["get_config"]()
    for name, text in fields.items():
        *sections, field = name.split(".")
        part = config
        for section in sections:
            part = part.get(section, {})
        if field not in part:
            raise UserError(f"the config has no field {name!r}")
        part[field] = text if isinstance(part[field], str) else ast.literal_eval(text)
    return config


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
