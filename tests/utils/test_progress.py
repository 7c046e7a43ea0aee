"""How long is left is told by what comes after the first item, which compiles."""

import logging

from echojepa_jax.utils import progress


def test_the_first_item_does_not_count_for_the_time_that_is_left(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    times = iter([100.0, 104.0, 116.0, 126.0])  # the end of every item
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    assert list(progress.with_progress("abcd", 4, "what")) == list("abcd")
    assert [r.getMessage() for r in caplog.records] == ["what: 3 of 4, 8s left", "what: 4 of 4"]
