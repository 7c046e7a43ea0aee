"""What one item does costs that item only: crashes, hangs, errors, memory."""

import os
import time

import pytest

from echojepa_jax.runtime.sandbox import Failed, Guard


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
    with Guard(2, seconds=3, gigabytes=2) as guard:
        results = list(guard.over(work, items, refusals=(LookupError,)))
        assert list(guard.over(work, ["d"])) == ["D"], "the processes are still there"
    assert [r if isinstance(r, str) else r.reason.partition(":")[0] for r in results] == [
        *("A", "crashed", "B", "refused", "too slow", "too large", "C")
    ]
    assert Failed("refused: for a reason") in results


def fault(item: str) -> str:
    raise ZeroDivisionError(item)


def test_a_mistake_of_the_program_is_raised():
    with Guard(1, seconds=30) as guard:
        assert list(guard.over(fault, ["a"], otherwise="odd")) == [Failed("odd: ZeroDivisionError")]
        with pytest.raises(ZeroDivisionError, match="a"):
            list(guard.over(fault, ["a"], refusals=(LookupError,)))
