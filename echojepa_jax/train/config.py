"""What a training config must hold, and the check that names the field before any device works."""

from typing import Any

from ml_collections import ConfigDict

from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.masking import multiblock
from echojepa_jax.masking.multiblock import MaskSpec
from echojepa_jax.models.blocks import REMAT_POLICIES
from echojepa_jax.models.family import FAMILIES, V2
from echojepa_jax.models.v21 import LEVELS
from echojepa_jax.models.vit import SIZES
from echojepa_jax.ops.attention import BACKENDS
from echojepa_jax.ops.rotary import axis_channels
from echojepa_jax.parallel.mesh import mesh_shape
from echojepa_jax.utils.config_fields import check_types, one_of, require
from echojepa_jax.utils.errors import UserError

# Every field: its type and its meaning. The field `masks` holds one section of MASK_FIELDS for
# each mask specification, under names of your choice.
FIELDS: dict[str, tuple[type, str]] = {
    "seed": (int, "of everything that is random: weights, order, windows, crops, masks"),
    "model.family": (str, "family of the networks and the objective: " + ", ".join(FAMILIES)),
    "model.size": (str, "a row of the table of sizes: " + ", ".join(SIZES)),
    "model.width": (int, "embedding width; 0 = as the size says"),
    "model.depth": (int, "number of blocks; 0 = as the size says"),
    "model.heads": (int, "attention heads; 0 = as the size says"),
    "model.mlp_hidden": (int, "hidden width of the MLP; 0 = as the size says"),
    "model.tubelet": (int, "frames of one token"),
    "model.patch": (int, "pixels of one token, along height and width"),
    "model.scan_layers": (bool, "compile one block and loop over it, or unroll all blocks"),
    "model.remat": (str, "what a block recomputes: none, " + ", ".join(REMAT_POLICIES)),
    "model.attention": (
        str,
        "its kernel: auto (the fastest of the platform), " + ", ".join(BACKENDS),
    ),
    "model.dtype": (str, "of activations: bfloat16 or float32; parameters are float32"),
    "mesh.replica": (int, "copies of the sharded state; -1 = as many as the devices allow"),
    "mesh.fsdp": (int, "devices that share a copy of parameters and optimizer; -1 = the rest"),
    "predictor.width": (int, "width of the predictor"),
    "predictor.depth": (int, "blocks of the predictor"),
    "predictor.heads": (int, "attention heads of the predictor"),
    "predictor.mlp_hidden": (int, "hidden width of the predictor's MLP"),
    "predictor.mask_tokens": (int, "number of mask tokens; the first one is used"),
    "data.sources": (tuple, "what to train on: ('kind:path', ...)"),
    "data.weights": (tuple, "of the sources; () = by number of videos, see data.temperature"),
    "data.temperature": (
        float,
        "T of a source's share, its number of videos to the power of 1 / T; 1 = by number",
    ),
    "data.split": (str, "train on this split of sources that have splits; '' = on everything"),
    "data.frames": (int, "frames of a clip"),
    "data.size": (int, "height and width of a clip in pixels"),
    "data.sample_by": (str, "how frames are spaced: fps, stride or duration"),
    "data.sample_value": (float, "frames per second, frames, or seconds of a clip"),
    "data.crop_area": (tuple, "smallest and largest area of the random crop"),
    "data.crop_aspect": (tuple, "smallest and largest aspect ratio of the random crop"),
    "data.mean": (tuple, "of pixels in 0..1 that is subtracted, per colour"),
    "data.std": (tuple, "that pixels are divided by, per colour"),
    "data.workers": (int, "processes that decode; 0 = threads of the main process"),
    "data.max_bad_share": (float, "of files that may be unusable before the run stops"),
    "data.max_padded_share": (float, "of videos that may be shorter than the sampled window"),
    "data.expect_stills": (bool, "single-frame files are left out and do not count as unusable"),
    "objective.levels": (int, "layers of the encoder that are predicted: 1, or 4 (v2.1)"),
    "objective.context_weight": (float, "weight of the loss of visible tokens (v2.1); 0 in v2"),
    "objective.context_ramp": (
        tuple,
        "steps at which that weight starts to grow from 0, and at which it is full",
    ),
    "objective.by_distance": (
        bool,
        "visible tokens count less the farther they are from masked ones (v2.1)",
    ),
    "optim.global_batch": (int, "clips of one update, over all devices"),
    "optim.microbatches": (int, "parts of the batch over which gradients are accumulated"),
    "optim.updates_per_epoch": (int, "updates that are called an epoch"),
    "optim.epochs": (int, "epochs of the run"),
    "optim.ipe_scale": (float, "the schedules are stretched to this multiple of the run"),
    "optim.schedule": (str, "of the learning rate: warmup_cosine, or linear (peak to final)"),
    "optim.warmup_epochs": (float, "of the learning rate"),
    "optim.start_lr": (float, "learning rate at the start of the warm-up"),
    "optim.peak_lr": (float, "learning rate after the warm-up"),
    "optim.final_lr": (float, "learning rate at the end"),
    "optim.weight_decay": (float, "at the start"),
    "optim.final_weight_decay": (float, "at the end"),
    "optim.momentum": (tuple, "of the target encoder's moving average: at the start, at the end"),
    "optim.betas": (tuple, "of AdamW"),
    "optim.eps": (float, "of AdamW"),
    "optim.clip_norm": (float, "largest norm of the gradient; 0 = no clipping"),
    "optim.loss_exponent": (float, "p of the loss |difference|^p / p"),
    "optim.max_skipped": (int, "non-finite steps in a row before the run stops"),
    "init.from": (str, "a run or weights to start from, see README; '' = random weights"),
    "init.step": (int, "the checkpoint of a run to start from; -1 = the latest"),
    "checkpoint.every": (int, "steps between checkpoints"),
    "checkpoint.keep_latest": (int, "checkpoints to keep"),
    "checkpoint.keep_every": (int, "keep every checkpoint at a multiple of this step; 0 = none"),
    "log.every": (int, "steps between lines of metrics"),
    "log.health_every": (int, "steps between measures of collapse; 0 = never"),
    "log.tensorboard": (bool, "write TensorBoard events as well"),
    "probe.source": (str, "labelled videos for the online probe; '' = no probe"),
    "probe.train_split": (str, "split the probe is fitted on"),
    "probe.test_split": (str, "split the probe is scored on"),
    "probe.targets": (tuple, "numbers to regress, by name"),
    "probe.view": (bool, "classify the view as well"),
    "probe.clips": (int, "clips of every video, spread over it; features are averaged"),
    "probe.batch": (int, "clips encoded at a time"),
    "probe.every": (int, "steps between probes; 0 = only at the end"),
}

