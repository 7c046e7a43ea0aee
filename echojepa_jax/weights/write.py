"""Writes weights into a folder: the arrays, a config.json and a model_card.md."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError
from safetensors.numpy import save_file

from echojepa_jax.models.family import V2, VIDEOMAE
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.extras import pip_install
from echojepa_jax.utils.files import whole, write_json
from echojepa_jax.weights import videomae, vjepa2
from echojepa_jax.weights.card import model_card
from echojepa_jax.weights.pretrained import ClipInput, Pretrained, rows_of
from echojepa_jax.weights.read import CARD, CONFIG, ORBAX, TENSORS, TORCH, config_of
from echojepa_jax.weights.vjepa2 import Array


def write_weights(weights: Pretrained, out: Path, form: str) -> None:
    """Writes the folder `out`; after an error it does not exist.

    Args:
      form: one of `FORMATS`.

    Raises:
      UserError: `out` exists already or cannot be written, or the format cannot store these
        weights.
    """
    with new_folder(out) as folder:
        FORMATS[form](weights, folder)
        (folder / CARD).write_text(model_card(weights, form))


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder to fill, which is renamed to `out` when it is complete (F12).

    Raises:
      UserError: `out` exists already and is not an empty folder, or it cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists already: name another folder, or remove it")
    try:
        with whole(out, shared=True) as partial:
            partial.mkdir(parents=True)
            yield partial
    # Each library reports a full disk by an error of another type.
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{out} cannot be written ({reason}): free some space, or repair the disk"
        ) from error


def _orbax(weights: Pretrained, folder: Path) -> None:
    """Our trees as an Orbax checkpoint."""
    write_json(folder / CONFIG, config_of(weights))
    # Nothing changes the arrays while they are written: Orbax need not copy them in memory.
    no_copy = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, no_copy))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as writer:
        writer.save((folder / ORBAX).absolute(), args=ocp.args.PyTreeSave(dict(weights.params)))


def _safetensors(weights: Pretrained, folder: Path) -> None:
    """Our trees as flat names: paths in the tree, joined by dots."""
    write_json(folder / CONFIG, config_of(weights))
    save_tensors(flatten_dict(dict(weights.params), sep="."), folder)


def save_tensors(tensors: dict[str, Array], folder: Path) -> None:
    """Writes the safetensors file of a folder."""
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(contiguous, folder / TENSORS, metadata={"format": "pt"})
    (folder / TENSORS).chmod(0o644)  # the library creates files that only their owner can read


def _torch_parts(weights: Pretrained) -> dict[str, dict[str, Array]]:
    """The original's names by part."""
    sizes = weights.shape, weights.predictor_shape
    return {
        part: vjepa2.to_torch(tree, rows_of(*sizes, part)) for part, tree in weights.params.items()
    }


def _torch(weights: Pretrained, folder: Path) -> None:
    """A checkpoint of the original's PyTorch code.

    V-JEPA 2's has `target_encoder`, `encoder` and `predictor`, VideoMAE's everything in `model`.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(f"--format=torch needs PyTorch: {pip_install('torch')}") from error
    named = {
        part: {name: torch.from_numpy(np.array(a, order="C")) for name, a in tensors.items()}
        for part, tensors in _torch_parts(weights).items()
    }
    parts: dict[str, Any] = {}
    if weights.shape.family == VIDEOMAE:
        parts["model"] = videomae.from_parts(named)
    elif "encoder" in named:
        # Code that reads one encoder looks for one of these names; equal tensors are stored once.
        parts["target_encoder"] = named["encoder"]
        parts["encoder"] = named.get("context_encoder", named["encoder"])
    elif "context_encoder" in named:
        parts["encoder"] = named["context_encoder"]
    if "predictor" in named and weights.shape.family != VIDEOMAE:
        parts["predictor"] = named["predictor"]
    torch.save(parts, folder / TORCH)
    write_json(folder / CONFIG, config_of(weights))


def _hugging_face(weights: Pretrained, folder: Path) -> None:
    """A folder that transformers' VJEPA2Model or VideoMAEForPreTraining loads."""
    family = weights.shape.family
    write = {V2: _vjepa2_model, VIDEOMAE: _videomae_for_pretraining}.get(family)
    if write is None:
        raise UserError(f"transformers has no model of family {family}: choose another --format")
    write(weights, folder)


