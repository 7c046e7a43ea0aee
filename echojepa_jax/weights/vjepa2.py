"""V-JEPA 2's parameter names and layouts, as tables used in both directions.

One row per kind of parameter: the name in V-JEPA 2's PyTorch code (and in every checkpoint of
EchoJEPA), the path in our parameter tree, and how the array is laid out there. `{i}` runs over
layers (or mask tokens), which we keep stacked on a leading axis.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from echojepa_jax.models.family import V2, V21
from echojepa_jax.models.v21 import LEVELS
from echojepa_jax.utils.errors import UserError

Array = np.ndarray
Layout = tuple[Callable[[Array], Array], Callable[[Array], Array]]
Tree = dict[str, Any]


class Lazy(Mapping[str, Array]):
    """Named arrays that are created on access, so that a file is never in memory twice."""

    def __init__(self, make: Mapping[str, Callable[[], Array]]) -> None:
        self._make = make

    def __getitem__(self, name: str) -> Array:
        return self._make[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of parameter; `layout` is the pair (torch -> ours, ours -> torch)."""

    torch: str
    ours: str
    layout: Layout = (lambda x: x, lambda x: x)


LINEAR: Layout = (lambda w: w.T, lambda w: w.T)
# A mask token is [1, 1, D] in PyTorch and a row of [tokens, D] here.
TOKEN: Layout = (lambda t: t.reshape(-1), lambda t: t.reshape(1, 1, -1))


def _tubelet_layout(tubelet: int, patch: int) -> Layout:
    """PyTorch's 3-D convolution [D, 3, u, p, q] is a matrix [(u p q c), D] here."""
    return (
        lambda w: rearrange(w, "d c u p q -> (u p q c) d"),
        lambda w: rearrange(w, "(u p q c) d -> d c u p q", u=tubelet, p=patch, q=patch),
    )


def dense(torch: str, ours: str, layout: Layout = LINEAR) -> tuple[Row, Row]:
    """The rows of a layer's weight and bias."""
    return Row(f"{torch}.weight", f"{ours}/kernel", layout), Row(f"{torch}.bias", f"{ours}/bias")


def norm(torch: str, ours: str) -> tuple[Row, Row]:
    """The rows of a norm's scale and bias."""
    return Row(f"{torch}.weight", f"{ours}/scale"), Row(f"{torch}.bias", f"{ours}/bias")


def block_rows(prefix: str) -> tuple[Row, ...]:
    """The rows of a stack of blocks. prefix: of their names, without their number."""
    theirs, ours = f"{prefix}.{{i}}.", "stack/blocks/"
    return (
        *dense(f"{theirs}attn.qkv", f"{ours}attention/qkv"),
        *dense(f"{theirs}attn.proj", f"{ours}attention/out"),
        *dense(f"{theirs}mlp.fc1", f"{ours}mlp/fc1"),
        *dense(f"{theirs}mlp.fc2", f"{ours}mlp/fc2"),
        *norm(f"{theirs}norm1", f"{ours}norm1"),
        *norm(f"{theirs}norm2", f"{ours}norm2"),
    )


def encoder_rows(tubelet: int, patch: int) -> tuple[Row, ...]:
    """The table of the context encoder and of the target encoder."""
    return (
        *dense("patch_embed.proj", "patch_embed", _tubelet_layout(tubelet, patch)),
        *block_rows("blocks"),
        *norm("norm", "norm"),
    )


def predictor_rows() -> tuple[Row, ...]:
    """The table of the predictor."""
    return (
        *dense("predictor_embed", "embed"),
        Row("mask_tokens.{i}", "mask_tokens", TOKEN),
        *block_rows("predictor_blocks"),
        *norm("predictor_norm", "norm"),
        *dense("predictor_proj", "proj"),
    )


# A modality's vector is [1, 1, D] in PyTorch and [D] here, like the row of a mask token.
_MODALITIES = (
    Row("video_mod_embed", "video_embed", TOKEN),
    Row("img_mod_embed", "image_embed", TOKEN),
)


def encoder_rows_v21(tubelet: int, patch: int) -> tuple[Row, ...]:
    """The table of V-JEPA 2.1's context and target encoder."""
    kept = [row for row in encoder_rows(tubelet, patch) if not row.torch.startswith("norm.")]
    norms = [norm(f"norms_block.{level}", f"norm{level}") for level in range(LEVELS)]
    image = dense("patch_embed_img.proj", "patch_embed_image", _tubelet_layout(1, patch))
    return (*kept, *image, *_MODALITIES, *itertools.chain(*norms))


