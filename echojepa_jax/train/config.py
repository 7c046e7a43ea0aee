"""The fields of a training config, and the check that names a wrong field before a run starts."""

from typing import Any

from ml_collections import ConfigDict

from echojepa_jax.data.clips.sampling import CROPS, KEPT, MASKED, NONE, SPREAD, WAYS, ClipSpec
from echojepa_jax.masking import ratio
from echojepa_jax.masking.masks import Mask, check_mask
from echojepa_jax.masking.multiblock import MaskSpec
from echojepa_jax.models.blocks import REMAT_POLICIES
from echojepa_jax.models.family import FAMILIES, V2, V21, VIDEOMAE
from echojepa_jax.models.v21 import LEVELS
from echojepa_jax.models.vit import SIZES, EncoderShape
from echojepa_jax.ops.attention import BACKENDS
from echojepa_jax.ops.rotary import Grid, axis_channels
from echojepa_jax.parallel.mesh import mesh_shape
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
from echojepa_jax.utils.errors import UserError

_DTYPES = ("bfloat16", "float32")
_MOMENTUM = Rule(
    lambda pair: len(pair) == 2 and all(0 <= x <= 1 for x in pair),
    "must be two numbers between 0 and 1",
)
_BETAS = Rule(
    lambda pair: len(pair) == 2 and all(0 <= x < 1 for x in pair),
    "must be two numbers, at least 0 and below 1",
)
_COLOURS = Rule(lambda values: len(values) == 3, "must be three numbers, one per colour")
_STD = Rule(
    lambda values: len(values) == 3 and min(values) > 0,
    "must be three positive numbers, one per colour",
)
_SOURCES = Rule(bool, "must name at least one source, such as ('videos:/data/clips',)")

