"""Options after the path of a source: "camus:/data/CAMUS,key=value"."""

import os
import re
from collections.abc import Mapping

from echojepa_jax.utils.errors import UserError


def split_options(
    path: str, defaults: Mapping[str, str], source: str
) -> tuple[str, dict[str, str]]:
    """Splits a source's path from its options; options that are not given have their defaults.

    Text after a comma is an option if it starts with a word and an equals sign, and no file has
    that name; every other comma is part of the path.

    Raises:
      UserError: an option is unknown.
    """
    options = dict(defaults)
    while match := re.fullmatch(r"(.*),([a-z_]+)=([^,/]*|[^,]*)", path, re.DOTALL):
        before, key, value = match.groups()
        if os.path.lexists(os.path.expanduser(f"{before},{key}={value.partition('/')[0]}")):
            break
        path = before
        if key not in defaults:
            known = ", ".join(f"{name}={value}" for name, value in defaults.items())
            raise UserError(
                f"source {source!r} has no option {key!r}: the options with defaults are {known}"
            )
        options[key] = value
    return path, options
