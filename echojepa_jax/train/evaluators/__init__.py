"""Measures of a model while it trains: one file for each kind.

The training loop asks every evaluator after its steps and writes what it measures to the metrics.
A new one is a file here that makes an `Evaluator`, and a line in `train/loop.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

from echojepa_jax.train.state import Networks, TrainState
from echojepa_jax.utils.metrics_writer import Values


class Moment(NamedTuple):
    """When an evaluator is asked.

    step: updates made. last: whether the run is complete. stop_asked: whether a signal has asked
    this host to stop meanwhile.
    """

    step: int
    state: TrainState
    networks: Networks
    last: bool
    stop_asked: Callable[[], bool]


class Evaluator(NamedTuple):
    """Something that is measured at the end of a run, and every so often before.

    name: the first part of the names of its metrics. every: steps between two measures; 0 = at the
    end only. at_start: whether the untrained model is measured too. measure: returns metrics and
    pictures by name; raises Stopped if a signal asked to stop before it was done.
    """

    name: str
    every: int
    at_start: bool
    measure: Callable[[Moment], Values]

    def is_due(self, moment: Moment) -> bool:
        """Whether this is a moment to measure."""
        regular = self.every and moment.step % self.every == 0
        return bool(moment.last or (regular and (moment.step or self.at_start)))
