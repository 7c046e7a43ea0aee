"""What one item does costs that item only: crashes, hangs, errors, memory."""

import os
import time

import pytest

from echojepa_jax.utils.guarded import Failed, Guard


def work(item: str) -> str:
    """Does what its argument says."""
    if item == "crash":
        os.abort()
    if item == "hang":
        time.sleep(600)
    if item == "refuse":
        raise LookupError("refused: for a reason")
    if item == "eat":
        return str(len(bytearray(10**10)))
    return item.upper()


def test_every_item_has_a_result_or_a_reason():
    items = ["a", "crash", "b", "refuse", "hang", "eat", "c"]
    guard = Guard(work, seconds=3, refusals=(LookupError,), gigabytes=2)
    results = list(guard.over(items, workers=2))
    assert [r if isinstance(r, str) else r.reason.partition(":")[0] for r in results] == [
        *("A", "crashed", "B", "refused", "too slow", "too large", "C"),
    ]
    assert Failed("refused: for a reason") in results


def fault(item: str) -> str:
    raise ZeroDivisionError(item)


def test_a_mistake_of_the_program_is_raised():
    with pytest.raises(ZeroDivisionError, match="a"):
        list(Guard(fault, seconds=30, refusals=(LookupError,)).over(["a"], workers=1))
