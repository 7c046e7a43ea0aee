"""A number from several views of a study, and what each part of the probe contributes.

The parts are embeddings of the slots, fusion before the head, and view dropout. One is taken away
at a time; then one after the other, in two orders. With late fusion the same head predicts from
every slot alone, and the predictions are averaged.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.evaluation import cells
from echojepa_jax.evaluation.data import Data, Divided, divided
from echojepa_jax.evaluation.fit import HowToFit, head_choice
from echojepa_jax.evaluation.heads import trained
from echojepa_jax.evaluation.tasks import fields
from echojepa_jax.utils.config_fields import TEXTS, Field, Rule

EMBEDDINGS, FUSION, DROPOUT = "embeddings", "early fusion", "view dropout"

FIELDS = {
    "data": fields.DATA,
    "target": fields.TARGET,
    "views": Field(
        TEXTS, "views of a study", Rule(lambda views: len(views) > 1, "must name several views")
    ),
    "head": Field(
        str,
        "head of the probe",
        Rule(
            lambda name: fields.is_head(name) and not head_choice(name).alone,
            "must name a head that can see all views together, such as linear, mlp or attentive-4",
        ),
    ),
    "view_dropout": Field(
        float,
        "probability of leaving out a view in training; at least one is kept",
        Rule(lambda value: 0 < value < 1, "must be above 0 and below 1"),
    ),
    "ablations": Field(bool, "also train without each part of the probe, and without several"),
}

ABLATIONS: tuple[tuple[str, ...], ...] = (
    (),
    (EMBEDDINGS,),
    (FUSION,),
    (DROPOUT,),
    # Cumulative: embeddings or fusion first, then the other one, then dropout.
    (EMBEDDINGS, FUSION),
    (EMBEDDINGS, FUSION, DROPOUT),
)


def needs(options: ConfigDict) -> list[tuple[str, Perturbation | None]]:
    """The features that the task reads: names of data sets, each with what is done to it."""
    return [(options.data, None)]


def examples(data: Mapping[str, Data], options: ConfigDict) -> Divided:
    """The labelled studies of the task, see `divided`."""
    return divided(data[options.data], "regression", options.target, options.views, study=True)


def run(
    data: Mapping[str, Data], options: ConfigDict, probe: ConfigDict, seed: int
) -> list[cells.Cell]:
    """A cell for the whole probe, and one for each ablation."""
    mine = data[options.data]
    parts = examples(data, options)
    found: list[cells.Cell] = []
    for without in ABLATIONS if options.ablations else ABLATIONS[:1]:
        how = HowToFit(
            options.head,
            views=len(options.views),
            streams=EMBEDDINGS not in without,
            fusion="late" if FUSION in without else "early",
            view_dropout=0.0 if DROPOUT in without else options.view_dropout,
        )
        fitted = trained(how, mine, parts, probe, seed, grid=not found)
        variant, whole = {"without": ", ".join(without)}, {"without": ""}
        test = fitted, mine.features[None], parts, probe.batch, whole if without else None
        found.append(cells.of_test(variant, *test, validation=not found))
    return found
