"""From one population to another: the probe of the first as it is, and one that is trained anew.

A probe keeps the scaling of its own training; the targets of the other population are compared as
they are. Where the age of patients is known, errors are also given by age.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.data.manifest import check_patients
from echojepa_jax.data.sample import Sample, by_name
from echojepa_jax.data.units import check_unit
from echojepa_jax.evaluation import cells
from echojepa_jax.evaluation.data import Data, Divided, divided
from echojepa_jax.evaluation.fit import HowToFit, predict
from echojepa_jax.evaluation.heads import trained
from echojepa_jax.evaluation.tasks import fields
from echojepa_jax.probes.examples import Example
from echojepa_jax.utils.config_fields import NUMBERS, TEXTS, Field, Rule

FIELDS = {
    "data": fields.DATA,
    "to": Field(str, "section of data with the other population", fields.DATA.rule),
    "target": fields.TARGET,
    "views": fields.VIEWS,
    "alone": Field(TEXTS, "views that are scored alone as well; each has its own retrained probe"),
    "ages": Field(
        NUMBERS,
        "limits of age groups in years, by the label 'age' of the other population; () = none",
        Rule(lambda ages: list(ages) == sorted(set(ages)), "must ascend"),
    ),
    "head": fields.HEAD,
}


def needs(options: ConfigDict) -> list[tuple[str, Perturbation | None]]:
    """The features that the task reads: names of data sets, each with what is done to it."""
    return [(options.data, None), (options.to, None)]


def examples(
    data: Mapping[str, Data], options: ConfigDict
) -> tuple[Divided, list[tuple[str, Divided]]]:
    """The labelled videos of the first population; and of the other one, of all views and alone.

    Raises:
      UserError: see `divided`; or a test patient of the other population is one that the first
        one's probe has seen.
    """
    here, there = data[options.data], data[options.to]
    seen, test = here.splits[:2], there.splits[2]
    check_patients(
        {
            f"{' or '.join(seen)} of {here.name}": [s for s in here.samples if s.split in seen],
            f"{test} of {there.name}": [s for s in there.samples if s.split == test],
        }
    )
    mine = divided(here, "regression", options.target, options.views, study=False)
    theirs = []
    for name, views in [("all", options.views), *((view, (view,)) for view in options.alone)]:
        theirs.append((name, divided(there, "regression", options.target, views, study=False)))
        check_unit(mine.task.unit, theirs[-1][1].task.unit, options.target)
    return mine, theirs


def run(
    data: Mapping[str, Data], options: ConfigDict, probe: ConfigDict, seed: int
) -> list[cells.Cell]:
    """Cells on the first population, zero-shot on the other one, and retrained there."""
    here, there = data[options.data], data[options.to]
    mine, others = examples(data, options)
    fitted = trained(HowToFit(options.head), here, mine, probe, seed, grid=True)
    variant = {"probe": "its own", "scored on": here.name, "views": "all", "age": ""}
    test = fitted, here.features[None], mine, probe.batch
    found = [cells.of_test(variant, *test, validation=True)]
    features = there.features[None]
    for name, theirs in others:
        own = trained(HowToFit(options.head), there, theirs, probe, seed)
        answers = [
            (used, *predict(used, features, theirs.test, probe.batch)) for used in (fitted, own)
        ]
        groups = {"": np.arange(len(theirs.test))}
        if name == "all":
            groups |= _by_age(there.samples, theirs.test, options.ages)
        for age, rows in groups.items():
            told = {"scored on": there.name, "views": name, "age": age}
            zero_shot = {"probe": f"of {here.name}", **told}
            for used, predicted, readable in answers:
                found.append(
                    cells.of_predictions(
                        zero_shot if used is fitted else {"probe": "its own", **told},
                        used,
                        [theirs.test[row] for row in rows],
                        predicted[rows],
                        readable[rows],
                        0 if age else theirs.not_scored,
                        None if used is fitted else zero_shot,
                    )
                )
    return found


def _by_age(
    samples: Sequence[Sample], examples: Sequence[Example], limits: Sequence[float]
) -> dict[str, np.ndarray]:
    """Rows of `examples` by group of age; an example of unknown age is in no group."""
    known = [by_name(samples[example.rows[0][0]].targets, "age") for example in examples]
    ages = np.array([math.nan if age is None else age for age in known])
    found = {}
    for low, high in pairwise((-math.inf, *limits, math.inf)) if limits else ():
        rows = np.flatnonzero((ages >= low) & (ages < high))
        name = f"{low:g} to {high:g}"
        if low == -math.inf:
            name = f"below {high:g}"
        elif high == math.inf:
            name = f"{low:g} and more"
        if len(rows):
            found[name] = rows
    return found
