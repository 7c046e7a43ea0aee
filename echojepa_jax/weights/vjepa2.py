"""V-JEPA 2's parameter names and layouts, as tables that are read in both directions.

One row per kind of parameter: the name in V-JEPA 2's PyTorch code (and in every checkpoint of
EchoJEPA), the path in our parameter tree, and how the array is laid out there. `{i}` runs over
layers (or mask tokens), which we keep stacked on a leading axis.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from echojepa_jax.utils.errors import UserError

Array = np.ndarray
Layout = tuple[Callable[[Array], Array], Callable[[Array], Array]]
Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of parameter; `layout` is the pair (torch -> ours, ours -> torch)."""

    torch: str
    ours: str
    layout: Layout = (lambda x: x, lambda x: x)


LINEAR: Layout = (lambda w: w.T, lambda w: w.T)
# A mask token is [1, 1, D] there and a row of [tokens, D] here.
TOKEN: Layout = (lambda t: t.reshape(-1), lambda t: t.reshape(1, 1, -1))


def _tubelet_layout(tubelet: int, patch: int) -> Layout:
    """The 3-D convolution [D, 3, u, p, q] there is a matrix [(u p q c), D] here."""
    return (
        lambda w: rearrange(w, "d c u p q -> (u p q c) d"),
        lambda w: rearrange(w, "(u p q c) d -> d c u p q", u=tubelet, p=patch, q=patch),
    )


def _block_rows(prefix: str) -> tuple[Row, ...]:
    rows = []
    for theirs, ours in (
        ("attn.qkv", "attention/qkv"),
        ("attn.proj", "attention/out"),
        ("mlp.fc1", "mlp/fc1"),
        ("mlp.fc2", "mlp/fc2"),
    ):
        rows.append(Row(f"{prefix}.{{i}}.{theirs}.weight", f"stack/blocks/{ours}/kernel", LINEAR))
        rows.append(Row(f"{prefix}.{{i}}.{theirs}.bias", f"stack/blocks/{ours}/bias"))
    for norm in ("norm1", "norm2"):
        rows.append(Row(f"{prefix}.{{i}}.{norm}.weight", f"stack/blocks/{norm}/scale"))
        rows.append(Row(f"{prefix}.{{i}}.{norm}.bias", f"stack/blocks/{norm}/bias"))
    return tuple(rows)


def encoder_rows(tubelet: int, patch: int) -> tuple[Row, ...]:
    """The table of context and target encoder."""
    return (
        Row("patch_embed.proj.weight", "patch_embed/kernel", _tubelet_layout(tubelet, patch)),
        Row("patch_embed.proj.bias", "patch_embed/bias"),
        *_block_rows("blocks"),
        Row("norm.weight", "norm/scale"),
        Row("norm.bias", "norm/bias"),
    )


def predictor_rows() -> tuple[Row, ...]:
    """The table of the predictor."""
    return (
        Row("predictor_embed.weight", "embed/kernel", LINEAR),
        Row("predictor_embed.bias", "embed/bias"),
        Row("mask_tokens.{i}", "mask_tokens", TOKEN),
        *_block_rows("predictor_blocks"),
        Row("predictor_norm.weight", "norm/scale"),
        Row("predictor_norm.bias", "norm/bias"),
        Row("predictor_proj.weight", "proj/kernel", LINEAR),
        Row("predictor_proj.bias", "proj/bias"),
    )


def from_torch(tensors: Mapping[str, Array], rows: tuple[Row, ...]) -> Tree:
    """Builds a parameter tree from V-JEPA 2 named arrays.

    Raises:
      UserError: names the entries that are missing, that nothing maps, or whose stacked index has
        holes. Every array is used exactly once, or nothing is returned.
    """
    left = set(tensors)
    flat: dict[tuple[str, ...], Array] = {}
    missing = []
    for row in rows:
        pattern = re.compile(re.escape(row.torch).replace(r"\{i\}", r"(\d+)"))
        found = {name: match for name in left if (match := pattern.fullmatch(name))}
        if not found:
            missing.append(row.torch)
            continue
        left -= set(found)
        to_ours = row.layout[0]
        path = tuple(row.ours.split("/"))
        if "{i}" not in row.torch:
            flat[path] = to_ours(tensors[row.torch])
            continue
        by_index = {int(match[1]): name for name, match in found.items()}
        holes = set(range(max(by_index) + 1)) - set(by_index)
        missing += [row.torch.replace("{i}", str(i)) for i in sorted(holes)]
        flat[path] = np.stack([to_ours(tensors[by_index[i]]) for i in sorted(by_index)])
    if missing or left:
        raise UserError(
            f"the weights do not fit this model: missing {missing or 'nothing'}, "
            f"not understood {sorted(left) or 'nothing'}"
        )
    return unflatten_dict(flat)