MASK_FIELDS: dict[str, tuple[type, str]] = {
    "blocks": (int, "number of blocks"),
    "scale": (float, "share of the frame that one block covers"),
    "aspect": (tuple, "smallest and largest aspect ratio of a block"),
    "context_tokens": (int, "visible tokens that the context encoder gets"),
    "target_tokens": (int, "masked tokens that the predictor predicts"),
    "keep": (str, "which tokens of too many: random, or raster (the first ones in time)"),
}


# The only settings of the objective that V-JEPA 2 has.
_OBJECTIVE_V2: dict[str, Any] = {
    "levels": 1,
    "context_weight": 0.0,
    "context_ramp": (0, 0),
    "by_distance": False,
}

# Fields that configs of earlier versions lack, with the values that they meant.
_SINCE: dict[str, dict[str, Any]] = {"model": {"family": V2}, "objective": _OBJECTIVE_V2}

TEXT_TUPLES = ("data.sources", "probe.targets")


def complete(config: ConfigDict) -> ConfigDict:
    """The config of a run that an earlier version may have started, with all of today's fields.

    One of another program, such as a probe's, stays as it is.
    """
    if "model" not in config:
        return config
    full = config.copy_and_resolve_references()
    for section, fields in _SINCE.items():
        full[section] = ConfigDict(fields | dict(full.get(section, {})))
    return full


def clip_spec(config: ConfigDict) -> ClipSpec:
    """How this config cuts clips from videos."""
    data = config.data
    return ClipSpec(
        frames=data.frames,
        size=data.size,
        by=data.sample_by,
        value=data.sample_value,
        area=tuple(data.crop_area),
        aspect=tuple(data.crop_aspect),
    )


def mask_specs(config: ConfigDict) -> dict[str, MaskSpec]:
    """The mask specifications of this config by name, in alphabetical order."""
    return {
        name: MaskSpec(
            blocks=mask.blocks,
            scale=mask.scale,
            context_tokens=mask.context_tokens,
            target_tokens=mask.target_tokens,
            aspect=tuple(mask.aspect),
            keep=mask.keep,
        )
        for name, mask in sorted(config.masks.items())
    }


