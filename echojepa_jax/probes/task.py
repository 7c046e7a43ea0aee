"""What a probe predicts: labels into what it is trained on, and its outputs back into labels."""

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from echojepa_jax.probes.examples import Example, Label
from echojepa_jax.utils.errors import UserError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Task:
    """Scaling and classes, which come from the training split alone.

    unit: of a regression's target, as its sources state it; "" = unknown.
    mean, std: of the targets of a regression. classes: names, in the order of the outputs.
    commonest: the class that most training examples have.
    """

    kind: str
    target: str
    mean: float = 0.0
    std: float = 1.0
    classes: tuple[str, ...] = ()
    commonest: str = ""
    unit: str = ""

    @property
    def outputs(self) -> int:
        """Numbers that a head gives."""
        return max(1, len(self.classes))

    def encode(self, labels: Sequence[Label]) -> np.ndarray:
        """Labels as the loss takes them: z-scores, float32 [n], or class numbers, int32 [n].

        Raises:
          UserError: a class that training did not have, or a text where a number is predicted.
        """
        if self.kind == "regression":
            check_numbers(labels, self.target)
            return ((np.array(labels, np.float64) - self.mean) / self.std).astype(np.float32)
        names = [class_name(label, self.target) for label in labels]
        if absent := sorted(set(names) - set(self.classes)):
            raise UserError(
                f"the classes {absent} of {self.target!r} do not occur in the training split, "
                f"which has {list(self.classes)}: leave them out, or divide the splits anew"
            )
        return np.array([self.classes.index(name) for name in names], np.int32)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs [..., o] of a head as numbers in the target's unit [...], or probabilities."""
        if self.kind == "regression":
            return outputs[..., 0].astype(np.float64) * self.std + self.mean
        return softmax(outputs.astype(np.float64), axis=-1)


def check_numbers(labels: Sequence[Label], target: str) -> None:
    """Raises UserError if a label of a regression is a text."""
    # A text is not shown: it may be what must not reach a log.
    if texts := sum(isinstance(label, str) for label in labels):
        raise UserError(
            f"{target!r} is text in {texts} of {len(labels)} examples, so it names a class: use "
            "task.kind=classification, or write only numbers in that column"
        )


def class_name(label: Label, target: str) -> str:
    """A class as text; numbers must be whole, lest a measurement is taken for one.

    Raises:
      UserError: it is a number with a fraction.
    """
    if isinstance(label, str):
        return label
    if label != int(label):
        raise UserError(
            f"{target!r} holds {label:g}, which names no class: use task.kind=regression"
        )
    return str(int(label))


def fit_task(kind: str, target: str, train: Sequence[Example], unit: str = "") -> Task:
    """The task of a training split, whose sources give the target in `unit`.

    Raises:
      UserError: all labels are the same, or the labels are of another kind.
    """
    labels = [example.label for example in train]
    if kind == "classification":
        classes = tuple(sorted({class_name(label, target) for label in labels}, key=_in_order))
        if len(classes) < 2:
            raise UserError(
                f"every training example is of the class {classes[0]!r}: there is nothing to tell "
                "apart"
            )
        names = Counter(class_name(label, target) for label in labels)
        return Task(kind, target, classes=classes, commonest=names.most_common(1)[0][0])
    check_numbers(labels, target)
    values = np.array(labels, np.float64)
    if np.ptp(values) == 0:
        raise UserError(
            f"{target!r} is {values[0]:g} in all {len(values)} training examples: there is nothing "
            "to learn"
        )
    if (values == np.round(values)).all():
        log.warning(
            "%r holds whole numbers only, %g to %g: are they classes, or were they cut off?",
            target,
            values.min(),
            values.max(),
        )
    return Task(kind, target, float(values.mean()), float(values.std()), unit=unit)


def _in_order(name: str) -> tuple[float, str]:
    """Numbers by their value, then texts."""
    return (float(name), "") if re.fullmatch(r"-?\d+", name) else (np.inf, name)
