"""A class from single videos, with all training labels and with a few of them; also of studies, by
the mean over their videos and by the class that most of them show.

Subsets are drawn by patient, and by video as the paper did. For one seed a smaller subset is a part
of every larger one. A probe on few labels is trained for as many epochs as one on all labels, and
for as many updates: with few labels, an epoch has few updates.
"""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.evaluation import cells
from echojepa_jax.evaluation.data import Data, Divided, divided
from echojepa_jax.evaluation.fit import HowToFit
from echojepa_jax.evaluation.heads import trained
from echojepa_jax.evaluation.tasks import fields
from echojepa_jax.probes.examples import Example, share_of
from echojepa_jax.utils.config_fields import NOT_NEGATIVE, NUMBERS, TEXTS, Field, Rule

SUBSETS, LENGTHS = ("patient", "video"), ("epochs", "updates")

FIELDS = {
    "data": fields.DATA,
    "target": fields.TARGET,
    "views": fields.VIEWS,
    "heads": fields.HEADS,
    "shares": Field(
        NUMBERS,
        "shares of the training labels, such as (1.0, 0.1)",
        Rule(lambda s: len(s) > 0 and all(0 < x <= 1 for x in s), "must be above 0 and at most 1"),
    ),
    "subsets": Field(
        TEXTS,
        "what subsets are drawn by: patient, video",
        Rule(lambda s: bool(s) and set(s) <= {*SUBSETS}, "must contain only 'patient' and 'video'"),
    ),
    "lengths": Field(
        TEXTS,
        "what is the same for all shares of the labels: epochs, updates",
        Rule(
            lambda s: bool(s) and set(s) <= {*LENGTHS}, "must contain only 'epochs' and 'updates'"
        ),
    ),
    "class_weights": Field(bool, "rare classes count as much as common ones in the loss"),
    "focal_gamma": Field(
        float, "gamma of the focal loss, see optim.focal_gamma of probes; 0 = none", NOT_NEGATIVE
    ),
    "by_study": fields.BY_STUDY,
}


def needs(options: ConfigDict) -> list[tuple[str, Perturbation | None]]:
    """The features that the task reads: names of data sets, each with what is done to it."""
    return [(options.data, None)]


def examples(data: Mapping[str, Data], options: ConfigDict) -> Divided:
    """The labelled videos of the task, see `divided`."""
    return divided(data[options.data], "classification", options.target, options.views, study=False)


def by_video(train: Sequence[Example], share: float, seed: int) -> list[Example]:
    """The paper's subset: of every class `max(ceil(p n), min(3, n))` of n videos, at random."""
    rows_of: dict[object, list[int]] = {}
    for row, example in enumerate(train):
        rows_of.setdefault(example.label, []).append(row)
    rng, chosen = random.Random(seed), []
    for rows in rows_of.values():
        rng.shuffle(rows)
        chosen += rows[: max(math.ceil(share * len(rows)), min(3, len(rows)))]
    return [train[row] for row in sorted(chosen)]


def run(
    data: Mapping[str, Data], options: ConfigDict, probe: ConfigDict, seed: int
) -> list[cells.Cell]:
    """A cell for each head, share, way of drawing and length of training, and more of studies."""
    mine = data[options.data]
    parts = examples(data, options)
    whole = -(-len(parts.train) // probe.batch) * probe.epochs
    found: list[cells.Cell] = []
    for head in options.heads:
        for share in options.shares:
            # All labels are one subset, of which epochs and updates are equal at once.
            for by in options.subsets if share < 1 else ("all",):
                draw = by_video if by == "video" else share_of
                few = dataclasses.replace(parts, train=draw(parts.train, share, seed))
                for length in options.lengths if share < 1 else ("epochs",):
                    how = HowToFit(
                        head,
                        updates=whole if length == "updates" else 0,
                        class_weights=options.class_weights,
                        focal_gamma=options.focal_gamma,
                    )
                    fitted = trained(how, mine, few, probe, seed, grid=not found)
                    variant = {
                        "head": head,
                        "labels": f"{100 * share:g} %",
                        "drawn by": "" if share == 1 else by,
                        "equal": "" if share == 1 else length,
                    }
                    variant |= {"level": "video"} if options.by_study else {}
                    test = fitted, mine.features[None], few, probe.batch
                    found.append(cells.of_test(variant, *test, validation=not found))
                    if options.by_study:
                        video = found[-1]
                        mean, vote = {"level": "study"}, {"level": "study majority"}
                        found.append(cells.of_studies(video, variant | mean))
                        found.append(cells.of_studies(video, variant | vote, vote=True))
    return found
