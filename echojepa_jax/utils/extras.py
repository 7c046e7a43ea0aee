"""How to install what only some users need, for messages: the extras of pyproject.toml."""

from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]


def pip_install(extra: str) -> str:
    """The command that installs an extra such as "torch" beside the package that runs."""
    if (_CHECKOUT / "pyproject.toml").exists():
        return f'pip install -e "{_CHECKOUT}[{extra}]"'
    return f'pip install "echojepa_jax[{extra}]"'
