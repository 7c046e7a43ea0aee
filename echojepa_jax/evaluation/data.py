"""The labelled data sets of a suite, and the examples that a task makes of them."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from echojepa_jax.data import manifest, splits
from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources import read_source
from echojepa_jax.data.tracings import Tracing
from echojepa_jax.data.units import unit_of
from echojepa_jax.probes.examples import Example, label_of, make_examples
from echojepa_jax.probes.predict import Features
from echojepa_jax.probes.task import Task, fit_task
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.file_names import shown

log = logging.getLogger(__name__)


TRACED, MASKS = "traced frames", "masks"
What = Perturbation | str | None
"""Which features: of videos as they are (None), of degraded ones, or of traced frames (TRACED)."""


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set as tasks see it.

    samples: of the three splits. splits: their names: training, validation, test. width: of an
    encoder's tokens. features: of one model, by perturbation; None = of the videos as they are.
    Those of a perturbation are of the test split. traced: the row of a sample and its tracing, for
    every traced frame; features of TRACED and MASKS are in this order. beyond: the row of the
    sample of every tracing whose video ends before it. heads: folder of the heads that are trained
    on these features, which holds those of no others; None = heads are not kept. rejected: files of
    the three splits that cannot be used. outside: files of other splits, by split.
    """

    name: str
    samples: Sequence[Sample]
    splits: tuple[str, str, str]
    width: int = 0
    features: Mapping[What, Features] = dataclasses.field(default_factory=dict)
    traced: Sequence[tuple[int, Tracing]] = ()
    beyond: Sequence[int] = ()
    heads: Path | None = None
    rejected: Sequence[Sample] = ()
    outside: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def rows(self, perturbation: Perturbation | None) -> list[int]:
        """The samples that are encoded: all, or those of the test split if they are degraded."""
        test = self.splits[2]
        return [
            row for row, s in enumerate(self.samples) if perturbation is None or s.split == test
        ]


@dataclasses.dataclass(frozen=True)
class Divided:
    """Labelled examples of a task by split, and its scaling or classes by all of training.

    not_scored: test examples without a label, or of a file that was rejected.
    """

    train: list[Example]
    val: list[Example]
    test: list[Example]
    task: Task
    not_scored: int


def load(name: str, section: ConfigDict, quarantine: Path, need_rate: bool) -> Data:
    """A data set of a suite's config.

    Raises:
      UserError: see `manifest.load`; or a patient is in two splits, or a split is empty.
    """
    parts = (section.train_split, section.val_split, section.test_split)
    listed = [s for source in dict.fromkeys(section.sources) for s in read_source(source)]
    usable = manifest.load(
        section.sources,
        quarantine=quarantine,
        max_bad_share=section.max_bad_share,
        expect_stills=True,
        need_rate=need_rate,
        workers=max(1, section.workers),
    )
    known = {(s.source, s.name) for s in usable}
    unusable = [s for s in listed if (s.source, s.name) not in known]
    # The patient decides the split of a rejected file, too: of the test split, it is not scored.
    found = splits.divided([*usable, *unusable], parts)
    outside = splits.outside(found, parts)
    found = [s for s in found if s.split in parts]
    samples = [s for s in found if (s.source, s.name) in known]
    rejected = [s for s in found if (s.source, s.name) not in known]
    by_split = {part: [s for s in samples if s.split == part] for part in parts}
    manifest.check_patients(by_split)
    if empty := [part for part, members in by_split.items() if not members]:
        raise UserError(
            f"data.{name} has no video in the split {empty[0]!r}: set data.{name}.*_split"
        )
    log.info(
        "%s: %s videos",
        name,
        ", ".join(f"{len(members):,} {part}" for part, members in by_split.items()),
    )
    return Data(name, samples, parts, rejected=rejected, outside=outside)


def divided(data: Data, kind: str, target: str, views: Sequence[str], study: bool) -> Divided:
    """The labelled examples of a task.

    Args:
      views: only videos of these views, () = of all; of a study, the slots of an example.
      study: an example is a study, not a video.

    Raises:
      UserError: no video shows one of the views, a split has no labelled example, or training has
        nothing to learn from.
    """
    there = {sample.view for sample in data.samples}
    if unknown := [view for view in views if view not in there]:
        raise UserError(
            f"no video of data.{data.name} shows the view {unknown[0]!r} of this task; its views "
            f"are {', '.join(sorted(there - {''})) or 'not known'}"
        )
    found = make_examples(data.samples, target, views if study else (), skip_unlabelled=True)
    if views and not study:
        found = [example for example in found if example.view in views]
    parts = [[e for e in found if e.split == split] for split in data.splits]
    for split, members in zip(data.splits, parts, strict=True):
        if not members:
            of_views = f" of the views {', '.join(views)}" if views else ""
            raise UserError(
                f"the split {split!r} of data.{data.name} has no video{of_views} with the label "
                f"{target!r}: remove this task, or name another target"
            )
    train, val, test = parts
    used = (row for part in parts for e in part for rows in e.rows for row in rows)
    unit = unit_of((data.samples[row] for row in used), target)
    task = fit_task(kind, target, train, unit)
    for part in (val, test):
        task.encode([example.label for example in part])  # a class that training lacks is an error
    scored = {(e.source, e.study if study else e.name) for e in test}
    lost = [s for s in data.samples if label_of(s, target) is None] + list(data.rejected)
    missing = {
        (shown(s.source), s.study if study else s.name)
        for s in lost
        if s.split == data.splits[2] and (not views or s.view in views)
    }
    return Divided(train, val, test, task, len(missing - scored))
