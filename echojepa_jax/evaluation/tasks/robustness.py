"""A probe that was trained on videos as they are, scored on degraded ones."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from echojepa_jax.data.clips.perturbations import (
    NAMES,
    RECODED,
    SEVERITIES,
    Perturbation,
    severities,
)
from echojepa_jax.evaluation import cells
from echojepa_jax.evaluation.data import Data, Divided, divided
from echojepa_jax.evaluation.fit import HowToFit
from echojepa_jax.evaluation.heads import trained
from echojepa_jax.evaluation.tasks import fields
from echojepa_jax.utils.config_fields import TEXTS, Field, Rule

CLEAN = {"perturbation": "none", "severity": ""}
PAPER = ("radial_attenuation", "shadow")
"""Kinds that the paper's average is over."""

FIELDS = {
    "data": fields.DATA,
    "target": fields.TARGET,
    "views": fields.VIEWS,
    "head": fields.HEAD,
    "perturbations": Field(
        TEXTS,
        f"kinds of degradation, each at {len(SEVERITIES)} severities ({RECODED}, a control, has "
        f"none): {', '.join(NAMES)}",
        Rule(lambda kinds: bool(kinds) and set(kinds) <= {*NAMES}, "must contain only these kinds"),
    ),
}


def _perturbations(options: ConfigDict) -> list[Perturbation]:
    return [
        Perturbation(kind, severity)
        for kind in options.perturbations
        for severity in severities(kind)
    ]


def needs(options: ConfigDict) -> list[tuple[str, Perturbation | None]]:
    """The features that the task reads: names of data sets, each with what is done to it."""
    return [(options.data, None), *((options.data, p) for p in _perturbations(options))]


def examples(data: Mapping[str, Data], options: ConfigDict) -> Divided:
    """The labelled videos of the task, see `divided`."""
    return divided(data[options.data], "regression", options.target, options.views, study=False)


def run(
    data: Mapping[str, Data], options: ConfigDict, probe: ConfigDict, seed: int
) -> list[cells.Cell]:
    """A cell of the videos as they are, and one for each degradation and severity."""
    mine = data[options.data]
    parts = examples(data, options)
    fitted = trained(HowToFit(options.head), mine, parts, probe, seed, grid=True)
    found: list[cells.Cell] = []
    for perturbation in [None, *_perturbations(options)]:
        test = fitted, mine.features[perturbation], parts, probe.batch
        if not perturbation:
            found.append(cells.of_test(CLEAN, *test, validation=True))
            continue
        variant = {"perturbation": perturbation.kind, "severity": perturbation.severity}
        found.append(cells.of_test(variant, *test, CLEAN))
    return found
