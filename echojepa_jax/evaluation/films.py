"""The worst and the best test cases of a task as small films (strips of frames), for the report."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from echojepa_jax.data.sample import Sample
from echojepa_jax.evaluation.cells import MEASURE, SEGMENTATION, Cell
from echojepa_jax.probes.worst import strip_of
from echojepa_jax.utils.file_names import shown

WORST, BEST = 4, 2


@dataclasses.dataclass(frozen=True)
class Film:
    """A test example with what was predicted for it.

    rank: "worst" or "best". true, predicted: texts, with the unit. picture: uint8 [h, w, 3].
    """

    rank: str
    name: str
    view: str
    true: str
    predicted: str
    picture: np.ndarray


def films_of(cell: Cell, samples: Sequence[Sample]) -> list[Film]:
    """Strips of the worst predictions of a probe, the worst one first, then of the best ones.

    Args:
      samples: the videos; an example is one of them, or a study. Videos that cannot be decoded have
        no film.
    """
    if cell.kind in (MEASURE, SEGMENTATION) or not cell.ids:
        return []
    predicted, true = np.array(cell.predicted), np.array(cell.true)
    if cell.kind == "classification":
        bad = -predicted[np.arange(len(true)), true.astype(int)]
    else:
        bad = np.nan_to_num(np.abs(predicted - true), nan=np.inf)
    order = np.argsort(-bad, kind="stable")
    best = order[::-1][: min(BEST, len(order) // 2)]
    worst = order[: min(WORST, len(order) - len(best))]
    found = []
    for rank, rows in (("worst", worst), ("best", best)):
        for row in rows:
            sample = _sample_of(cell, row, samples)
            picture = strip_of(sample) if sample else None
            if picture is not None:
                texts = _text(cell, cell.true[row]), _text(cell, cell.predicted[row])
                found.append(Film(rank, cell.ids[row], cell.views[row], *texts, picture))
    return found


def _sample_of(cell: Cell, row: int, samples: Sequence[Sample]) -> Sample | None:
    """The video of an example, or the first one of its study."""
    name, patient = cell.ids[row], cell.patients[row]
    mine = [s for s in samples if patient.startswith(f"{shown(s.source)}#")]
    by_name = (s for s in mine if s.name == name)
    return next(by_name, next((s for s in mine if s.study == name), None))


def _text(cell: Cell, value: float | Sequence[float]) -> str:
    """A true or predicted value, or class."""
    if cell.kind == "classification":
        number = int(value) if isinstance(value, int | float) else int(np.argmax(value))
        return cell.classes[number]
    assert isinstance(value, int | float), "a regression predicts numbers"
    return f"{value:.1f} {cell.unit}".strip()
