"""The fields of a probe's config, and a check that names a wrong field before any work is done."""

from ml_collections import ConfigDict

from echojepa_jax.data.clips.sampling import AUGMENT, PLACES
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
GRID = Rule(
    lambda values: len(values) > 0 and min(values) >= 0,
    "must contain at least one number, and none may be negative",
)
PLACE = Field(
    str,
    "where the clips of a video lie (spread: one in each of equal parts of the video; contiguous: "
    "one after the other from the first frame, also in training)",
    choices=PLACES,
)
SOURCES = Rule(
    bool, "must name at least one source, such as ('echonet_dynamic:/data/EchoNet-Dynamic',)"
)

# Every field.
FIELDS: dict[str, Field] = {
    "seed": Field(int, "seed of the head, the orders, view dropout and augmentation"),
    "weights": Field(
        str,
        "the encoder: a run, an export, or a file that `convert` reads",
        Rule(bool, "must name the encoder's weights"),
    ),
    "encoder.trainable": Field(bool, "also fine-tune the encoder; False = a frozen probe"),
    "encoder.lr_scale": Field(
        float, "learning rate of the encoder's last layer, relative to the head's", POSITIVE
    ),
    "encoder.layer_decay": Field(
        float, "learning rate of a layer, relative to the layer after it", _SHARE
    ),
    "encoder.drop_path": Field(
        float, "probability of leaving out the last block; lower for earlier ones", _PROBABILITY
    ),
    "encoder.dtype": Field(
        str, "type of the encoder's activations", choices=("bfloat16", "float32")
    ),
    "encoder.remat": Field(
        str, "what a block recomputes in the backward pass", choices=("none", *REMAT_POLICIES)
    ),
    "data.sources": Field(TEXTS, "labelled videos: ('kind:path', ...)", SOURCES),
    "data.train_split": Field(str, "split for training"),
    "data.val_split": Field(str, "split that selects head and epoch"),
    "data.test_split": Field(str, "split for the reported scores"),
    "data.train_share": Field(float, "share of the training patients to use", _SHARE),
    "data.skip_unlabelled": Field(
        bool, "leave out videos without the label; False = stop if there are any"
    ),
    "data.frames": Field(int, "frames of a clip; 0 = as in the encoder's training", NOT_NEGATIVE),
    "data.size": Field(
        int, "height and width of a clip in pixels; 0 = as in the encoder's training", NOT_NEGATIVE
    ),
    "data.sample_by": Field(
        str, "spacing of frames: fps, stride, duration or share; '' = as in the encoder's training"
    ),
    "data.sample_value": Field(
        float,
        "frames per second, frames per step, seconds of a clip, or share of the video; 0 = as in "
        "the encoder's training",
        NOT_NEGATIVE,
    ),
    "data.clips": Field(
        int, "number of clips per video; the head gets the tokens of all clips", POSITIVE
    ),
    "data.place": PLACE,
    "data.augment": Field(
        str,
        "augmentation of training clips (none; crops: random windows and crops; original: also "
        "RandAugment and random erasing, as in the paper); with crops or original, the encoder "
        "runs in every epoch",
        choices=AUGMENT,
    ),
    "data.crop_area": Field(
        NUMBERS,
        "smallest and largest area of the random crop, as shares of the frame (not used with "
        "data.augment=original)",
        RANGE_TO_1,
    ),
    "data.crop_aspect": Field(
        NUMBERS,
        "smallest and largest aspect ratio of the random crop (not used with "
        "data.augment=original)",
        RANGE,
    ),
    "data.cache_gb": Field(
        float,
        "memory for features in GB; if they do not fit, clips are encoded again in every epoch",
        POSITIVE,
    ),
    "data.workers": Field(
        int, "processes that decode; 0 = threads of the main process", NOT_NEGATIVE
    ),
    "data.max_bad_share": Field(
        float, "stop if a larger share of the files is rejected", NOT_NEGATIVE
    ),
    "data.expect_stills": Field(
        bool, "skip stills (files with one frame) without counting them as rejected"
    ),
    "task.kind": Field(str, "kind of the task", choices=TASKS),
    "task.target": Field(
        str,
        "a label of the sources, such as a column of a table, or 'view'",
        Rule(bool, "must name what to predict"),
    ),
    "task.views": Field(
        TEXTS, "each example is a study with these views; () = each example is a video"
    ),
    "head.kind": Field(str, "kind of the head", choices=KINDS),
    "head.tokens": Field(
        str,
        "tokens of a clip that the head gets (motion: mean and changes over time; steps: the same "
        "for each time step)",
        choices=KEEP,
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
        float, "probability of leaving out a view in training; at least one is kept", _PROBABILITY
    ),
    "optim.learning_rates": Field(
        NUMBERS,
        "learning rates of the grid, which has a head for each pair with weight_decays",
        GRID,
    ),
    "optim.weight_decays": Field(NUMBERS, "weight decays of the grid", GRID),
    "optim.epochs": Field(
        int, "passes over the training split; learning rates fall to 0 as a cosine", POSITIVE
    ),
    "optim.batch": Field(int, "examples of one update, over all devices", POSITIVE),
    "optim.microbatches": Field(
        int, "parts of a batch over which heads sum their gradients, to save memory", POSITIVE
    ),
    "optim.class_weights": Field(
        bool, "weight classes in the loss by 1 / their number of training examples"
    ),
    "optim.focal_gamma": Field(
        float, "gamma of the focal loss, such as 2; 0 = cross-entropy", NOT_NEGATIVE
    ),
    "eval.by_study": Field(bool, "also report the mean over the videos of a study"),
    "eval.bootstrap": Field(int, "resamples of patients for the intervals", POSITIVE),
    "log.tensorboard": Field(bool, "also write TensorBoard events"),
}


def check(config: ConfigDict, devices: int) -> None:
    """Checks that a config can run on this number of devices.

    Raises:
      UserError: a field is unknown, missing, of a wrong type, or has an impossible value; names the
        first one.
    """
    check_fields(config, FIELDS)
    require(
        config.head.kind == "attentive" or config.head.tokens != "all",
        "head.tokens",
        config.head.tokens,
        f"needs the attentive head; for the {config.head.kind} head, use 'mean', 'motion' or "
        "'steps'",
    )
    _check_encoder(config)
    _check_data(config, devices)
    task, head = config.task, config.head
    require(
        task.target != "view" or (task.kind == "classification" and not task.views),
        "task.target",
        task.target,
        "is a class of single videos and needs task.kind=classification and task.views=()",
    )
    if task.kind == "regression":
        for name, neutral in (("class_weights", False), ("focal_gamma", 0)):
            rule = f"is for task.kind=classification: set it to {neutral}"
            require(config.optim[name] == neutral, f"optim.{name}", config.optim[name], rule)
    rule = "must not name a view twice"
    require(len(set(task.views)) == len(task.views), "task.views", task.views, rule)
    single_view = len(task.views) < 2 and head.view_dropout > 0
    rule = "needs several task.views: set it to 0"
    require(not single_view, "head.view_dropout", head.view_dropout, rule)
    require(
        not (config.eval.by_study and task.views),
        "eval.by_study",
        True,
        "is for single videos, but with task.views each example is a study: set it to False",
    )


def _check_encoder(config: ConfigDict) -> None:
    encoder, optim = config.encoder, config.optim
    if encoder.trainable:
        pairs = len(optim.learning_rates) * len(optim.weight_decays)
        rule = "needs one learning rate and one weight decay, because only one encoder is trained"
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
    """The head that a config describes."""
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
