"""Evaluators: measures of a model during training, one file for each kind.

The training loop calls the evaluators that are due after a step and writes their results to the
metrics. A new evaluator is a file here that creates an `Evaluator`, and a line in `train/loop.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

from echojepa_jax.train.state import Networks, TrainState
from echojepa_jax.utils.metrics_writer import Values


class Moment(NamedTuple):
    """The moment at which an evaluator is called.

    step: number of steps made. last: whether the run is complete. stop_asked: returns whether this
    host has been asked to stop in the meantime.
    """

    step: int
    state: TrainState
    networks: Networks
    last: bool
    stop_asked: Callable[[], bool]


class Evaluator(NamedTuple):
    """A measure of the model, taken at the end of a run and at regular steps.

    name: the first part of the names of its metrics. every: steps between two measures; 0 = only at
    the end. at_start: whether the untrained model is measured too. measure: returns metrics and
    pictures by name; raises Stopped if a host was asked to stop before it was done.
    """

    name: str
    every: int
    at_start: bool
    measure: Callable[[Moment], Values]

    def is_due(self, moment: Moment) -> bool:
        """Whether to measure at this moment."""
        regular = self.every and moment.step % self.every == 0
        return bool(moment.last or (regular and (moment.step or self.at_start)))
