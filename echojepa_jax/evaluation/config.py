"""What a suite's config contains, and the check that names a wrong field before work starts."""

from ml_collections import ConfigDict

from echojepa_jax.evaluation.models import check_names
from echojepa_jax.evaluation.stored import DTYPES
from echojepa_jax.evaluation.tasks import COMMON, KINDS
from echojepa_jax.features.clip_input import WAYS
from echojepa_jax.features.encode import KEEP
from echojepa_jax.probes.config import GRID, PLACE, SOURCES
from echojepa_jax.utils.config_fields import (
    NOT_NEGATIVE,
    NUMBERS,
    POSITIVE,
    TEXTS,
    Field,
    Rule,
    check_fields,
    require,
)

# Every field but those of `data` and `tasks`. These two hold sections under names of your choice: a
# section of DATA_FIELDS for each data set, and one for each task, see `evaluation/tasks`.
FIELDS: dict[str, Field] = {
    "seed": Field(int, "seed of random weights and of resamples"),
    "only": Field(
        TEXTS,
        "sections of data that you have; the others are left out, with every task that needs them; "
        "() = you have all",
    ),
    "weights": Field(TEXTS, "models to compare: runs, exports, files; --weights adds to them"),
    "controls": Field(
        TEXTS,
        "models that need no training: initial (random weights), pca (principal components of "
        "pixels); one of each for every architecture and clip size",
    ),
    "pca_data": Field(str, "section of data on whose training videos pca is fitted"),
    "clip.frames": Field(int, "frames of a clip; 0 = as the weights say", NOT_NEGATIVE),
    "clip.size": Field(
        int, "height and width of a clip in pixels; 0 = as the weights say", NOT_NEGATIVE
    ),
    "clip.more_sizes": Field(
        NUMBERS,
        "further sizes of clips in pixels; each size adds one more model for each of the weights",
        Rule(
            lambda sizes: all(s == int(s) and s > 0 for s in sizes),
            "must contain only whole numbers above 0",
        ),
    ),
    "clip.sample_by": Field(
        str, "how the spacing of frames is given; '' = as the weights say", choices=("", *WAYS)
    ),
    "clip.sample_value": Field(
        float,
        "frames per second, frames per step, seconds of a clip, or share of the video; 0 = as the "
        "weights say",
        NOT_NEGATIVE,
    ),
    "clip.count": Field(int, "number of clips per video", POSITIVE),
    "clip.place": PLACE,
    "features.tokens": Field(
        str,
        "what is kept of a clip's tokens (motion: mean and changes over time; steps: the same for "
        "each time step)",
        choices=KEEP,
    ),
    "features.dtype": Field(str, "type of the numbers on disk", choices=DTYPES),
    "features.encoder_dtype": Field(
        str, "type of the encoder's activations", choices=("bfloat16", "float32")
    ),
    "features.workers": Field(
        int, "processes that decode; 0 = threads of the main process", NOT_NEGATIVE
    ),
    "probe.learning_rates": Field(
        NUMBERS,
        "learning rates of linear and MLP heads; the grid has a head for each pair with "
        "weight_decays",
        GRID,
    ),
    "probe.attentive_rates": Field(NUMBERS, "learning rates of attentive heads", GRID),
    "probe.mask_rates": Field(NUMBERS, "learning rates of heads that find masks", GRID),
    "probe.weight_decays": Field(NUMBERS, "weight decays", GRID),
    "probe.standardise": Field(
        bool, "scale every channel of tokens to mean 0 and SD 1, as in the training split"
    ),
    "probe.epochs": Field(int, "passes over the training examples", POSITIVE),
    "probe.batch": Field(int, "examples of an update", POSITIVE),
    "probe.heads": Field(int, "attention heads of attentive heads", POSITIVE),
    "probe.hidden": Field(int, "hidden width of MLP heads", POSITIVE),
    "bootstrap": Field(int, "resamples of patients, for the intervals", POSITIVE),
}

DATA_FIELDS: dict[str, Field] = {
    "sources": Field(TEXTS, "labelled videos: ('kind:path', ...)", SOURCES),
    "train_split": Field(str, "split for training"),
    "val_split": Field(str, "split that selects the head and the number of updates"),
    "test_split": Field(str, "split for the reported scores"),
    "max_bad_share": Field(float, "stop if a larger share of the files is rejected", NOT_NEGATIVE),
    "workers": Field(int, "threads that measure files", NOT_NEGATIVE),
}


def fields_of(config: ConfigDict) -> dict[str, Field]:
    """All fields of a suite with these data sets and tasks."""
    fields = dict(FIELDS)
    for name in config.get("data", {}):
        fields |= {f"data.{name}.{field}": row for field, row in DATA_FIELDS.items()}
    for name, options in config.get("tasks", {}).items():
        kind = options.get("kind") if isinstance(options, ConfigDict) else None
        own = KINDS[kind].FIELDS if kind in KINDS else {}
        fields |= {f"tasks.{name}.{field}": row for field, row in (COMMON | own).items()}
    return fields


def used(config: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """The config without the data that the user does not have, and the tasks that this leaves out.

    Raises:
      UserError: `only` names a section of data that is not there, or no task is left.
    """
    only, data = config.get("only", ()), config.get("data", {})
    if not only:
        return config, []
    for name in only:
        rule = f"must contain only sections of data: {', '.join(data)}"
        require(name in data, "only", only, rule)
    left_out = [
        task
        for task, options in config.get("tasks", {}).items()
        if any(options.get(field, only[0]) not in only for field in ("data", "to"))
    ]
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for name in set(data) - set(only):
            del config.data[name]
        for task in left_out:
            del config.tasks[task]
    require(len(config.tasks) > 0, "only", only, "must leave at least one task")
    return config, left_out


def check(config: ConfigDict) -> None:
    """Accepts a config that can run.

    Raises:
      UserError: one sentence about the first field that is unknown, missing, of another type, or
        of an impossible value.
    """
    for name in ("data", "tasks"):
        there = isinstance(config.get(name), ConfigDict) and len(config[name]) > 0
        require(there, name, config.get(name), "must have at least one section")
    # A kind that does not exist would make all other fields of its task unknown.
    for name, options in config.tasks.items():
        if isinstance(options, ConfigDict) and "kind" in options:
            rule = f"must be one of {', '.join(KINDS)}"
            require(options.kind in KINDS, f"tasks.{name}.kind", options.kind, rule)
    check_fields(config, fields_of(config))
    check_names(config.weights, config.controls)
    by, value = config.clip.sample_by, config.clip.sample_value
    require(not by or value > 0, "clip.sample_value", value, f"must be given with sample_by={by}")
    for name, options in config.tasks.items():
        for field in ("data", "to"):
            if field in options:
                rule = f"must be one of the sections of data, {', '.join(config.data)}"
                require(
                    options[field] in config.data, f"tasks.{name}.{field}", options[field], rule
                )
    rule = f"must be one of the sections of data, {', '.join(config.data)}"
    require(config.pca_data in config.data, "pca_data", config.pca_data, rule)
    for name, section in config.data.items():
        parts = (section.train_split, section.val_split, section.test_split)
        rule = "must be three different names"
        require(len({*parts, ""}) == 4, f"data.{name}.*_split", parts, rule)
