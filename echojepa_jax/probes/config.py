"""What a probe's config must hold, and the check that names the field before any work is done."""

from ml_collections import ConfigDict

from echojepa_jax.features.encode import KEEP
from echojepa_jax.models.blocks import REMAT_POLICIES
from echojepa_jax.models.heads import FUSIONS, KINDS, Head
from echojepa_jax.utils.config_fields import (
    NOT_NEGATIVE,
    NUMBERS,
    POSITIVE,
    RANGE,
    RANGE_TO_1,
    TEXTS,
    Field,
    Rule,
    check_fields,
    require,
    require_multiple,
)

TASKS = ("regression", "classification")

_SHARE = Rule(lambda value: 0 < value <= 1, "must be above 0 and not above 1")
_PROBABILITY = Rule(lambda value: 0 <= value < 1, "must be at least 0 and below 1")
_GRID = Rule(
    lambda values: len(values) > 0 and min(values) >= 0,
    "must hold at least one number, none negative",
)
_SOURCES = Rule(
    bool, "must name at least one source, such as ('echonet_dynamic:/data/EchoNet-Dynamic',)"
)

# Every field.
FIELDS: dict[str, Field] = {
    "seed": Field(int, "seed of the head, the orders, view dropout and augmentation"),
    "weights": Field(
        str,
        "the encoder: a run, an export, or whatever `convert` reads",
        Rule(bool, "must name the encoder's weights"),
    ),
    "encoder.trainable": Field(bool, "fine-tune the encoder as well; False = a frozen probe"),
    "encoder.lr_scale": Field(
        float, "learning rate of the encoder's last layer, over that of the head", POSITIVE
    ),
    "encoder.layer_decay": Field(
        float, "learning rate of a layer, over that of the layer after it", _SHARE
    ),
    "encoder.drop_path": Field(
        float, "probability of leaving out the last block; less before it", _PROBABILITY
    ),
    "encoder.dtype": Field(
        str, "type of the encoder's activations", choices=("bfloat16", "float32")
    ),
    "encoder.remat": Field(
        str, "what a block computes again in the backward pass", choices=("none", *REMAT_POLICIES)
    ),
    "data.sources": Field(TEXTS, "labelled videos: ('kind:path', ...)", _SOURCES),
    "data.train_split": Field(str, "split that is learned from"),
    "data.val_split": Field(str, "split that chooses head and epoch"),
    "data.test_split": Field(str, "split that is reported"),
    "data.train_share": Field(float, "share of the training patients that is used", _SHARE),
    "data.skip_unlabelled": Field(
        bool, "leave out videos without the label; False = stop at the first one"
    ),
    "data.frames": Field(int, "frames of a clip; 0 = as the weights say", NOT_NEGATIVE),
    "data.size": Field(
        int, "height and width of a clip in pixels; 0 = as the weights say", NOT_NEGATIVE
    ),
    "data.sample_by": Field(
        str, "spacing of frames: fps, stride, duration or share; '' = as the weights say"
    ),
    "data.sample_value": Field(
        float,
        "frames per second, frames per step, seconds of a clip, or share of the video; 0 = as the "
        "weights say",
        NOT_NEGATIVE,
    ),
    "data.clips": Field(
        int, "clips of every video, spread over it; their tokens are put together", POSITIVE
    ),
    "data.augment": Field(
        bool, "train on random windows and crops; the encoder then runs in every epoch"
    ),
    "data.crop_area": Field(
        NUMBERS, "smallest and largest area of the random crop, of the frame's", RANGE_TO_1
    ),
    "data.crop_aspect": Field(
        NUMBERS, "smallest and largest aspect ratio of the random crop", RANGE
    ),
    "data.cache_gb": Field(
        float,
        "memory for features in GB; what does not fit is encoded again in every epoch",
        POSITIVE,
    ),
    "data.workers": Field(
        int, "processes that decode; 0 = threads of the main process", NOT_NEGATIVE
    ),
    "data.max_bad_share": Field(
        float, "share of files that may be unusable before the run stops", NOT_NEGATIVE
    ),
    "data.expect_stills": Field(
        bool, "single-frame files are left out and do not count as unusable"
    ),
    "task.kind": Field(str, "kind of the task", choices=TASKS),
    "task.target": Field(
        str,
        "a label of the sources, such as a column of a table, or 'view'",
        Rule(bool, "must name what to predict"),
    ),
    "task.views": Field(
        TEXTS, "an example is a study with these views; () = an example is a video"
    ),
    "head.kind": Field(str, "kind of the head", choices=KINDS),
    "head.tokens": Field(
        str, "tokens of a clip that the head gets (motion: mean and changes)", choices=KEEP
    ),
    "head.depth": Field(
        int,
        "blocks of the attentive head; the last one pools the tokens by cross-attention",
        POSITIVE,
    ),
    "head.heads": Field(int, "attention heads of the attentive head", POSITIVE),
    "head.hidden": Field(int, "hidden width of the MLP head", POSITIVE),
    "head.streams": Field(bool, "add learned embeddings of view and clip to the tokens"),
    "head.fusion": Field(
        str,
        "fusion of views and clips (early: all tokens together; late: the mean of predictions)",
        choices=FUSIONS,
    ),
    "head.view_dropout": Field(
        float, "probability of leaving out a view in training; one is left", _PROBABILITY
    ),
    "optim.learning_rates": Field(
        NUMBERS, "learning rates of the grid; one head for each pair with weight_decays", _GRID
    ),
    "optim.weight_decays": Field(NUMBERS, "weight decays of the grid", _GRID),
    "optim.epochs": Field(
        int, "passes over the training split; rates fall to 0 as a cosine", POSITIVE
    ),
    "optim.batch": Field(int, "examples of one update, over all devices", POSITIVE),
    "optim.microbatches": Field(
        int, "parts of the batch over which heads sum their gradients", POSITIVE
    ),
    "eval.by_study": Field(bool, "report the mean over the videos of a study as well"),
    "eval.bootstrap": Field(int, "resamples of patients, for the intervals", POSITIVE),
    "log.tensorboard": Field(bool, "write TensorBoard events as well"),
}


