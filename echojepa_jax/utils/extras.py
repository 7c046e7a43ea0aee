"""Commands that install optional packages (the extras of pyproject.toml), for messages."""

from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]


def pip_install(extra: str) -> str:
    """The command that installs an extra, such as "torch", for this installation."""
    if (_CHECKOUT / "pyproject.toml").exists():
        return f'pip install -e "{_CHECKOUT}[{extra}]"'
    return f'pip install "echojepa_jax[{extra}]"'
