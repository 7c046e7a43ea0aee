"""The kinds of tasks. Each is a file with four names, and the table below is the list of them.

FIELDS          what a task of this kind may be told in a suite's config
needs(options)  the features that it reads: (data set, perturbation or None, or TRACED)
examples(data, options)  what it learns from and is scored on; UserError if there is nothing
run(data, options, probe, seed)  the cells, a pure function of its arguments

`examples` needs no features: a suite asks for them before it encodes anything.
"""

from types import ModuleType

from echojepa_jax.evaluation.tasks import (
    classification,
    geometry,
    multiview,
    regression,
    robustness,
    segmentation,
    transfer,
)
from echojepa_jax.utils.config_fields import NUMBERS, Field, Rule

KINDS: dict[str, ModuleType] = {
    "regression": regression,
    "classification": classification,
    "multiview": multiview,
    "transfer": transfer,
    "robustness": robustness,
    "segmentation": segmentation,
    "geometry": geometry,
}

COMMON: dict[str, Field] = {
    "kind": Field(str, "kind of the task", choices=KINDS),
    "seeds": Field(
        NUMBERS,
        "seeds of the probe and of subsets; tables show the mean over them",
        Rule(
            lambda seeds: len(seeds) > 0 and all(s == int(s) and s >= 0 for s in seeds),
            "must contain at least one whole number, none negative",
        ),
    ),
}
