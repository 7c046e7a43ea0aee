"""Reads weights: our folders, Hugging Face folders, PyTorch checkpoints, safetensors files.

Nothing in a file is ever executed, and no entry is silently skipped: an entry that is not
understood is an error unless the user has named it with --ignore.
"""

import dataclasses
import json
import logging
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from echojepa_jax.models.family import V2, V21, VIDEOMAE
from echojepa_jax.models.v21 import LEVELS
from echojepa_jax.models.vit import SIZES, EncoderShape
from echojepa_jax.utils.errors import UserError, first_line
from echojepa_jax.utils.extras import pip_install
from echojepa_jax.weights import videomae, vjepa2
from echojepa_jax.weights.hugging_face import MODELS, check_network
from echojepa_jax.weights.pretrained import (
    PARTS,
    ClipInput,
    PredictorShape,
    Pretrained,
    expected_shapes,
    fingerprint,
    rows_of,
)
from echojepa_jax.weights.vjepa2 import Array, Lazy

log = logging.getLogger(__name__)

FORMAT = "echojepa_jax weights, version 1"
CONFIG, TENSORS, ORBAX, CARD = "config.json", "model.safetensors", "params", "model_card.md"
TORCH = "model.pt"

# Entries of a PyTorch training checkpoint. The target encoder comes before the context encoder: it
# is the one to use.
_TARGETS, _CONTEXT, _PREDICTOR = ("target_encoder", "ema_encoder"), "encoder", "predictor"
_NOT_WEIGHTS = frozenset(
    ("opt", "optimizer", "scaler", "epoch", "loss", "batch_size", "world_size", "lr", "itr", "step")
)
_WRAPPERS = ("state_dict", "model")
_PREFIXES = re.compile(r"^(module\.|backbone\.|_orig_mod\.)+")


