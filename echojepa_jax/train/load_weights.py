"""Loads weights from a run's checkpoint, or from any file or folder of weights."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from echojepa_jax.features.clip_input import clip_input
from echojepa_jax.models.family import family_of
from echojepa_jax.models.vit import EncoderShape
from echojepa_jax.train import config as configs
from echojepa_jax.train import workdir as workdirs
from echojepa_jax.train.checkpoint import Checkpoints
from echojepa_jax.train.state import Networks, init_params, make_networks
from echojepa_jax.utils.errors import UserError, first_line
from echojepa_jax.weights.pretrained import PredictorShape, Pretrained
from echojepa_jax.weights.read import read_weights

FINE_TUNED = "encoder"
"""The folder in a probe's workdir that contains its fine-tuned encoder."""


def load_weights(name: str, step: int = -1, **hints: Any) -> Pretrained:
    """Reads weights from a run's checkpoint, or from any format that `read_weights` accepts.

    Args:
      name: a folder or file; one in a bucket is copied first.
      step: of the checkpoint; -1 = the latest.
      hints: facts that the files do not contain, see `read_weights`.

    Raises:
      UserError: there are no weights, or they cannot be read.
    """
    with workdirs.Workdir.to_read(name) as run:
        path = run.path
        # In any other place, a folder of that name does not come from a run.
        is_run = (path / workdirs.MANIFEST).exists()
        fine_tuned = is_run and (path / FINE_TUNED).is_dir()
        if run.checkpoints.is_dir() and not fine_tuned:
            if hints.get("ignore"):
                raise UserError(f"{name} is a run, for which --ignore has no effect: omit it")
            return weights_of_run(run, step)
        if is_run and not fine_tuned:
            raise UserError(f"{name} has no checkpoint yet: train first")
        if step != -1:
            raise UserError(
                f"{name} is not a training run and has no checkpoint of step {step}: omit the step"
            )
        return read_weights(path / FINE_TUNED if fine_tuned else path, **hints)


def load_encoder_weights(name: str) -> Pretrained:
    """`load_weights`, but only the encoder.

    Raises:
      UserError: as `load_weights`, or there is no encoder.
    """
    weights = load_weights(name).only("encoder")
    if not weights.params:
        raise UserError(f"{name} contains no encoder: name other weights")
    return weights


def weights_of_run(run: workdirs.Workdir, step: int = -1) -> Pretrained:
    """Target encoder (as `encoder`), context encoder and predictor of one checkpoint.

    Where there is no target encoder, the only one is `encoder`.

    Args:
      step: of the checkpoint; -1 = the latest.

    Raises:
      UserError: the folder is not a training run, has no such checkpoint, or it cannot be read.
    """
    config = config_of_run(run.path)
    networks = make_networks(config)
    shapes = _shapes(networks, config)
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes
    )
    count = jax.ShapeDtypeStruct((), np.int32, sharding=place)
    folder = run.checkpoints
    if not folder.is_dir():
        raise UserError(f"{run.kept} has no checkpoint yet: train first")
    with Checkpoints(folder, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if not steps or (step != -1 and step not in steps):
            wanted = "" if step == -1 else f" of step {step}"
            has = f", only {sorted(steps)}" if steps else " that is complete: train first"
            raise UserError(f"{folder} has no checkpoint{wanted}{has}")
        step = steps[0] if step == -1 else step
        has_target = networks.objective.has_target
        target = {"count": count, "ema": like["encoder"] if has_target else {}}
        try:
            parts = checkpoints.restore({"params": like, "target": target}, step)
        # Orbax and TensorStore raise errors of many types for damaged files.
        except Exception as error:
            reason = first_line(error)
            raise UserError(f"checkpoint {step} of {folder} cannot be read: {reason}") from error
    params = parts["params"]
    if has_target:
        params = {
            "encoder": parts["target"]["ema"],
            "context_encoder": params["encoder"],
            "predictor": params["predictor"],
        }
    return _pretrained(networks, config, jax.device_get(params), _origin(run.path, config, step))


def initial_weights(name: str) -> Pretrained:
    """The random weights that a run started from, the baseline of probes."""
    with workdirs.Workdir.to_read(name) as run:
        config = config_of_run(run.path)
        origin = _origin(run.path, config, 0)
    if config.init["from"]:
        raise UserError(
            f"{name} did not start from random weights but from {config.init['from']}: use that as "
            "the baseline"
        )
    networks = make_networks(config)
    key = jax.random.key(config.seed)
    params = init_params(networks, key, config.data.frames, config.data.size)
    return _pretrained(networks, config, jax.device_get(params), origin)


def config_of_run(workdir: Path) -> ConfigDict:
    """The config of a training run.

    Raises:
      UserError: the folder is not the workdir of a training run.
    """
    try:
        config = configs.complete(ConfigDict(json.loads((workdir / "config.json").read_text())))
        if "head" in config:
            raise UserError(
                f"{workdir} is the workdir of a probe and contains no pretrained encoder: "
                "name the weights that the probe was trained on"
            )
        make_networks(config)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{workdir} is not the workdir of a training run ({error})") from error
    return config


def _shapes(networks: Networks, config: ConfigDict) -> dict[str, Any]:
    frames, size = config.data.frames, config.data.size
    return jax.eval_shape(lambda: init_params(networks, jax.random.key(0), frames, size))


def shapes_of(networks: Networks) -> tuple[EncoderShape, PredictorShape]:
    """Sizes of the networks of a config."""
    encoder, predictor = networks.encoder, networks.predictor
    sizes = ("width", "depth", "heads", "mlp_hidden", "tubelet", "patch")
    return (
        EncoderShape(**{name: getattr(encoder, name) for name in sizes}, family=family_of(encoder)),
        PredictorShape(
            predictor.width,
            predictor.depth,
            predictor.heads,
            predictor.mlp_hidden,
            predictor.mask_tokens,
            networks.objective.levels,
        ),
    )


def _pretrained(
    networks: Networks, config: ConfigDict, params: Mapping[str, Any], origin: Mapping[str, str]
) -> Pretrained:
    clip = clip_input(configs.clip_spec(config), networks.mean, networks.std)
    return Pretrained(*shapes_of(networks), clip, params, origin)


def _origin(workdir: Path, config: ConfigDict, step: int) -> dict[str, str]:
    """Facts for the model card. Paths are left out: they may contain names of people and places."""
    optim = config.optim
    total = optim.epochs * optim.updates_per_epoch
    facts = {
        "training": f"step {step:,} of {total:,}, {optim.global_batch:,} clips each"
        if step
        else "none: random weights",
        "seed": str(config.seed),
    }
    path = workdir / workdirs.MANIFEST
    if path.exists():
        manifest = json.loads(path.read_text())
        kinds: Counter[str] = Counter()
        for source, videos in manifest["data"]["sources"].items():
            kinds[source.partition(":")[0]] += videos
        facts["videos"] = ", ".join(f"{count:,} of kind {kind}" for kind, count in kinds.items())
        facts["data fingerprint"] = manifest["data"]["fingerprint"]
        facts["code"] = manifest["commit"]
        facts["versions"] = ", ".join(f"{k} {v}" for k, v in manifest["versions"].items())
    return facts
