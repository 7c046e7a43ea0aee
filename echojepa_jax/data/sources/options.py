"""Options behind the path of a source: "camus:/data/CAMUS,key=value"."""

import os
import re
from collections.abc import Mapping

from echojepa_jax.utils.errors import UserError


def split_options(
    path: str, defaults: Mapping[str, str], source: str
) -> tuple[str, dict[str, str]]:
    """The path itself, and the options, given or by default.

    What stands behind a comma is an option if it is a word and an equals sign, and there is nothing
    of that name; any other comma is part of the path.

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
            raise UserError(f"Source {source!r} has no option {key!r}; there is: {known}.")
        options[key] = value
    return path, options