def predictor_rows_v21(levels: int) -> tuple[Row, ...]:
    """The table of V-JEPA 2.1's predictor. levels: how many it reads and predicts."""
    rows = (*predictor_rows(), *_MODALITIES, *dense("predictor_proj_context", "proj_context"))
    if levels == 1:
        return rows
    # The input of several levels has two layers.
    second = [
        dataclasses.replace(row, torch=row.torch.replace("predictor_embed.", "predictor_embed.2."))
        for row in rows
    ]
    return (*dense("predictor_embed.0", "embed_levels"), *second)


def rows_of(
    part: str, tubelet: int, patch: int, family: str = V2, levels: int = 1
) -> tuple[Row, ...]:
    """The table of a part: "encoder", "context_encoder" or "predictor".

    family, levels: see `models.family`.
    """
    if part == "predictor":
        return predictor_rows_v21(levels) if family == V21 else predictor_rows()
    rows = encoder_rows_v21 if family == V21 else encoder_rows
    return rows(tubelet, patch)


def from_torch(tensors: Mapping[str, Array], rows: tuple[Row, ...], like: Tree) -> Tree:
    """Builds a float32 parameter tree from arrays with V-JEPA 2's names, each used exactly once.

    Args:
      tensors: by name; half precision is converted to float32, which is exact.
      like: shapes of the tree.

    Raises:
      UserError: lists the entries that are missing or unknown, that have another shape or type, or
        that contain numbers that are not finite.
    """
    shapes = {name: leaf.shape for name, leaf in flatten_dict(like, sep="/").items()}
    left = set(tensors)
    flat: dict[tuple[str, ...], Array] = {}
    missing, misfits = [], []
    for row in rows:
        pattern = re.compile(re.escape(row.torch).replace(r"\{i\}", r"(\d+)"))
        by_index = {
            int(match[1]) if match.groups() else 0: name
            for name in left
            if (match := pattern.fullmatch(name))
        }
        left -= set(by_index.values())
        shape, stacked = shapes[row.ours], "{i}" in row.torch
        wanted = range(shape[0]) if stacked else range(1)
        missing += [row.torch.replace("{i}", str(i)) for i in wanted if i not in by_index]
        left |= {name for i, name in by_index.items() if i not in wanted}
        out = np.empty(shape, np.float32)
        for i in wanted:
            if i not in by_index:
                continue
            value, place = tensors[by_index[i]], out[i] if stacked else out[...]
            if problem := _misfit(value, row.layout, place):
                misfits.append(f"{by_index[i]} {problem}")
            else:
                place[...] = row.layout[0](value)
        flat[tuple(row.ours.split("/"))] = out
    if missing or left or misfits:
        raise UserError(
            f"the weights do not fit this model: missing {some(missing)}, "
            f"unknown {some(sorted(left))}, wrong {some(misfits)}"
        )
    return unflatten_dict(flat)


def _misfit(value: Array, layout: Layout, place: Array) -> str:
    """Why an array cannot be written to `place` in our layout; "" if it can."""
    wanted = layout[1](place).shape
    if value.shape != wanted:
        return f"has shape {list(value.shape)}, not {list(wanted)}"
    if value.dtype.itemsize > 4 or value.dtype.kind not in "fV":  # V: bfloat16 of ml_dtypes
        return f"is of type {value.dtype}, not float32 or smaller"
    if not np.isfinite(value).all():
        return "contains numbers that are not finite"
    return ""


def some(names: list[str]) -> str:
    """A list for a sentence; a long one is cut after eight names."""
    if not names:
        return "nothing"
    return str(names) if len(names) <= 8 else f"{names[:8]} and {len(names) - 8} more"


def to_torch(params: Tree, rows: tuple[Row, ...]) -> dict[str, Array]:
    """The inverse of `from_torch`.

    Raises:
      UserError: the tree has a parameter without a row, or lacks the parameter of a row.
    """
    flat = {name: np.asarray(x) for name, x in flatten_dict(params, sep="/").items()}
    if set(flat) != {row.ours for row in rows}:
        odd = sorted(set(flat) ^ {row.ours for row in rows})
        raise UserError(f"parameter trees and the table of names differ in {odd}")
    tensors: dict[str, Array] = {}
    for row in rows:
        value, to_theirs = flat[row.ours], row.layout[1]
        if "{i}" in row.torch:
            for i, layer in enumerate(value):
                tensors[row.torch.replace("{i}", str(i))] = to_theirs(layer)
        else:
            tensors[row.torch] = to_theirs(value)
    return tensors