def _vjepa2_model(weights: Pretrained, folder: Path) -> None:
    predictor = weights.predictor_shape
    if "predictor" not in weights.params or predictor is None or "encoder" not in weights.params:
        raise UserError(
            "these weights lack the encoder or the predictor, and a VJEPA2Model needs both: "
            "choose another --format"
        )
    shape, clip = weights.shape, weights.clip
    config = {
        "architectures": ["VJEPA2Model"],
        "model_type": "vjepa2",
        "dtype": "float32",
        "patch_size": shape.patch,
        "crop_size": clip.size,
        "frames_per_clip": clip.frames,
        "tubelet_size": shape.tubelet,
        "in_chans": 3,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "mlp_ratio": mlp_ratio(shape.width, shape.mlp_hidden),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "pred_hidden_size": predictor.width,
        "pred_num_hidden_layers": predictor.depth,
        "pred_num_attention_heads": predictor.heads,
        "pred_mlp_ratio": mlp_ratio(predictor.width, predictor.mlp_hidden),
        "pred_num_mask_tokens": predictor.mask_tokens,
        "echojepa_jax": {"clip": vars(clip), "origin": dict(weights.origin)},
    }
    write_json(folder / CONFIG, config)
    _write_processor(folder, clip, "VJEPA2VideoProcessor")
    save_tensors(vjepa2.to_hugging_face(_torch_parts(weights.only("encoder", "predictor"))), folder)


def _videomae_for_pretraining(weights: Pretrained, folder: Path) -> None:
    decoder, shape, clip = weights.predictor_shape, weights.shape, weights.clip
    if set(weights.params) != {"encoder", "predictor"} or decoder is None:
        raise UserError(
            "these weights lack the encoder or the decoder, and a VideoMAEForPreTraining needs "
            "both: choose another --format"
        )
    config = {
        "architectures": ["VideoMAEForPreTraining"],
        "model_type": "videomae",
        "dtype": "float32",
        "patch_size": shape.patch,
        "image_size": clip.size,
        "num_frames": clip.frames,
        "tubelet_size": shape.tubelet,
        "num_channels": 3,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.mlp_hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qv_bias": True,
        "use_mean_pooling": False,
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": decoder.mlp_hidden,
        "echojepa_jax": {"clip": vars(clip), "origin": dict(weights.origin)},
    }
    write_json(folder / CONFIG, config)
    _write_processor(folder, clip, "VideoMAEVideoProcessor")
    save_tensors(videomae.to_hugging_face(_torch_parts(weights)), folder)


def _write_processor(folder: Path, clip: ClipInput, kind: str) -> None:
    """How transformers makes an input of a video: scaled, cut at the centre, normalised."""
    processor = {
        "video_processor_type": kind,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(clip.mean),
        "image_std": list(clip.std),
        "do_resize": True,
        "size": {"shortest_edge": clip.size},
        "do_center_crop": True,
        "crop_size": {"height": clip.size, "width": clip.size},
    }
    write_json(folder / "video_preprocessor_config.json", processor)


def mlp_ratio(width: int, hidden: int) -> float:
    """The ratio for which `int(width * ratio)` equals the hidden width."""
    ratio = hidden / width
    while int(width * ratio) < hidden:
        ratio = float(np.nextafter(ratio, np.inf))
    return ratio


FORMATS: dict[str, Callable[[Pretrained, Path], None]] = {
    "orbax": _orbax,
    "safetensors": _safetensors,
    "torch": _torch,
    "hf": _hugging_face,
}