def _fields_of(config: ConfigDict) -> dict[str, tuple[type, str]]:
    masks = config.get("masks")
    if not isinstance(masks, ConfigDict) or not len(masks):
        raise UserError(
            "config field 'masks' must hold at least one mask specification, such as "
            "masks.small = dict(blocks=8, scale=0.15, ...)"
        )
    return FIELDS | {
        f"masks.{name}.{field}": kind for name in masks for field, kind in MASK_FIELDS.items()
    }


def check(config: ConfigDict, devices: int) -> None:
    """Accepts a config that can run on that many devices.

    Raises:
      UserError: one sentence about the first field that is unknown, missing, of another type, or
        of an impossible value.
    """
    values = check_types(config, _fields_of(config), TEXT_TUPLES)
    _check_choices(config)
    _check_numbers(values)
    mesh_shape(devices, config.mesh.replica, config.mesh.fsdp)
    _check_sizes(config, devices)
    _check_objective(config)
    _check_optim(config)
    _check_probe(config, devices)
    _check_masks(config)


def _check_choices(config: ConfigDict) -> None:
    choices = {
        "model.family": (config.model.family, FAMILIES),
        "model.size": (config.model.size, SIZES),
        "model.remat": (config.model.remat, ("none", *REMAT_POLICIES)),
        "model.dtype": (config.model.dtype, ("bfloat16", "float32")),
        "model.attention": (config.model.attention, ("auto", *BACKENDS)),
        "data.sample_by": (config.data.sample_by, ("fps", "stride", "duration")),
        "optim.schedule": (config.optim.schedule, ("warmup_cosine", "linear")),
    } | {
        f"masks.{name}.keep": (mask.keep, ("random", "raster"))
        for name, mask in config.masks.items()
    }
    for field, (value, allowed) in choices.items():
        one_of(field, value, allowed)


