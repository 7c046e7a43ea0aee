"""The task of a probe: converts labels to training targets, and outputs to predictions."""

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
    """Scaling and classes, which come only from the training split.

    unit: of a regression's target, from its sources; "" = unknown.
    mean, std: of the targets of a regression. classes: names, in the order of the outputs.
    commonest: the most common class in training.
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
        """Number of outputs of a head."""
        return max(1, len(self.classes))

    def encode(self, labels: Sequence[Label]) -> np.ndarray:
        """Labels as targets of the loss: z-scores, float32 [n], or class numbers, int32 [n].

        Raises:
          UserError: a class does not occur in training, or a label of a regression is text.
        """
        if self.kind == "regression":
            check_numbers(labels, self.target)
            return ((np.array(labels, np.float64) - self.mean) / self.std).astype(np.float32)
        names = [class_name(label, self.target) for label in labels]
        if absent := sorted(set(names) - set(self.classes)):
            raise UserError(
                f"the classes {absent} of {self.target!r} do not occur in the training split, "
                f"which has {list(self.classes)}: leave them out, or change the splits"
            )
        return np.array([self.classes.index(name) for name in names], np.int32)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs [..., o] of a head as numbers in the target's unit [...], or probabilities."""
        if self.kind == "regression":
            return outputs[..., 0].astype(np.float64) * self.std + self.mean
        return softmax(outputs.astype(np.float64), axis=-1)


def check_numbers(labels: Sequence[Label], target: str) -> None:
    """Raises UserError if a label of a regression is a text that is not a number."""
    # In a column with a text, numbers are texts too. The text is not shown: it may be private.
    texts = [label for label in labels if isinstance(label, str)]
    if wrong := sum(not _is_number(text) for text in texts) or len(texts):
        raise UserError(
            f"{target!r} is not a number in {wrong} of {len(labels)} examples: correct these cells "
            "(the log has the line of the first one), or use task.kind=classification if it names "
            "a class"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def class_name(label: Label, target: str) -> str:
    """A class as text; numbers must be whole, so that a measurement is not taken for a class.

    Raises:
      UserError: it is a number with a fraction.
    """
    if isinstance(label, str):
        return label
    if label != int(label):
        raise UserError(
            f"{target!r} contains {label:g}, which is not a class: use task.kind=regression"
        )
    return str(int(label))


def fit_task(kind: str, target: str, train: Sequence[Example], unit: str = "") -> Task:
    """The task for a training split, with the target in `unit`.

    Raises:
      UserError: all labels are the same, or the labels are of another kind.
    """
    labels = [example.label for example in train]
    if kind == "classification":
        classes = tuple(sorted({class_name(label, target) for label in labels}, key=_in_order))
        if len(classes) < 2:
            raise UserError(
                f"every training example has the class {classes[0]!r}: use a target or data "
                "with at least two classes"
            )
        names = Counter(class_name(label, target) for label in labels)
        return Task(kind, target, classes=classes, commonest=names.most_common(1)[0][0])
    check_numbers(labels, target)
    values = np.array(labels, np.float64)
    if np.ptp(values) == 0:
        raise UserError(
            f"{target!r} is {values[0]:g} in all {len(values)} training examples: use a "
            "target that varies"
        )
    if (values == np.round(values)).all():
        log.warning(
            "%r has only whole numbers, %g to %g: check whether they are classes or were rounded",
            target,
            values.min(),
            values.max(),
        )
    return Task(kind, target, float(values.mean()), float(values.std()), unit=unit)


def beats_the_guess(task: Task, labels: Sequence[Label], decoded: np.ndarray) -> np.ndarray:
    """Which heads do better than the mean or the commonest class of training: bool [G].

    Args:
      decoded: numbers [n, G] or probabilities [n, G, classes]; a head must be finite everywhere.
    """
    if task.kind == "regression":
        true = np.array(labels, np.float64)
        error = np.abs(decoded - true[:, None]).mean(axis=0)
        return error < np.abs(true - task.mean).mean()
    true = task.encode(labels)
    right = (decoded.argmax(axis=-1) == true[:, None]).mean(axis=0)
    finite = np.isfinite(decoded).all(axis=(0, 2))
    return finite & (right > np.mean(true == task.classes.index(task.commonest)))


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """The weight of each class in the loss, float32 [classes]: 1 / its number of examples, scaled
    so that the sum is the number of classes. Every class must occur.

    Args:
      labels: class numbers of the training examples, int [n].
    """
    rarity = 1 / np.bincount(labels, minlength=classes)
    return (classes * rarity / rarity.sum()).astype(np.float32)


def _in_order(name: str) -> tuple[float, str]:
    """Numbers by their value, then texts."""
    return (float(name), "") if re.fullmatch(r"-?\d+", name) else (np.inf, name)
