"""A number from single videos, by several heads; also averaged over the videos of a study."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.evaluation import cells
from echojepa_jax.evaluation.data import Data, Divided, divided
from echojepa_jax.evaluation.fit import HowToFit
from echojepa_jax.evaluation.heads import trained
from echojepa_jax.evaluation.tasks import fields

FIELDS = {
    "data": fields.DATA,
    "target": fields.TARGET,
    "views": fields.VIEWS,
    "heads": fields.HEADS,
    "by_study": fields.BY_STUDY,
}


def needs(options: ConfigDict) -> list[tuple[str, Perturbation | None]]:
    """The features that the task reads: names of data sets, each with what is done to it."""
    return [(options.data, None)]


def examples(data: Mapping[str, Data], options: ConfigDict) -> Divided:
    """The labelled videos of the task, see `divided`."""
    return divided(data[options.data], "regression", options.target, options.views, study=False)


def run(
    data: Mapping[str, Data], options: ConfigDict, probe: ConfigDict, seed: int
) -> list[cells.Cell]:
    """A cell for each head, and one more if studies are averaged."""
    mine = data[options.data]
    parts = examples(data, options)
    found: list[cells.Cell] = []
    for head in options.heads:
        fitted = trained(HowToFit(head), mine, parts, probe, seed, grid=not found)
        video = {"head": head} | ({"level": "video"} if options.by_study else {})
        test = fitted, mine.features[None], parts, probe.batch
        found.append(cells.of_test(video, *test, validation=not found))
        if options.by_study:
            found.append(cells.of_studies(found[-1], video | {"level": "study"}))
    return found