def _check_sizes(config: ConfigDict, devices: int) -> None:
    model, data, optim = config.model, config.data, config.optim
    size = SIZES[model.size]
    width, heads = model.width or size.width, model.heads or size.heads
    require(width % heads == 0, "model.width", width, f"must be a multiple of heads, {heads}")
    require(
        config.predictor.width % config.predictor.heads == 0,
        "predictor.width",
        config.predictor.width,
        f"must be a multiple of predictor.heads, {config.predictor.heads}",
    )
    for part, per_head in (
        ("model", width // heads),
        ("predictor", config.predictor.width // config.predictor.heads),
    ):
        require(
            axis_channels(per_head) > 0,
            f"{part}.heads",
            config[part].heads or heads,
            f"leaves {per_head} channels to a head: rotary positions need 6, two for each axis",
        )
    near = max(1, round(data.size / model.patch)) * model.patch
    require(
        data.size % model.patch == 0,
        "data.size",
        data.size,
        f"must be a multiple of model.patch, {model.patch}; the nearest is {near}",
    )
    require(
        data.frames % model.tubelet == 0,
        "data.frames",
        data.frames,
        f"must be a multiple of model.tubelet, {model.tubelet}",
    )
    parts = devices * optim.microbatches
    near = max(1, round(optim.global_batch / parts)) * parts
    require(
        optim.global_batch % parts == 0,
        "optim.global_batch",
        optim.global_batch,
        f"must be a multiple of devices x optim.microbatches = {devices} x {optim.microbatches}; "
        f"the nearest is {near}",
    )
    require(
        not data.weights
        or (len(data.weights) == len(data.sources) and all(weight > 0 for weight in data.weights)),
        "data.weights",
        tuple(data.weights),
        f"must have one positive number for each of the {len(data.sources)} sources, or be ()",
    )
    require(
        not data.weights or data.temperature == 1,
        "data.temperature",
        data.temperature,
        "has no effect beside data.weights: set it to 1",
    )
    require(
        data.sample_by != "stride" or float(data.sample_value).is_integer(),
        "data.sample_value",
        data.sample_value,
        "must be a whole number of frames with data.sample_by=stride",
    )
    require(
        bool(data.sources) and all(isinstance(source, str) for source in data.sources),
        "data.sources",
        tuple(data.sources),
        "must name at least one source, such as ('videos:/data/clips',)",
    )
    for field in ("mean", "std"):
        fits = len(data[field]) == 3 and (field == "mean" or min(data[field]) > 0)
        require(fits, f"data.{field}", tuple(data[field]), "must be three numbers, one per colour")
    for field in ("crop_area", "crop_aspect"):
        pair = data[field]
        rule = "must be two positive numbers, the smaller first"
        require(len(pair) == 2 and 0 < pair[0] <= pair[1], f"data.{field}", tuple(pair), rule)
    require(
        data.crop_area[1] <= 1, "data.crop_area", tuple(data.crop_area), "must end at 1 or less"
    )


def _check_objective(config: ConfigDict) -> None:
    objective, depth = config.objective, config.model.depth or SIZES[config.model.size].depth
    ramp = tuple(objective.context_ramp)
    if config.model.family == V2:
        for field, only in _OBJECTIVE_V2.items():
            value = ramp if field == "context_ramp" else objective[field]
            rule = f"must be {only} with model.family=v2: the others are for v2.1"
            require(value == only, f"objective.{field}", value, rule)
        return
    levels = objective.levels
    require(levels in (1, LEVELS), "objective.levels", levels, f"must be 1 or {LEVELS}")
    require(
        levels == 1 or depth >= LEVELS,
        "objective.levels",
        levels,
        f"needs an encoder of at least as many blocks: model.depth is {depth}",
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
    else:
        require(
            optim.final_lr <= optim.peak_lr,
            "optim.final_lr",
            optim.final_lr,
            f"must not be above optim.peak_lr, {optim.peak_lr:g}; equal means constant after the "
            "warm-up",
        )
    require(max(optim.betas) < 1, "optim.betas", tuple(optim.betas), "must be below 1")
    require(
        checkpoint.keep_every % checkpoint.every == 0,
        "checkpoint.keep_every",
        checkpoint.keep_every,
        f"must be a multiple of checkpoint.every, {checkpoint.every}",
    )


def _check_probe(config: ConfigDict, devices: int) -> None:
    probe = config.probe
    if not probe.source:
        return
    near = max(1, round(probe.batch / devices)) * devices
    require(
        probe.batch % devices == 0,
        "probe.batch",
        probe.batch,
        f"must be a multiple of the number of devices, {devices}; the nearest is {near}",
    )
    require(
        probe.train_split != probe.test_split,
        "probe.test_split",
        probe.test_split,
        "must differ from probe.train_split",
    )
    require(
        bool(probe.targets) or probe.view,
        "probe.targets",
        tuple(probe.targets),
        "must name a target unless probe.view is True",
    )


def _check_masks(config: ConfigDict) -> None:
    model, data = config.model, config.data
    side = data.size // model.patch
    for name, spec in mask_specs(config).items():
        try:
            multiblock.check(spec, (data.frames // model.tubelet, side, side))
        except UserError as error:
            raise UserError(f"config section 'masks.{name}': {error}") from error


def _check_numbers(values: dict[str, Any]) -> None:
    positive = [
        "model.tubelet",
        "model.patch",
        "predictor.width",
        "predictor.depth",
        "predictor.heads",
        "predictor.mlp_hidden",
        "predictor.mask_tokens",
        "data.frames",
        "data.size",
        "data.sample_value",
        "data.temperature",
        "optim.global_batch",
        "optim.microbatches",
        "optim.updates_per_epoch",
        "optim.epochs",
        "optim.ipe_scale",
        "optim.peak_lr",
        "optim.eps",
        "optim.loss_exponent",
        "optim.max_skipped",
        "checkpoint.every",
        "checkpoint.keep_latest",
        "log.every",
        "probe.clips",
        "probe.batch",
    ]
    for name in positive:
        require(values[name] > 0, name, values[name], "must be positive")
    not_negative = [
        "model.width",
        "model.depth",
        "model.heads",
        "model.mlp_hidden",
        "data.workers",
        "data.max_bad_share",
        "data.max_padded_share",
        "optim.warmup_epochs",
        "optim.start_lr",
        "optim.final_lr",
        "optim.weight_decay",
        "optim.final_weight_decay",
        "optim.clip_norm",
        "checkpoint.keep_every",
        "log.health_every",
        "probe.every",
    ]
    for name in not_negative:
        require(values[name] >= 0, name, values[name], "must not be negative")
    for name in ("optim.momentum", "optim.betas"):
        pair = values[name]
        fits = len(pair) == 2 and all(0 <= x <= 1 for x in pair)
        require(fits, name, tuple(pair), "must be two numbers between 0 and 1")
