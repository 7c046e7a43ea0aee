"""Functions of the package that a test listens to, or interrupts."""

from collections.abc import Callable
from typing import Any


def before(monkeypatch, owner: Any, name: str, does: Callable[[Any], Any]) -> None:
    """Calls `does` with the first argument of every call of `owner.name`, before that call."""
    real = getattr(owner, name)

    def call(first, *others, **named):
        does(first)
        return real(first, *others, **named)

    monkeypatch.setattr(owner, name, call)


def interrupt_at(monkeypatch, owner: Any, name: str, number: int) -> list[Any]:
    """Ends one call of `owner.name` as Ctrl-C does; returns the first arguments of all calls."""
    calls: list[Any] = []

    def note(first):
        calls.append(first)
        if len(calls) == number:
            raise KeyboardInterrupt

    before(monkeypatch, owner, name, note)
    return calls