def check(config: ConfigDict, devices: int) -> None:
    """Accepts a config that can run on that many devices.

    Raises:
      UserError: one sentence about the first field that is unknown, missing, of another type, or
        of an impossible value.
    """
    check_fields(config, FIELDS)
    require(
        config.head.kind == "attentive" or config.head.tokens != "all",
        "head.tokens",
        config.head.tokens,
        f"is for the attentive head; the {config.head.kind} one takes 'mean' or 'motion'",
    )
    _check_encoder(config)
    _check_data(config, devices)
    task, head = config.task, config.head
    require(
        task.target != "view" or (task.kind == "classification" and not task.views),
        "task.target",
        task.target,
        "is a class of single videos: it needs task.kind=classification and task.views=()",
    )
    rule = "must not name a view twice"
    require(len(set(task.views)) == len(task.views), "task.views", task.views, rule)
    alone = len(task.views) < 2 and head.view_dropout > 0
    rule = "needs several task.views: set it to 0"
    require(not alone, "head.view_dropout", head.view_dropout, rule)
    require(
        not (config.eval.by_study and task.views),
        "eval.by_study",
        True,
        "is for single videos: with task.views, an example is a study already",
    )


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
    data, optim = config.data, config.optim
    splits = (data.train_split, data.val_split, data.test_split)
    rule = "must be three different names"
    require(len({*splits, ""}) == 4, "data.*_split", splits, rule)
    product = f"devices x optim.microbatches = {devices} x {optim.microbatches}"
    require_multiple("optim.batch", optim.batch, devices * optim.microbatches, product)


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