def read_weights(
    path: Path,
    *,
    heads: int = 0,
    predictor_heads: int = 0,
    clip: ClipInput | None = None,
    ignore: Sequence[str] = (),
) -> Pretrained:
    """Reads weights in any format.

    Args:
      path: a folder with a config.json (ours or Hugging Face's), a PyTorch file, or a .safetensors
        file with V-JEPA 2's, VideoMAE's or Hugging Face's names.
      heads, predictor_heads: attention heads, which a file without a config does not contain; 0 =
        from the table of sizes.
      clip: the input, which a file without our config does not contain; None = that of V-JEPA 2.
      ignore: regular expressions of entries to leave out, and of unknown fields of a Hugging Face
        config that change nothing.

    Raises:
      UserError: there is no such file, it is damaged or of another kind, its config describes
        another network, or entries are missing, unknown, of another shape or not finite.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: name a run, or a folder or file of weights")
    ours = path.name in (TENSORS, TORCH) and (path.parent / CONFIG).exists()
    if ours and _read_config(path.parent).get("format") == FORMAT:
        path = path.parent  # whose config.json describes the file
    if path.is_dir():
        config = _read_config(path)
        if config.get("format") == FORMAT:
            return _read_ours(path, config)
        if config.get("model_type") not in MODELS:
            raise UserError(
                f"{path / CONFIG} describes neither our weights nor a VJEPA2Model or VideoMAE "
                f"(model_type {config.get('model_type')!r})"
            )
        return _from_hugging_face(path, config, _open_folder(path), ignore)
    named = _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)
    return _from_torch(path, named, heads, predictor_heads, clip or ClipInput(), ignore)


def config_of(weights: Pretrained) -> dict[str, Any]:
    """The content of config.json in our folders."""
    return {
        "format": FORMAT,
        "encoder": vars(weights.shape),
        "predictor": vars(weights.predictor_shape) if weights.predictor_shape else None,
        "clip": vars(weights.clip),
        "fingerprints": weights.fingerprints(),
        "origin": dict(weights.origin),
    }


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {CONFIG}: it is not a folder of weights") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} does not contain a JSON object")
    return config


# --- ours -------------------------------------------------------------------------------------


def _read_ours(folder: Path, config: dict[str, Any]) -> Pretrained:
    try:
        shape = EncoderShape(**config["encoder"])
        predictor = PredictorShape(**config["predictor"]) if config["predictor"] else None
        clip = clip_of(config["clip"])
        marks, origin = dict(config["fingerprints"]), dict(config["origin"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} is damaged: {error!r}") from error
    shapes = {part: expected_shapes(shape, predictor, part) for part in marks}
    if (folder / ORBAX).is_dir():
        params = _restore(folder / ORBAX, shapes)
    elif (folder / TORCH).is_file():
        parts, _ = _parts_of(folder / TORCH, _open_pickle(folder / TORCH), ())
        wanted = {part: parts[part] for part in marks if part in parts}
        params = dict(_build(folder / TORCH, wanted, shape, predictor, clip).params)
    else:
        params = _from_flat(folder / TENSORS, shapes)
    if set(params) != set(marks):
        raise UserError(
            f"{folder} contains {sorted(params)}, but its {CONFIG} describes {sorted(marks)}"
        )
    for part, tree in params.items():
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)):
            raise UserError(f"the {part} in {folder} contains numbers that are not finite")
        if fingerprint(tree) != marks[part]:
            raise UserError(
                f"the {part} in {folder} is not the one that its {CONFIG} describes: the folder is "
                "damaged; export or convert the weights again"
            )
    return Pretrained(shape, predictor, clip, params, origin)


def clip_of(fields: Mapping[str, Any]) -> ClipInput:
    """The clip input from its JSON object."""
    as_tuples: dict[str, Any] = {k: tuple(v) if type(v) is list else v for k, v in fields.items()}
    return ClipInput(**as_tuples)


def _restore(folder: Path, shapes: dict[str, Any]) -> dict[str, Any]:
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            args = ocp.args.PyTreeRestore(item=shapes, restore_args=as_numpy)
            return reader.restore(folder.absolute(), args=args)
    # Orbax and TensorStore raise errors of many types for damaged files.
    except Exception as error:
        reason = first_line(error)
        raise UserError(
            f"{folder} cannot be read ({reason}): export or convert the weights again"
        ) from error


def _from_flat(path: Path, shapes: dict[str, Any]) -> dict[str, Any]:
    """Our trees from a safetensors file, in which paths are joined by dots."""
    tensors, names = _open_safetensors(path), set(flatten_dict(shapes, sep="."))
    if odd := sorted(names ^ set(tensors)):
        raise UserError(
            f"{path} does not contain what its {CONFIG} describes; they differ in {odd[:8]}"
        )
    return unflatten_dict(dict(tensors), sep=".")


# --- files as named arrays ----------------------------------------------------------------------


def _open_safetensors(path: Path) -> Lazy:
    """Arrays of a file by name, read on access.

    Raises:
      UserError: no such file, or it is damaged.
    """
    try:
        file = safe_open(path, framework="np")
        names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a complete safetensors file: {error}") from error

    def get(name: str) -> Array:
        if file.get_slice(name).get_dtype() != "BF16":
            return file.get_tensor(name)
        # NumPy has no bfloat16; JAX brings one.
        with safe_open(path, framework="flax") as other:
            return np.asarray(other.get_tensor(name))

    return Lazy({name: partial(get, name) for name in names})


def _open_folder(folder: Path) -> Mapping[str, Array]:
    """The arrays of a Hugging Face folder, from one file or from several with an index."""
    index = folder / f"{TENSORS}.index.json"
    if not index.exists():
        if not (folder / TENSORS).exists():
            raise UserError(f"{folder} has no {TENSORS}: only safetensors files are read")
        return _open_safetensors(folder / TENSORS)
    try:
        places: dict[str, str] = dict(json.loads(index.read_text())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index} is damaged: {error!r}") from error
    files = {name: _open_safetensors(folder / name) for name in sorted(set(places.values()))}
    lost = sorted(name for name, file in places.items() if name not in files[file])
    if lost:
        raise UserError(
            f"{folder} is incomplete: its index names {lost[:8]}, which no file contains"
        )

    return Lazy({name: partial(files[file].__getitem__, name) for name, file in places.items()})


def _open_pickle(path: Path) -> Any:
    """Loads a `torch.save` file without running code; maps tensors from the file if possible.

    Raises:
      UserError: PyTorch is not installed, the file is damaged, or loading it could run code.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a PyTorch file, but PyTorch is not installed: {pip_install('torch')}, or "
            "name a .safetensors file"
        ) from error
    try:
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        named = re.search(r"GLOBAL ([\w.]+\.[\w.]+)\b", reason)
        # Not quoted in full: PyTorch's message advises to run the code.
        found = (
            f"contains more than weights ({named[1]})," if named else "is not a file of weights,"
        )
        raise UserError(
            f"{path} {found} {'and' if named else 'or'} loading it could run code: ask its author "
            "for a safetensors file or a plain state dict"
        ) from error
    # A truncated file raises errors of many types.
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a complete PyTorch file ({reason})") from error