# Every field. The section `masks` contains one section of MASK_FIELDS for each mask specification,
# under any names.
FIELDS: dict[str, Field] = {
    "seed": Field(int, "seed of weights, order, windows, crops and masks"),
    "model.family": Field(
        str, "family of the networks (videomae: only with objective=mae)", choices=FAMILIES
    ),
    "model.size": Field(str, "size of the encoder", choices=SIZES),
    "model.width": Field(int, "embedding width; 0 = that of the size", NOT_NEGATIVE),
    "model.depth": Field(int, "number of blocks; 0 = that of the size", NOT_NEGATIVE),
    "model.heads": Field(int, "attention heads; 0 = those of the size", NOT_NEGATIVE),
    "model.mlp_hidden": Field(int, "hidden width of the MLP; 0 = that of the size", NOT_NEGATIVE),
    "model.tubelet": Field(int, "frames of one token", POSITIVE),
    "model.patch": Field(int, "height and width of one token in pixels", POSITIVE),
    "model.scan_layers": Field(bool, "compile one block and loop over it; False = unroll all"),
    "model.remat": Field(
        str, "what a block recomputes in the backward pass", choices=("none", *REMAT_POLICIES)
    ),
    "model.attention": Field(
        str,
        "kernel of the attention; auto is the fastest on the platform",
        choices=("auto", *BACKENDS),
    ),
    "model.dtype": Field(str, "type of activations (parameters are float32)", choices=_DTYPES),
    "mesh.replica": Field(int, "copies of the sharded state; -1 = as many as the devices allow"),
    "mesh.fsdp": Field(
        int, "devices that share one copy of parameters and optimizer; -1 = the rest"
    ),
    "predictor.width": Field(int, "embedding width of the predictor (VideoMAE: decoder)", POSITIVE),
    "predictor.depth": Field(int, "blocks of the predictor", POSITIVE),
    "predictor.heads": Field(int, "attention heads of the predictor", POSITIVE),
    "predictor.mlp_hidden": Field(int, "hidden width of the predictor's MLP", POSITIVE),
    "predictor.mask_tokens": Field(
        int, "number of mask tokens; the first one is used (VideoMAE has 1)", POSITIVE
    ),
    "data.sources": Field(TEXTS, "videos to train on: ('kind:path', ...)", _SOURCES),
    "data.weights": Field(
        NUMBERS, "shares of the sources; () = by number of videos, see data.temperature"
    ),
    "data.temperature": Field(
        float,
        "T: a source's share is its number of videos to the power of 1 / T; 1 = by number",
        POSITIVE,
    ),
    "data.split": Field(str, "split to train on, of sources that have splits; '' = all videos"),
    "data.frames": Field(int, "frames of a clip", POSITIVE),
    "data.size": Field(int, "height and width of a clip in pixels", POSITIVE),
    "data.sample_by": Field(str, "how the spacing of frames is given", choices=WAYS),
    "data.sample_value": Field(
        float, "frames per second, frames per step, seconds, or share of the video", POSITIVE
    ),
    "data.crop_area": Field(
        NUMBERS, "smallest and largest area of the random crop, as a share of the frame", RANGE_TO_1
    ),
    "data.crop_aspect": Field(
        NUMBERS, "smallest and largest aspect ratio of the random crop", RANGE
    ),
    "data.mean": Field(
        NUMBERS, "mean that is subtracted from pixels in 0..1, per colour", _COLOURS
    ),
    "data.std": Field(NUMBERS, "standard deviation that divides pixels, per colour", _STD),
    "data.workers": Field(
        int, "processes that decode videos; 0 = threads of the main process", NOT_NEGATIVE
    ),
    "data.max_bad_share": Field(
        float, "largest share of rejected files; above it the run stops", NOT_NEGATIVE
    ),
    "data.max_padded_share": Field(
        float, "largest share of videos shorter than a clip; above it the run stops", NOT_NEGATIVE
    ),
    "data.padded": Field(
        str,
        "tokens that show only repeats of a short video's last frame (masked: they have no loss)",
        choices=(KEPT, MASKED),
    ),
    "data.expect_stills": Field(
        bool, "skip stills (files with one frame) without counting them as rejected"
    ),
    "objective.levels": Field(int, "layers of the encoder that are predicted: 1, or 4 (v2.1)"),
    "objective.context_weight": Field(
        float, "weight of the loss of visible tokens (v2.1); 0 in v2"
    ),
    "objective.context_ramp": Field(
        NUMBERS, "steps at which context_weight starts to grow from 0, and at which it is reached"
    ),
    "objective.by_distance": Field(
        bool, "weigh visible tokens less the farther they are from masked ones (v2.1)"
    ),
    "optim.global_batch": Field(int, "clips of one update, over all devices", POSITIVE),
    "optim.microbatches": Field(
        int, "parts of the batch over which gradients are accumulated", POSITIVE
    ),
    "optim.updates_per_epoch": Field(int, "updates per epoch", POSITIVE),
    "optim.epochs": Field(int, "number of epochs", POSITIVE),
    "optim.ipe_scale": Field(float, "length of the schedules divided by that of the run", POSITIVE),
    "optim.schedule": Field(
        str,
        "schedule of the learning rate (linear: from peak to final; from_0: as in VideoMAE)",
        choices=("warmup_cosine", "warmup_cosine_from_0", "linear"),
    ),
    "optim.warmup_epochs": Field(float, "epochs of the learning rate's warm-up", NOT_NEGATIVE),
    "optim.start_lr": Field(float, "learning rate at the start of the warm-up", NOT_NEGATIVE),
    "optim.peak_lr": Field(float, "learning rate after the warm-up", POSITIVE),
    "optim.final_lr": Field(float, "learning rate at the end", NOT_NEGATIVE),
    "optim.weight_decay": Field(float, "weight decay at the start", NOT_NEGATIVE),
    "optim.final_weight_decay": Field(float, "weight decay at the end", NOT_NEGATIVE),
    "optim.momentum": Field(
        NUMBERS, "momentum of the target encoder's average, at the start and at the end", _MOMENTUM
    ),
    "optim.betas": Field(NUMBERS, "betas of AdamW", _BETAS),
    "optim.eps": Field(float, "epsilon of AdamW", POSITIVE),
    "optim.clip_norm": Field(float, "norm to clip the gradient to; 0 = no clipping", NOT_NEGATIVE),
    "optim.loss_exponent": Field(float, "p of the loss |difference|^p / p", POSITIVE),
    "optim.max_skipped": Field(int, "non-finite steps in a row before the run stops", POSITIVE),
    "init.from": Field(str, "run or file of weights to start from; '' = random weights"),
    "init.step": Field(int, "checkpoint of that run to start from; -1 = the latest"),
    "checkpoint.every": Field(int, "steps between checkpoints", POSITIVE),
    "checkpoint.keep_latest": Field(int, "latest checkpoints to keep", POSITIVE),
    "checkpoint.keep_every": Field(
        int, "keep every checkpoint at a multiple of this step as well; 0 = none", NOT_NEGATIVE
    ),
    "log.every": Field(int, "steps between lines of metrics", POSITIVE),
    "log.health_every": Field(int, "steps between health measures; 0 = never", NOT_NEGATIVE),
    "log.tensorboard": Field(bool, "write TensorBoard events as well"),
    "probe.source": Field(str, "labelled videos of the online probe; '' = no probe"),
    "probe.train_split": Field(str, "split that the probe is fitted on"),
    "probe.test_split": Field(str, "split that the probe is scored on"),
    "probe.targets": Field(TEXTS, "names of the numbers to regress"),
    "probe.view": Field(bool, "classify the view as well"),
    "probe.clips": Field(
        int, "clips per video, evenly spread; their features are averaged", POSITIVE
    ),
    "probe.batch": Field(int, "clips encoded at a time", POSITIVE),
    "probe.every": Field(int, "steps between probes; 0 = only at the end", NOT_NEGATIVE),
}

