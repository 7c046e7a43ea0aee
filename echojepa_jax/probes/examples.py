"""Examples: a probe makes one prediction for each, a video or a study with several views."""

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from echojepa_jax.data.sample import Sample, by_name
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown
from echojepa_jax.utils.rng import generator

log = logging.getLogger(__name__)

Label = float | str
VIEW = "view"
UNKNOWN: Label = ""


@dataclasses.dataclass(frozen=True)
class Example:
    """A video or a study to predict for.

    name: of the video or the study in its source. view: of the video; "" for a study.
    rows: for each view of the task (for a video, a single one), the samples that show it; () =
    missing. label: a number, or the name of a class; UNKNOWN if labels are not used. age: in years;
    None = unknown. sex: as the source writes it; "" = unknown.
    """

    name: str
    source: str
    patient: str
    study: str
    split: str
    view: str
    rows: tuple[tuple[int, ...], ...]
    label: Label
    age: float | None = None
    sex: str = ""


def age_of(sample: Sample) -> float | None:
    """The age in years, from the label `age`; None if it is missing or in another unit."""
    unit = by_name(sample.units, "age") or "years"
    years = unit.casefold() in ("years", "year", "y", "a")
    return by_name(sample.targets, "age") if years else None


def sex_of(sample: Sample) -> str:
    """The label `sex` or `gender`, a text or a code; "" if it is missing."""
    for name in ("sex", "gender"):
        if text := by_name(sample.classes, name):
            return text
        if (code := by_name(sample.targets, name)) is not None:
            return f"{code:g}"
    return ""


def label_of(sample: Sample, target: str) -> Label | None:
    """A sample's label, None if it has none; upper and lower case are equal unless both exist."""
    if target == VIEW:
        return sample.view or None
    number = by_name(sample.targets, target)
    return by_name(sample.classes, target) if number is None else number


def patient_of(sample: Sample) -> str:
    """The patient of a sample; if unknown, its study, or the video if that is also unknown."""
    return sample.patient or f"{shown(sample.source)}#{sample.study or sample.name}"


def make_examples(
    samples: Sequence[Sample], target: str, views: Sequence[str], skip_unlabelled: bool
) -> list[Example]:
    """All labelled videos or, if there are `views`, all studies that have one of them.

    Raises:
      UserError: labels are missing and `skip_unlabelled` is False, a study has two labels, or no
        example is left.
    """
    labelled = []
    unlabelled: list[Sample] = []
    for row, sample in enumerate(samples):
        label = label_of(sample, target)
        if label is None:
            unlabelled.append(sample)
        else:
            labelled.append((row, sample, label))
    if unlabelled:
        first = unlabelled[0]
        problem = (
            f"{len(unlabelled)} of {len(samples)} videos have no label {target!r}; the first is "
            f"{first.name} of {first.source}, which has "
            f"{sorted({*first.targets, *first.classes}) or 'none'}"
        )
        if not labelled:
            raise UserError(f"{problem}: set task.target; echojepa_jax.predict needs no labels")
        if not skip_unlabelled:
            raise UserError(
                f"{problem}: set task.target, or data.skip_unlabelled to leave them out"
            )
        log.warning("%s: they are left out", problem)
    if views:
        return _studies(labelled, target, views)
    return [
        Example(
            *(s.name, shown(s.source), patient_of(s), s.study, s.split, s.view),
            rows=((row,),),
            label=label,
            age=age_of(s),
            sex=sex_of(s),
        )
        for row, s, label in labelled
    ]


def _studies(
    labelled: Iterable[tuple[int, Sample, Label]], target: str, views: Sequence[str]
) -> list[Example]:
    groups: dict[tuple[str, str], list[tuple[int, Sample, Label]]] = defaultdict(list)
    seen, studies = set(), set()
    for row, sample, label in labelled:
        if not sample.study:
            raise UserError(
                f"{sample.name} of {sample.source} has no study, which task.views needs: name "
                "studies in the source, or set task.views=() to predict from single videos"
            )
        seen.add(sample.view)
        studies.add((sample.source, sample.study))
        if sample.view in views:
            groups[sample.source, sample.study].append((row, sample, label))
    if unknown := [view for view in views if view not in seen]:
        raise UserError(
            f"no video shows the view {unknown[0]!r} of task.views; there are {sorted(seen)}"
        )
    if len(groups) < len(studies):
        lacking = len(studies) - len(groups)
        log.warning(
            "%d of %d studies have no video of the views %s", lacking, len(studies), list(views)
        )
    examples = []
    for (source, study), members in groups.items():
        sample = members[0][1]
        for field, values in (
            (target, {label for _, _, label in members}),
            ("split", {s.split for _, s, _ in members}),
            ("patient", {s.patient for _, s, _ in members}),
        ):
            if len(values) > 1:
                raise UserError(
                    f"study {study} of {source} has more than one {field}: "
                    f"{sorted(map(str, values))}; a study is predicted as a whole"
                )
        rows = tuple(tuple(row for row, s, _ in members if s.view == view) for view in views)
        label = members[0][2]
        examples.append(
            Example(
                *(study, shown(source), patient_of(sample), study, sample.split, ""),
                rows=rows,
                label=label,
                age=age_of(sample),
                sex=sex_of(sample),
            )
        )
    return examples


def of_split(examples: Sequence[Example], split: str, field: str) -> list[Example]:
    """The examples of a split.

    Raises:
      UserError: there are none.
    """
    chosen = [example for example in examples if example.split == split.lower()]
    if not chosen:
        found = sorted({example.split or "no split" for example in examples})
        raise UserError(
            f"{field} is {split!r}, but no labelled example is in it; the splits are {found}"
        )
    return chosen


def share_of(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """The examples of a share of the patients, at least one; larger shares contain smaller ones."""
    if share == 1.0:
        return list(examples)
    patients = sorted({example.patient for example in examples})
    order = generator(seed, "train share").permutation(len(patients))
    kept = {patients[i] for i in order[: max(1, round(share * len(patients)))]}
    return [example for example in examples if example.patient in kept]


def slots(
    examples: Sequence[Example], there: np.ndarray, rng: np.random.Generator | None
) -> np.ndarray:
    """The chosen sample for every view of every example, int [E, V]; -1 = missing.

    Args:
      there: bool [samples], whether a sample can be decoded (F16).
      rng: draws one of several videos of a view; None = the first.
    """
    rows = np.full((len(examples), len(examples[0].rows)), -1)
    for i, example in enumerate(examples):
        for view, candidates in enumerate(example.rows):
            usable = [row for row in candidates if there[row]]
            if usable:
                rows[i, view] = usable[0 if rng is None else int(rng.integers(len(usable)))]
    return rows


def drop_views(present: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Leaves out views at random, but keeps at least one of those that are present.

    Args:
      present: bool [E, V].
      rate: probability that a view is left out.
    """
    kept = present & (rng.random(present.shape) >= rate)
    for i in np.flatnonzero(~kept.any(axis=1) & present.any(axis=1)):
        kept[i, rng.choice(np.flatnonzero(present[i]))] = True
    return kept