# --- PyTorch's names ----------------------------------------------------------------------------


def _from_torch(
    path: Path, top: Any, heads: int, predictor_heads: int, clip: ClipInput, ignore: Sequence[str]
) -> Pretrained:
    parts, left_out = _parts_of(path, top, ignore)
    if left_out:
        log.info("left out (not weights, or named with --ignore): %s", ", ".join(left_out))
    if "hugging_face" in parts:
        parts = _hugging_face_parts(parts["hugging_face"])
    if "encoder" not in parts:
        raise UserError(f"{path} contains no encoder, only {sorted(parts)}")
    shape = _encoder_shape(path, parts["encoder"], heads)
    predictor = None
    if "predictor" in parts:
        predictor = _predictor_shape(path, parts["predictor"], shape, predictor_heads)
    return _build(path, parts, shape, predictor, clip)


def _hugging_face_parts(named: Mapping[str, Array]) -> dict[str, Mapping[str, Array]]:
    """The parts of a state dict with transformers' names, under the original's names."""
    # Only VideoMAE's layers have this name.
    mae = any(".layernorm_before." in name or name == "encoder_to_decoder.weight" for name in named)
    found = videomae.from_hugging_face(named) if mae else vjepa2.from_hugging_face(named)
    return {part: tensors for part, tensors in found.items() if tensors}


def _build(
    path: Path,
    parts: Mapping[str, Mapping[str, Array]],
    shape: EncoderShape,
    predictor: PredictorShape | None,
    clip: ClipInput,
) -> Pretrained:
    params = {}
    for part in sorted(parts, key=PARTS.index):
        rows = rows_of(shape, predictor, part)
        try:
            params[part] = vjepa2.from_torch(
                parts[part], rows, expected_shapes(shape, predictor, part)
            )
        except UserError as error:
            raise UserError(f"{path}, {part}: {error}") from error
        log.info(
            "%s: mapped all %d entries of %s to %d arrays", part, len(parts[part]), path, len(rows)
        )
    return Pretrained(shape, predictor, clip, params, {"made from": path.name})