MASK_FIELDS: dict[str, Field] = {
    "blocks": Field(int, "number of blocks"),
    "scale": Field(float, "share of the frame that one block covers"),
    "aspect": Field(NUMBERS, "smallest and largest aspect ratio of a block"),
    "context_tokens": Field(int, "visible tokens that the context encoder gets"),
    "target_tokens": Field(int, "masked tokens that the predictor predicts"),
    "keep": Field(
        str,
        "which tokens to keep if there are too many (raster: the first ones in time)",
        choices=("random", "raster"),
    ),
}

MAE = "mae"
"""The value of `objective` in a config of EchoMAE. In others, `objective` is a section."""

# What a config of EchoMAE has in place of the sections `objective` and `masks`.
MAE_FIELDS: dict[str, Field] = {
    "objective": Field(
        str, "what is predicted (mae: the pixels of masked tokens, as in VideoMAE)", choices=(MAE,)
    ),
    "mae.mask": Field(
        str,
        "how tokens are masked (tube: at the same positions in all frames)",
        choices=ratio.KINDS,
    ),
    "mae.mask_ratio": Field(
        float, "share of positions (tube) or of tokens (random) that is masked"
    ),
    "mae.norm_pix": Field(bool, "normalise target pixels, for each token and colour separately"),
}
_NOT_OF_MAE = ("objective.", "optim.momentum", "optim.loss_exponent")

