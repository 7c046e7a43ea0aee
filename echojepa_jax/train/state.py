"""The state of training at a step, as one pytree, and the networks and optimizer it is for."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from echojepa_jax.models.family import V21, make_encoder, make_predictor
from echojepa_jax.models.pixels import IMAGENET_MEAN, IMAGENET_STD, Colour, normalise
from echojepa_jax.models.predictor import Predictor
from echojepa_jax.models.vit import Encoder
from echojepa_jax.train import schedules
from echojepa_jax.train.config import encoder_shape, is_mae
from echojepa_jax.train.objectives.mae import Mae
from echojepa_jax.train.objectives.vjepa2 import VJepa2
from echojepa_jax.train.objectives.vjepa21 import VJepa21
from echojepa_jax.train.optim import adamw, count_updates, parameter_ema

Objective = VJepa2 | VJepa21 | Mae


class Networks(NamedTuple):
    """The encoder (context and target share the architecture), the predictor, and the objective.

    The predictor of VideoMAE is its decoder.

    mean, std: of pixels in 0..1, per colour. objective: the loss that they are trained with.
    images: the objective for images, if batches contain images beside videos; else None.
    image_share: r; the loss is r times the mean over images, plus 1 - r times that over videos.
    """

    encoder: Encoder
    predictor: Predictor
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    objective: Objective = VJepa2()
    images: VJepa21 | None = None
    image_share: float = 0.0

    def normalise(self, clips: jax.Array) -> jax.Array:
        """uint8 [..., 3] -> float32; see models/pixels.py."""
        return normalise(clips, self.mean, self.std)


class Schedules(NamedTuple):
    """Functions of the number of updates; see train/schedules.py.

    momentum: of the target encoder; None if there is none.
    """

    learning_rate: schedules.Schedule
    weight_decay: schedules.Schedule
    momentum: schedules.Schedule | None


class Optimizer(NamedTuple):
    """AdamW for encoder and predictor, and the moving average that is the target encoder."""

    adamw: optax.GradientTransformation
    ema: optax.GradientTransformation


@flax.struct.dataclass
class TrainState:
    """Everything that a checkpoint contains.

    `step` counts batches seen; `target.count` counts updates made (a skipped step makes none).
    `params` is {"encoder": tree, "predictor": tree}; `target.ema` is the target encoder, an empty
    tree if the objective has none.
    """

    step: jax.Array
    params: dict[str, Any]
    opt_state: Any
    target: optax.EmaState

    @property
    def encoder(self) -> Any:
        """The parameters of the encoder to use: of the target encoder, if there is one."""
        return self.target.ema or self.params["encoder"]

    def parts(self) -> dict[str, Any]:
        """The state split as a checkpoint stores it, so that weights can be read alone."""
        progress = {"step": self.step, "opt_state": self.opt_state}
        return {"params": self.params, "target": self.target, "progress": progress}

    @classmethod
    def of(cls, parts: dict[str, Any]) -> "TrainState":
        """The inverse of `parts`."""
        return cls(**parts["progress"], params=parts["params"], target=parts["target"])


def make_networks(config: ConfigDict, attention: str = "xla") -> Networks:
    """Builds the networks of a config; sizes that are 0 come from the table of sizes.

    Args:
      attention: the attention backend, as `ops.attention.choose_backend` returns it.
    """
    model, shape = config.model, encoder_shape(config.model)
    common = {
        "scan_layers": model.scan_layers,
        "remat": model.remat,
        "dtype": jnp.dtype(model.dtype),
        "attention": attention,
    }
    encoder = make_encoder(**dataclasses.asdict(shape), **common)
    objective = make_objective(config)
    predictor = make_predictor(
        model.family,
        levels=objective.levels,
        tubelet=model.tubelet,
        patch=model.patch,
        out_width=shape.width,
        **config.predictor,
        **common,
    )
    networks = Networks(
        encoder, predictor, tuple(config.data.mean), tuple(config.data.std), objective
    )
    if "images" not in config or not isinstance(objective, VJepa21):
        return networks
    return networks._replace(
        images=objective._replace(context_weight=config.images.context_weight),
        image_share=config.images.share,
    )


def make_objective(config: ConfigDict) -> Objective:
    """The objective of a config."""
    if is_mae(config):
        return Mae(tuple(config.data.mean), tuple(config.data.std), config.mae.norm_pix)
    exponent, settings = config.optim.loss_exponent, config.objective
    if config.model.family != V21:
        return VJepa2(exponent)
    return VJepa21(
        exponent,
        settings.levels,
        settings.context_weight,
        tuple(settings.context_ramp),
        settings.by_distance,
    )


def make_schedules(config: ConfigDict) -> Schedules:
    """The schedules of a config."""
    optim = config.optim
    total = int(optim.ipe_scale * optim.epochs * optim.updates_per_epoch)
    if optim.schedule == "linear":
        learning_rate = schedules.linear(optim.peak_lr, optim.final_lr, total)
    else:
        warmup = int(optim.warmup_epochs * optim.updates_per_epoch)
        from_0 = optim.schedule == "warmup_cosine_from_0"
        rises = schedules.warmup_cosine_from_0 if from_0 else schedules.warmup_cosine
        learning_rate = rises(optim.start_lr, optim.peak_lr, optim.final_lr, warmup, total)
    momentum = None
    if make_objective(config).has_target:
        momentum = schedules.linear(optim.momentum[0], optim.momentum[1], total)
    return Schedules(
        learning_rate,
        schedules.cosine(optim.weight_decay, optim.final_weight_decay, total),
        momentum,
    )


def make_optimizer(config: ConfigDict, params: Any, schedule: Schedules) -> Optimizer:
    """The optimizer of a config; of `params` only paths and shapes matter."""
    optim = config.optim
    return Optimizer(
        adamw(
            params,
            schedule.learning_rate,
            schedule.weight_decay,
            betas=tuple(optim.betas),
            eps=optim.eps,
            clip_norm=optim.clip_norm,
            images="images" in config,
        ),
        parameter_ema(schedule.momentum) if schedule.momentum else count_updates(),
    )


@partial(jax.jit, static_argnames=("networks", "frames", "size"))
def init_params(networks: Networks, key: jax.Array, frames: int, size: int) -> dict[str, Any]:
    """Fresh parameters {"encoder", "predictor"}; shapes do not depend on frames and size.

    Jitted, so that a program traces it once, for shapes and for weights.
    """
    encoder, predictor = networks.encoder, networks.predictor
    encoder_key, predictor_key = jax.random.split(key)
    clips = jnp.zeros((1, frames, size, size, 3))
    ids = jnp.zeros((1, 1), jnp.int32)
    context = jnp.zeros((1, 1, networks.objective.levels * encoder.width))
    grid = encoder.grid(frames, size, size)
    return {
        "encoder": encoder.init(encoder_key, clips, ids)["params"],
        "predictor": predictor.init(predictor_key, context, [ids], [ids], grid)["params"],
    }


def new_state(params: dict[str, Any], optimizer: Optimizer) -> TrainState:
    """The state before the first update: a target encoder equals the context encoder."""
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        params=params,
        opt_state=optimizer.adamw.init(params),
        target=optimizer.ema.init(params["encoder"]),
    )