def _parts_of(
    path: Path, top: Any, ignore: Sequence[str]
) -> tuple[dict[str, Mapping[str, Array]], list[str]]:
    """Named arrays by part ("hugging_face" for a VJEPA2Model state dict), and names left out."""
    if not isinstance(top, Mapping):
        raise UserError(f"{path} contains a {type(top).__name__}, not a dictionary of weights")
    wrappers = [name for name in _WRAPPERS if isinstance(top.get(name), Mapping)]
    if wrappers and not {_CONTEXT, _PREDICTOR, *_TARGETS} & set(top):
        others = {name: value for name, value in top.items() if name != wrappers[0]}
        if odd := sorted(set(others) - _NOT_WEIGHTS):
            raise UserError(f"{path} contains unknown entries, {odd}, beside its weights")
        if others:
            log.info("left out (not weights): %s", ", ".join(others))
        top = top[wrappers[0]]
    left_out = [str(name) for name in top if _is_expected(str(name), ignore)]
    top = {name: value for name, value in top.items() if str(name) not in left_out}
    sections = {name: value for name, value in top.items() if isinstance(value, Mapping)}
    targets = [name for name in _TARGETS if name in sections]
    if not targets and not {_CONTEXT, _PREDICTOR} & set(sections):
        named, ignored = _clean(path, top, ignore)
        if videomae.is_whole(named):
            return videomae.to_parts(named), left_out + ignored
        theirs = any(re.match(r"(videomae\.)?encoder\.layer\.", name) for name in named)
        return {"hugging_face" if theirs else "encoder": named}, left_out + ignored
    parts: dict[str, Mapping[str, Array]] = {}
    roles = {targets[0]: "encoder"} if targets else {_CONTEXT: "encoder"}
    if targets and _CONTEXT in sections:
        if _same(sections[targets[0]], sections[_CONTEXT]):
            del top[_CONTEXT]  # one encoder under two names
        roles[_CONTEXT] = "context_encoder"
    roles[_PREDICTOR] = "predictor"
    for name in list(top):
        if name in roles:
            parts[roles[name]], ignored = _clean(path, top.pop(name), ignore)
            left_out += [f"{name}/{entry}" for entry in ignored]
        elif name in _NOT_WEIGHTS:
            left_out.append(name)
            del top[name]
    if top:
        raise UserError(
            f"{path} contains unknown entries, {sorted(map(str, top))}: to leave some out, name "
            "them with --ignore"
        )
    return parts, left_out


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sections of a file share their storage."""
    places = [
        {name: value.data_ptr() for name, value in section.items() if hasattr(value, "data_ptr")}
        for section in (one, other)
    ]
    return places[0] == places[1] and len(places[0]) == len(one) == len(other)


def _is_expected(name: str, ignore: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for pattern in ignore)


def _clean(
    path: Path, named: Mapping[str, Any], ignore: Sequence[str]
) -> tuple[Mapping[str, Array], list[str]]:
    """The entries as arrays, without the prefixes of wrappers (F14), and the names left out."""
    make: dict[str, Callable[[], Array]] = {}
    left_out = []
    for name in named:
        if _is_expected(name, ignore):
            left_out.append(name)
            continue
        short = _PREFIXES.sub("", str(name))
        if short in make:
            raise UserError(f"{path} contains {short} twice, with different prefixes")
        make[short] = partial(_as_array, path, name, named[name])
    return Lazy(make), left_out


def _as_array(path: Path, name: str, value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "detach"):
        raise UserError(f"{path}: entry {name} is a {type(value).__name__}, not a tensor")
    tensor = value.detach()
    # NumPy has no bfloat16, and float32 represents all of its values exactly.
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _depth(named: Iterable[str], blocks: str) -> int:
    found = [re.match(rf"{blocks}\.(\d+)\.", name) for name in named]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _need(path: Path, named: Mapping[str, Array], name: str, axes: int) -> tuple[int, ...]:
    """The shape of an entry from which a size is read."""
    if name not in named:
        raise UserError(
            f"{path} is not a V-JEPA 2 encoder or predictor: it has no {name}, but "
            f"{sorted(named)[:4]} ..."
        )
    shape = named[name].shape
    if len(shape) != axes:
        raise UserError(f"{path}: {name} has shape {list(shape)}, not {axes} axes")
    return shape


def _heads(path: Path, width: int, known: int, given: int, flag: str) -> int:
    heads = given or known
    if not heads:
        raise UserError(
            f"{path} does not contain its number of attention heads, and width {width} is not "
            f"one of the known sizes: set {flag}"
        )
    if width % heads:
        raise UserError(f"{flag}={heads} does not divide the width of {path}, {width}")
    return heads


def _encoder_shape(path: Path, named: Mapping[str, Array], heads: int) -> EncoderShape:
    patches = _need(path, named, "patch_embed.proj.weight", 5)
    width, _, tubelet, patch, _ = patches
    hidden, _ = _need(path, named, "blocks.0.mlp.fc1.weight", 2)
    depth = _depth(named, "blocks")
    sizes = [
        size
        for size in SIZES.values()
        if (size.width, size.depth, size.mlp_hidden) == (width, depth, hidden)
    ]
    heads = _heads(path, width, sizes[0].heads if sizes else 0, heads, "--heads")
    family = V2
    if "norms_block.0.weight" in named:  # only V-JEPA 2.1 has one norm per level
        family = V21
    elif "blocks.0.attn.q_bias" in named:
        family = VIDEOMAE
    return EncoderShape(width, depth, heads, hidden, tubelet, patch, family)


def _predictor_shape(
    path: Path, named: Mapping[str, Array], encoder: EncoderShape, heads: int
) -> PredictorShape:
    if encoder.family == VIDEOMAE:
        width, _ = _need(path, named, "encoder_to_decoder.weight", 2)
        hidden, _ = _need(path, named, "decoder.blocks.0.mlp.fc1.weight", 2)
        # In all sizes of VideoMAE, a head has 64 channels.
        heads = _heads(path, width, 0 if width % 64 else width // 64, heads, "--predictor_heads")
        return PredictorShape(width, _depth(named, r"decoder\.blocks"), heads, hidden, 1)
    # The input has two layers for several levels, and one layer for the last level alone.
    several = "predictor_embed.0.weight" in named
    embed = "predictor_embed.2.weight" if several else "predictor_embed.weight"
    levels = LEVELS if several else 1
    width, _ = _need(path, named, embed, 2)
    outputs, _ = _need(path, named, "predictor_proj.weight", 2)
    out_width = 0 if outputs == levels * encoder.width else outputs // levels
    hidden, _ = _need(path, named, "predictor_blocks.0.mlp.fc1.weight", 2)
    tokens = sum(name.startswith("mask_tokens.") for name in named)
    heads = _heads(path, width, 12 if width == 384 else 0, heads, "--predictor_heads")
    depth = _depth(named, "predictor_blocks")
    return PredictorShape(width, depth, heads, hidden, tokens, levels, out_width)


# --- Hugging Face's config ------------------------------------------------------------------------


def _from_hugging_face(
    path: Path, config: dict[str, Any], tensors: Mapping[str, Array], ignore: Sequence[str]
) -> Pretrained:
    check_network(path / CONFIG, config, partial(_is_expected, ignore=ignore))
    kept = {n: partial(tensors.__getitem__, n) for n in tensors if not _is_expected(n, ignore)}
    parts = _hugging_face_parts(Lazy(kept))
    try:
        sizes = _sizes_of_videomae if config["model_type"] == "videomae" else _sizes_of_vjepa2
        shape, predictor, plain = sizes(config, _side(path, config, "patch_size"))
        mine = config.get("echojepa_jax", {})  # written by `write.py`
        clip, origin = clip_of(mine.get("clip", plain)), mine.get("origin", {})
    except (KeyError, TypeError, ValueError) as error:
        name = MODELS[config["model_type"]]
        raise UserError(f"{path / CONFIG} does not describe a {name}: {error!r}") from error
    if "encoder" not in parts:
        raise UserError(f"{path} contains no encoder")
    built = _build(path, parts, shape, predictor if "predictor" in parts else None, clip)
    return dataclasses.replace(built, origin=origin or built.origin)


def _side(path: Path, config: Mapping[str, Any], field: str) -> int:
    """A size in the config, which may be written as a pair of equal numbers."""
    value = config[field]
    if isinstance(value, int):
        return value
    height, width = value
    if height != width:
        raise UserError(f"{path / CONFIG}: {field} is {[height, width]}: it must be square")
    return int(height)


_Sizes = tuple[EncoderShape, PredictorShape, dict[str, int]]


def _sizes(config: Mapping[str, Any], of: str = "") -> tuple[int, int, int]:
    """Width, depth and heads of the encoder or, with a prefix, of the other network."""
    names = "hidden_size", "num_hidden_layers", "num_attention_heads"
    width, depth, heads = (config[f"{of}{name}"] for name in names)
    return width, depth, heads


def _sizes_of_vjepa2(config: Mapping[str, Any], patch: int) -> _Sizes:
    """The sizes of encoder, predictor and clip."""
    mine, theirs = _sizes(config), _sizes(config, "pred_")
    hidden = int(mine[0] * config["mlp_ratio"])
    shape = EncoderShape(*mine, hidden, config["tubelet_size"], patch)
    hidden = int(theirs[0] * config["pred_mlp_ratio"])
    predictor = PredictorShape(*theirs, hidden, config["pred_num_mask_tokens"])
    return shape, predictor, {"frames": config["frames_per_clip"], "size": config["crop_size"]}


def _sizes_of_videomae(config: Mapping[str, Any], patch: int) -> _Sizes:
    """The sizes of encoder, decoder and clip."""
    hidden, tubelet = config["intermediate_size"], config["tubelet_size"]
    shape = EncoderShape(*_sizes(config), hidden, tubelet, patch, VIDEOMAE)
    hidden = config["decoder_intermediate_size"]
    decoder = PredictorShape(*_sizes(config, "decoder_"), hidden, mask_tokens=1)
    return shape, decoder, {"frames": config["num_frames"], "size": config["image_size"]}