_BLOCKS = {"encoder": "blocks", "predictor": "predictor_blocks"}
# transformers' VJEPA2Model has the same arrays under other names; its query, key and value are the
# thirds of the fused qkv, and its mask tokens are one array. Rows: (part, our name, its name).
_HUGGING_FACE = (
    ("encoder", "patch_embed.proj", "encoder.embeddings.patch_embeddings.proj"),
    ("encoder", "blocks.{i}.attn.proj", "encoder.layer.{i}.attention.proj"),
    *(
        (part, f"{blocks}.{{i}}.{name}", f"{part}.layer.{{i}}.{name}")
        for part, blocks in _BLOCKS.items()
        for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")
    ),
    ("encoder", "norm", "encoder.layernorm"),
    ("predictor", "predictor_embed", "predictor.embeddings.predictor_embeddings"),
    ("predictor", "predictor_blocks.{i}.attn.proj", "predictor.layer.{i}.attention.proj"),
    ("predictor", "predictor_norm", "predictor.layernorm"),
    ("predictor", "predictor_proj", "predictor.proj"),
)
THIRDS = ("query", "key", "value")
_MASK_TOKENS = "predictor.embeddings.mask_tokens"


def _renamed(name: str, source: int, target: int) -> tuple[str, str] | None:
    """(part, new name) of an entry by the table above, read from column `source` to `target`."""
    stem, _, leaf = name.rpartition(".")
    for row in _HUGGING_FACE:
        pattern = re.escape(row[source]).replace(r"\{i\}", r"(\d+)")
        if match := re.fullmatch(pattern, stem):
            index = match[1] if match.groups() else ""
            return row[0], f"{row[target].replace('{i}', index)}.{leaf}"
    return None


def _row(tensors: Mapping[str, Array], i: int) -> Array:
    return tensors[_MASK_TOKENS][i]


def fused(tensors: Mapping[str, Array], names: Sequence[str]) -> Array:
    """The arrays of these names as one, end to end."""
    return np.concatenate([tensors[name] for name in names])


def from_hugging_face(tensors: Mapping[str, Array]) -> dict[str, Mapping[str, Array]]:
    """Renames a `VJEPA2Model` state dict to V-JEPA 2's own names.

    Returns:
      {"encoder": {name: array}, "predictor": {name: array}} for `from_torch`.

    Raises:
      UserError: a name is unknown, or a query, key or value lacks the other two.
    """
    parts: dict[str, dict[str, Callable[[], Array]]] = {"encoder": {}, "predictor": {}}
    unknown = []
    third = re.compile(r"(encoder|predictor)\.layer\.(\d+)\.attention\.(query|key|value)\.(\w+)")
    for name in tensors:
        if match := third.fullmatch(name):
            part, layer, _, leaf = match.groups()
            stem = f"{part}.layer.{layer}.attention"
            names = [f"{stem}.{kind}.{leaf}" for kind in THIRDS]
            if not all(name in tensors for name in names):
                unknown.append(name)
                continue
            mine = f"{_BLOCKS[part]}.{layer}.attn.qkv.{leaf}"
            parts[part][mine] = partial(fused, tensors, names)
        elif name == _MASK_TOKENS:
            for i in range(len(tensors[name])):
                parts["predictor"][f"mask_tokens.{i}"] = partial(_row, tensors, i)
        elif found := _renamed(name, 2, 1):
            parts[found[0]][found[1]] = partial(tensors.__getitem__, name)
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"these are not names of a VJEPA2Model: {some(sorted(unknown))}")
    return {part: Lazy(make) for part, make in parts.items()}


def to_hugging_face(parts: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """The inverse of `from_hugging_face`."""
    tensors: dict[str, Array] = {}
    tokens = {}
    for part, named in parts.items():
        for name, value in named.items():
            if match := re.fullmatch(r"\w+\.(\d+)\.attn\.qkv\.(\w+)", name):
                stem = f"{part}.layer.{match[1]}.attention"
                for kind, third in zip(THIRDS, np.split(value, 3), strict=True):
                    tensors[f"{stem}.{kind}.{match[2]}"] = third
            elif name.startswith("mask_tokens."):
                tokens[int(name.rpartition(".")[2])] = value
            else:
                found = _renamed(name, 1, 2)
                assert found is not None, f"{name} comes from our own table"
                tensors[found[1]] = value
    tensors[_MASK_TOKENS] = np.stack([tokens[i] for i in sorted(tokens)])
    return tensors
