"""From one population to another: the probe of the first as it is, and one that is trained anew.

A probe keeps the scaling of its own training; the targets of the other population are compared as
they are.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from echojepa_jax.data.clips.perturbations import Perturbation
from echojepa_jax.data.units import check_unit
from echojepa_jax.evaluation import cells
from echojepa_jax.evaluation.data import Data, divided
from echojepa_jax.evaluation.fit import HowToFit, fit, predict
from echojepa_jax.evaluation.tasks import fields
from echojepa_jax.utils.config_fields import TEXTS, Field

FIELDS = {
    "data": fields.DATA,
    "to": Field(str, "section of data with the other population", fields.DATA.rule),
    "target": fields.TARGET,
    "views": fields.VIEWS,
    "alone": Field(TEXTS, "views that are scored alone as well; each has its own retrained probe"),
    "head": fields.HEAD,
}


def needs(options: ConfigDict) -> list[tuple[str, Perturbation | None]]:
    return [(options.data, None), (options.to, None)]


def run(
    data: Mapping[str, Data], options: ConfigDict, probe: ConfigDict, seed: int
) -> list[cells.Cell]:
    """Cells on the first population, zero-shot on the other one, and retrained there."""
    here, there = data[options.data], data[options.to]
    mine = divided(here, "regression", options.target, options.views, study=False)
    fitted = fit(
        HowToFit(options.head), here.features[None], mine.train, mine.val, mine.task, probe, seed
    )
    predicted, readable = predict(fitted, here.features[None], mine.test, probe.batch)
    variant = {"probe": "its own", "scored on": here.name, "views": "all"}
    found = [
        cells.of_predictions(variant, fitted, mine.test, predicted, readable, mine.without_label)
    ]
    features = there.features[None]
    for name, views in [("all", options.views), *((view, (view,)) for view in options.alone)]:
        theirs = divided(there, "regression", options.target, views, study=False)
        check_unit(mine.task.unit, theirs.task.unit, options.target)
        own = fit(
            HowToFit(options.head), features, theirs.train, theirs.val, theirs.task, probe, seed
        )
        zero_shot = {"probe": f"of {here.name}", "scored on": there.name, "views": name}
        for used, variant in ((fitted, zero_shot), (own, zero_shot | {"probe": "its own"})):
            predicted, readable = predict(used, features, theirs.test, probe.batch)
            against = None if used is fitted else zero_shot
            found.append(
                cells.of_predictions(
                    variant, used, theirs.test, predicted, readable, theirs.without_label, against
                )
            )
    return found
