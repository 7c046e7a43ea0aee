"""What a probe's config must hold, and the check that names the field before any work is done."""

from typing import Any

from ml_collections import ConfigDict

from echojepa_jax.features.encode import KEEP
from echojepa_jax.models.blocks import REMAT_POLICIES
from echojepa_jax.models.heads import FUSIONS, KINDS, Head
from echojepa_jax.utils.config_fields import check_types, one_of, require

TASKS = ("regression", "classification")

# Every field: its type and its meaning.
FIELDS: dict[str, tuple[type, str]] = {
    "seed": (int, "of everything that is random: the head, orders, view dropout, augmentation"),
    "weights": (str, "the encoder: a run, an export, or whatever `convert` reads"),
    "encoder.trainable": (bool, "fine-tune the encoder as well; False = a frozen probe"),
    "encoder.lr_scale": (float, "learning rate of the encoder's last layer, over that of the head"),
    "encoder.layer_decay": (float, "learning rate of a layer, over that of the layer after it"),
    "encoder.drop_path": (float, "probability of leaving out the last block; less before it"),
    "encoder.dtype": (str, "of the encoder's activations: bfloat16 or float32"),
    "encoder.remat": (str, "what a block recomputes: none, " + ", ".join(REMAT_POLICIES)),
    "data.sources": (tuple, "labelled videos: ('kind:path', ...)"),
    "data.train_split": (str, "the split that is learned from"),
    "data.val_split": (str, "the split that chooses head and epoch"),
    "data.test_split": (str, "the split that is reported"),
    "data.train_share": (float, "share of the training patients that is used"),
    "data.skip_unlabelled": (bool, "leave out videos without the label, instead of stopping"),
    "data.frames": (int, "frames of a clip; 0 = as the weights say"),
    "data.size": (int, "height and width of a clip in pixels; 0 = as the weights say"),
    "data.sample_by": (str, "spacing of frames: fps, stride, duration; '' = as the weights say"),
    "data.sample_value": (float, "frames per second, frames, or seconds; 0 = as the weights say"),
    "data.clips": (int, "clips of every video, spread over it; their tokens are put together"),
    "data.augment": (bool, "train on random windows and crops; the encoder then runs every epoch"),
    "data.crop_area": (tuple, "smallest and largest area of the random crop"),
    "data.crop_aspect": (tuple, "smallest and largest aspect ratio of the random crop"),
    "data.cache_gb": (float, "memory for features; what does not fit is encoded again every epoch"),
    "data.workers": (int, "processes that decode; 0 = threads of the main process"),
    "data.max_bad_share": (float, "of files that may be unusable before the run stops"),
    "data.expect_stills": (bool, "single-frame files are left out and do not count as unusable"),
    "task.kind": (str, "regression or classification"),
    "task.target": (str, "a label of the sources, such as a column of a table, or 'view'"),
    "task.views": (tuple, "an example is a study with these views; () = an example is a video"),
    "head.kind": (str, "linear, mlp or attentive"),
    "head.tokens": (str, "of a clip that the head gets: all, mean, or motion (mean and changes)"),
    "head.depth": (int, "of the attentive head: one block attends, those before it are its own"),
    "head.heads": (int, "attention heads of the attentive head"),
    "head.hidden": (int, "hidden width of the MLP head"),
    "head.streams": (bool, "learned embeddings tell views and clips apart"),
    "head.fusion": (str, "of slots: early (all tokens together) or late (mean of predictions)"),
    "head.view_dropout": (float, "probability of leaving out a view in training; one is left"),
    "optim.learning_rates": (tuple, "of the grid; one head for each pair with weight_decays"),
    "optim.weight_decays": (tuple, "of the grid"),
    "optim.epochs": (int, "passes over the training split; rates fall to 0 as a cosine"),
    "optim.batch": (int, "examples of one update, over all devices"),
    "optim.microbatches": (int, "parts of the batch over which heads sum their gradients"),
    "eval.by_study": (bool, "report the mean over the videos of a study as well"),
    "eval.bootstrap": (int, "resamples of patients, for the intervals"),
    "log.tensorboard": (bool, "write TensorBoard events as well"),
}

TEXT_TUPLES = ("data.sources", "task.views")