# The section `images` is optional, for V-JEPA 2.1 only: every update then also sees stills. Its
# section `images.mask` is a mask specification.
IMAGE_FIELDS: dict[str, Field] = {
    "images.sources": Field(TEXTS, "sources of stills to train on; videos are skipped", _SOURCES),
    "images.global_batch": Field(
        int, "images of one update, over all devices, beside the videos", POSITIVE
    ),
    "images.share": Field(
        float,
        "weight of the images in the loss; videos have the rest",
        Rule(lambda share: 0 < share < 1, "must be above 0 and below 1"),
    ),
    "images.size": Field(int, "height and width of an image in pixels", POSITIVE),
    "images.crop_area": Field(
        NUMBERS, "smallest and largest area of the random crop, as a share of the image", RANGE_TO_1
    ),
    "images.crop_aspect": Field(
        NUMBERS, "smallest and largest aspect ratio of the random crop", RANGE
    ),
    "images.context_weight": Field(
        float, "weight of the loss of an image's visible tokens", NOT_NEGATIVE
    ),
}


# V-JEPA 2 allows only these settings of the objective.
_OBJECTIVE_V2: dict[str, Any] = {
    "levels": 1,
    "context_weight": 0.0,
    "context_ramp": (0, 0),
    "by_distance": False,
}

# Fields that configs of earlier versions lack, with the values that these versions used.
_SINCE: dict[str, dict[str, Any]] = {
    "model": {"family": V2},
    "objective": _OBJECTIVE_V2,
    "data": {"padded": KEPT},
}

_SINCE_OF_PROBES = {"class_weights": False, "focal_gamma": 0.0}


def complete(config: ConfigDict) -> ConfigDict:
    """Adds the fields that the config of a run or a probe started by an earlier version lacks.

    A config of another program is returned unchanged.
    """
    full = config.copy_and_resolve_references()
    if "model" not in config:
        if {"head", "optim", "data"} <= set(config):
            full.optim = ConfigDict(_SINCE_OF_PROBES | dict(full.optim))
            data = {"place": SPREAD} | dict(full.data)
            if isinstance(data.get("augment"), bool):  # of an earlier version
                data["augment"] = CROPS if data["augment"] else NONE
            full.data = ConfigDict(data)
        return full
    for section, fields in _SINCE.items():
        if section == "objective" and full.model.family == VIDEOMAE:
            full.objective = MAE  # which the family alone implied
        else:
            full[section] = ConfigDict(fields | dict(full.get(section, {})))
    return full


def is_mae(config: ConfigDict) -> bool:
    """Whether a config trains EchoMAE, and not V-JEPA."""
    return config.get("objective") == MAE


def fill_sources(config: ConfigDict) -> None:
    """Names any source where a config names none, for programs that read no data."""
    for section in ("data", "images"):
        if section in config and not config[section].sources:
            config[section].sources = ("videos:.",)


def clip_spec(config: ConfigDict) -> ClipSpec:
    """How this config cuts clips from videos."""
    data = config.data
    crop = tuple(data.crop_area), tuple(data.crop_aspect)
    return ClipSpec(data.frames, data.size, data.sample_by, data.sample_value, *crop)


def encoder_shape(model: ConfigDict) -> EncoderShape:
    """The sizes of a config's encoder; those that are 0 come from the table of sizes."""
    table, names = SIZES[model.size], ("width", "depth", "heads", "mlp_hidden")
    sizes = {name: model[name] or getattr(table, name) for name in names}
    return EncoderShape(**sizes, tubelet=model.tubelet, patch=model.patch, family=model.family)


def mask_specs(config: ConfigDict) -> dict[str, Mask]:
    """The mask specifications of this config by name, in alphabetical order."""
    if is_mae(config):
        kind = config.mae.mask
        return {kind: ratio.ratio_mask(kind, config.mae.mask_ratio, _grid(config))}
    return {name: _mask_spec(mask) for name, mask in sorted(config.masks.items())}


def image_spec(config: ConfigDict) -> ClipSpec:
    """How the images of a config are cut: clips of one frame."""
    images = config.images
    crop = tuple(images.crop_area), tuple(images.crop_aspect)
    return ClipSpec(1, images.size, "stride", 1, *crop)


def image_mask(config: ConfigDict) -> MaskSpec:
    """The mask specification of a config's images."""
    return _mask_spec(config.images.mask)


