"""The cache folder, for results that can be created again."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder named by `$ECHOJEPA_CACHE`, else `~/.cache/echojepa_jax`; it may not exist yet."""
    named = os.environ.get("ECHOJEPA_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "echojepa_jax"