def to_torch(params: Tree, rows: tuple[Row, ...]) -> dict[str, Array]:
    """The inverse of `from_torch`.

    Raises:
      UserError: the tree has a parameter that no row names, or lacks one that a row names.
    """
    flat = {"/".join(path): np.asarray(value) for path, value in flatten_dict(params).items()}
    if set(flat) != {row.ours for row in rows}:
        odd = sorted(set(flat) ^ {row.ours for row in rows})
        raise UserError(f"parameter trees and the table of names differ in {odd}")
    tensors = {}
    for row in rows:
        value, to_theirs = flat[row.ours], row.layout[1]
        if "{i}" in row.torch:
            for i, layer in enumerate(value):
                tensors[row.torch.replace("{i}", str(i))] = to_theirs(layer)
        else:
            tensors[row.torch] = to_theirs(value)
    return tensors


# transformers' VJEPA2Model has the same arrays under these names (its query, key and value apart).
_HUGGING_FACE = (
    (r"encoder\.embeddings\.patch_embeddings\.proj\.(\w+)", r"encoder/patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.proj\.(\w+)", r"encoder/blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.(norm\d|mlp\.fc\d)\.(\w+)", r"encoder/blocks.\1.\2.\3"),
    (r"encoder\.layernorm\.(\w+)", r"encoder/norm.\1"),
    (r"predictor\.embeddings\.predictor_embeddings\.(\w+)", r"predictor/predictor_embed.\1"),
    (
        r"predictor\.layer\.(\d+)\.attention\.proj\.(\w+)",
        r"predictor/predictor_blocks.\1.attn.proj.\2",
    ),
    (r"predictor\.layer\.(\d+)\.(norm\d|mlp\.fc\d)\.(\w+)", r"predictor/predictor_blocks.\1.\2.\3"),
    (r"predictor\.layernorm\.(\w+)", r"predictor/predictor_norm.\1"),
    (r"predictor\.proj\.(\w+)", r"predictor/predictor_proj.\1"),
)
_HUGGING_FACE_QKV = re.compile(
    r"(encoder|predictor)\.layer\.(\d+)\.attention\.(query|key|value)\.(weight|bias)"
)


def from_hugging_face(tensors: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Renames a `VJEPA2Model` state dict to V-JEPA 2's own names.

    Returns:
      {"encoder": {name: array}, "predictor": {name: array}} for `from_torch`.

    Raises:
      UserError: a name that no rule covers.
    """
    parts: dict[str, dict[str, Array]] = {"encoder": {}, "predictor": {}}
    unknown = []
    for name, value in tensors.items():
        if match := _HUGGING_FACE_QKV.fullmatch(name):
            part, layer, kind, leaf = match.groups()
            if kind == "query":
                stem = name.rsplit(".", 2)[0]
                qkv = [tensors[f"{stem}.{k}.{leaf}"] for k in ("query", "key", "value")]
                blocks = "blocks" if part == "encoder" else "predictor_blocks"
                parts[part][f"{blocks}.{layer}.attn.qkv.{leaf}"] = np.concatenate(qkv)
        elif name == "predictor.embeddings.mask_tokens":
            for i, token in enumerate(value):
                parts["predictor"][f"mask_tokens.{i}"] = token
        else:
            for pattern, replacement in _HUGGING_FACE:
                if re.fullmatch(pattern, name):
                    part, short = re.sub(pattern, replacement, name).split("/")
                    parts[part][short] = value
                    break
            else:
                unknown.append(name)
    if unknown:
        raise UserError(f"not the names of a VJEPA2Model: {sorted(unknown)}")
    return parts