def _mask_spec(mask: ConfigDict) -> MaskSpec:
    return MaskSpec(**dict(mask) | {"aspect": tuple(mask.aspect)})


def _grid(config: ConfigDict) -> Grid:
    """Tokens of a clip along time, height and width."""
    side = config.data.size // config.model.patch
    return config.data.frames // config.model.tubelet, side, side


def _fields_of(config: ConfigDict) -> dict[str, Field]:
    if is_mae(config):
        shared = {name: row for name, row in FIELDS.items() if not name.startswith(_NOT_OF_MAE)}
        return shared | MAE_FIELDS
    masks = config.get("masks")
    if not isinstance(masks, ConfigDict) or not len(masks):
        raise UserError(
            "config field 'masks' must contain at least one mask specification, such as "
            "masks.small = dict(blocks=8, scale=0.15, ...)"
        )
    fields, sections = FIELDS, [f"masks.{name}" for name in masks]
    if "images" in config:
        fields, sections = FIELDS | IMAGE_FIELDS, [*sections, "images.mask"]
    return fields | {
        f"{section}.{field}": row for section in sections for field, row in MASK_FIELDS.items()
    }


def check(config: ConfigDict, devices: int) -> None:
    """Checks that a config can run on that many devices.

    Raises:
      UserError: names the first field that is unknown or missing, or whose type or value is wrong.
    """
    _check_family(config)
    check_fields(config, _fields_of(config))
    mesh_shape(devices, config.mesh.replica, config.mesh.fsdp)
    _check_sizes(config, devices)
    _check_objective(config)
    _check_optim(config)
    _check_probe(config, devices)
    _check_masks(config)
    if "images" in config:
        _check_images(config, devices)


def _check_family(config: ConfigDict) -> None:
    # Before anything else: with the wrong one, nearly every other field is unknown or missing.
    family = config.get("model", {}).get("family")
    rule = f"needs objective={MAE}: to train EchoMAE, use --config=demo_mae or --config=mae_l"
    require(is_mae(config) or family != VIDEOMAE, "model.family", family, rule)
    rule = (
        f"must be {VIDEOMAE} with objective={MAE}; to train V-JEPA, use --config=demo or "
        "--config=vit_l"
    )
    require(not is_mae(config) or family == VIDEOMAE, "model.family", family, rule)


def _check_sizes(config: ConfigDict, devices: int) -> None:
    model, data, optim = config.model, config.data, config.optim
    for part, sizes in (("model", encoder_shape(model)), ("predictor", config.predictor)):
        heads = sizes.heads
        require_multiple(f"{part}.width", sizes.width, heads, f"{part}.heads, {heads}")
        channels = sizes.width // heads
        rule = f"leaves {channels} channels per head: rotary positions need 6, two for each axis"
        fits = is_mae(config) or axis_channels(channels) > 0
        require(fits, f"{part}.heads", heads, rule)
    patch, tubelet, parts = model.patch, model.tubelet, optim.microbatches
    require_multiple("data.size", data.size, patch, f"model.patch, {patch}")
    require_multiple("data.frames", data.frames, tubelet, f"model.tubelet, {tubelet}")
    product = f"devices x optim.microbatches = {devices} x {parts}"
    require_multiple("optim.global_batch", optim.global_batch, devices * parts, product)
    require(
        not data.weights
        or (len(data.weights) == len(data.sources) and all(weight > 0 for weight in data.weights)),
        "data.weights",
        tuple(data.weights),
        f"must have one positive number for each of the {len(data.sources)} sources, or be ()",
    )
    rule = "has no effect together with data.weights: set it to 1"
    require(not data.weights or data.temperature == 1, "data.temperature", data.temperature, rule)
    whole = data.sample_by != "stride" or float(data.sample_value).is_integer()
    rule = "must be a whole number of frames with data.sample_by=stride"
    require(whole, "data.sample_value", data.sample_value, rule)
    share = data.sample_by != "share" or data.sample_value <= 1
    rule = "must be at most 1, the whole video, with data.sample_by=share"
    require(share, "data.sample_value", data.sample_value, rule)