def check(config: ConfigDict, devices: int) -> None:
    """Accepts a config that can run on that many devices.

    Raises:
      UserError: one sentence about the first field that is unknown, missing, of another type, or
        of an impossible value.
    """
    values = check_types(config, FIELDS, TEXT_TUPLES)
    one_of("task.kind", config.task.kind, TASKS)
    one_of("head.kind", config.head.kind, KINDS)
    one_of("head.tokens", config.head.tokens, KEEP)
    require(
        config.head.kind == "attentive" or config.head.tokens != "all",
        "head.tokens",
        config.head.tokens,
        f"is for the attentive head; the {config.head.kind} one takes 'mean' or 'motion'",
    )
    one_of("head.fusion", config.head.fusion, FUSIONS)
    one_of("encoder.dtype", config.encoder.dtype, ("bfloat16", "float32"))
    one_of("encoder.remat", config.encoder.remat, ("none", *REMAT_POLICIES))
    _check_numbers(values)
    _check_encoder(config)
    _check_data(config, devices)
    task, head = config.task, config.head
    require(bool(config.weights), "weights", config.weights, "must name the encoder's weights")
    require(bool(task.target), "task.target", task.target, "must name what to predict")
    require(
        task.target != "view" or (task.kind == "classification" and not task.views),
        "task.target",
        task.target,
        "is a class of single videos: it needs task.kind=classification and task.views=()",
    )
    require(
        len(set(task.views)) == len(task.views),
        "task.views",
        tuple(task.views),
        "must not name a view twice",
    )
    require(
        len(task.views) > 1 or not head.view_dropout,
        "head.view_dropout",
        head.view_dropout,
        "needs several task.views: set it to 0",
    )
    require(
        not (config.eval.by_study and task.views),
        "eval.by_study",
        True,
        "is for single videos: with task.views, an example is a study already",
    )


def _check_numbers(values: dict[str, Any]) -> None:
    for name in (
        "encoder.lr_scale",
        "encoder.layer_decay",
        "data.train_share",
        "data.clips",
        "data.cache_gb",
        "head.depth",
        "head.heads",
        "head.hidden",
        "optim.epochs",
        "optim.batch",
        "optim.microbatches",
        "eval.bootstrap",
    ):
        require(values[name] > 0, name, values[name], "must be positive")
    for name in (
        "data.frames",
        "data.size",
        "data.sample_value",
        "data.workers",
        "data.max_bad_share",
    ):
        require(values[name] >= 0, name, values[name], "must not be negative")
    for name in ("encoder.drop_path", "head.view_dropout"):
        require(0 <= values[name] < 1, name, values[name], "must be at least 0 and below 1")
    for name in ("data.train_share", "encoder.layer_decay"):
        require(values[name] <= 1, name, values[name], "must not be above 1")
    for name in ("optim.learning_rates", "optim.weight_decays"):
        fits = len(values[name]) > 0 and min(values[name]) >= 0
        require(fits, name, tuple(values[name]), "must hold at least one number, none negative")


def _check_encoder(config: ConfigDict) -> None:
    encoder, optim = config.encoder, config.optim
    if encoder.trainable:
        pairs = len(optim.learning_rates) * len(optim.weight_decays)
        rule = "needs one learning rate and one weight decay, as there is one encoder to train"
        require(pairs == 1, "encoder.trainable", True, rule)
        rule = "is for the heads of a frozen encoder: set it to 1"
        require(optim.microbatches == 1, "optim.microbatches", optim.microbatches, rule)
        return
    for name, neutral in (
        ("lr_scale", 1.0),
        ("layer_decay", 1.0),
        ("drop_path", 0.0),
        ("remat", "none"),
    ):
        rule = f"has no meaning for a frozen encoder: set it to {neutral}"
        require(encoder[name] == neutral, f"encoder.{name}", encoder[name], rule)


def _check_data(config: ConfigDict, devices: int) -> None:
    data, batch = config.data, config.optim.batch
    rule = "must name at least one source, such as ('echonet_dynamic:/data/EchoNet-Dynamic',)"
    require(bool(data.sources), "data.sources", tuple(data.sources), rule)
    splits = (data.train_split, data.val_split, data.test_split)
    rule = "must be three different names"
    require(len({*splits, ""}) == 4, "data.*_split", splits, rule)
    parts = devices * config.optim.microbatches
    near = max(1, round(batch / parts)) * parts
    rule = (
        f"must be a multiple of devices x optim.microbatches = {devices} x "
        f"{config.optim.microbatches}; the nearest is {near}"
    )
    require(batch % parts == 0, "optim.batch", batch, rule)
    for field in ("crop_area", "crop_aspect"):
        pair = data[field]
        fits = len(pair) == 2 and 0 < pair[0] <= pair[1]
        rule = "must be two positive numbers, the smaller first"
        require(fits, f"data.{field}", tuple(pair), rule)
    require(data.crop_area[1] <= 1, "data.crop_area", tuple(data.crop_area), "must end at 1")


def make_head(config: ConfigDict, outputs: int) -> Head:
    """The head of a config."""
    head = config.head
    return Head(
        kind=head.kind,
        outputs=outputs,
        depth=head.depth,
        heads=head.heads,
        hidden=head.hidden,
        views=max(1, len(config.task.views)),
        clips=config.data.clips,
        streams=head.streams,
        fusion=head.fusion,
    )