def _check_objective(config: ConfigDict) -> None:
    if is_mae(config):
        tokens = config.predictor.mask_tokens
        rule = f"must be 1 with objective={MAE}"
        require(tokens == 1, "predictor.mask_tokens", tokens, rule)
        return
    objective, depth = config.objective, encoder_shape(config.model).depth
    ramp = tuple(objective.context_ramp)
    if config.model.family == V2:
        for field, only in _OBJECTIVE_V2.items():
            value = ramp if field == "context_ramp" else objective[field]
            rule = f"must be {only} with model.family=v2: other values are for v2.1"
            require(value == only, f"objective.{field}", value, rule)
        return
    levels = objective.levels
    require(levels in (1, LEVELS), "objective.levels", levels, f"must be 1 or {LEVELS}")
    require(
        levels == 1 or depth >= LEVELS,
        "objective.levels",
        levels,
        f"needs an encoder with at least as many blocks: model.depth is {depth}",
    )
    require(
        len(ramp) == 2 and 0 <= ramp[0] <= ramp[1],
        "objective.context_ramp",
        ramp,
        "must be two numbers of steps, the smaller first",
    )


def _check_optim(config: ConfigDict) -> None:
    optim, checkpoint = config.optim, config.checkpoint
    if optim.schedule == "linear":
        rule = "is not used by optim.schedule=linear: set it to"
        require(optim.warmup_epochs == 0, "optim.warmup_epochs", optim.warmup_epochs, f"{rule} 0")
        require(
            optim.start_lr == optim.peak_lr,
            "optim.start_lr",
            optim.start_lr,
            f"{rule} optim.peak_lr, {optim.peak_lr:g}",
        )
    elif optim.schedule == "warmup_cosine":
        require(
            optim.final_lr <= optim.peak_lr,
            "optim.final_lr",
            optim.final_lr,
            f"must not be above optim.peak_lr, {optim.peak_lr:g}; equal means constant after the "
            "warm-up",
        )
    every = f"checkpoint.every, {checkpoint.every}"
    require_multiple("checkpoint.keep_every", checkpoint.keep_every, checkpoint.every, every)


def _check_probe(config: ConfigDict, devices: int) -> None:
    probe = config.probe
    if not probe.source:
        return
    require_multiple("probe.batch", probe.batch, devices, f"the number of devices, {devices}")
    rule = "must differ from probe.train_split"
    require(probe.train_split != probe.test_split, "probe.test_split", probe.test_split, rule)
    rule = "must name a target unless probe.view is True"
    require(bool(probe.targets) or probe.view, "probe.targets", probe.targets, rule)


def _check_masks(config: ConfigDict) -> None:
    if is_mae(config):
        try:
            mask_specs(config)
        except UserError as error:
            raise UserError(f"config field 'mae.mask_ratio': {error}") from error
        return
    for name, spec in mask_specs(config).items():
        _check_mask(f"masks.{name}", spec, _grid(config))


def _check_images(config: ConfigDict, devices: int) -> None:
    images, patch, parts = config.images, config.model.patch, config.optim.microbatches
    family = config.model.family
    require(family == V21, "model.family", family, "must be v2.1 in a config with 'images'")
    require_multiple("images.size", images.size, patch, f"model.patch, {patch}")
    product = f"devices x optim.microbatches = {devices} x {parts}"
    require_multiple("images.global_batch", images.global_batch, devices * parts, product)
    side = images.size // patch
    _check_mask("images.mask", image_mask(config), (1, side, side))


def _check_mask(section: str, spec: Mask, grid: Grid) -> None:
    try:
        check_mask(spec, grid)
    except UserError as error:
        raise UserError(f"config section '{section}': {error}") from error
