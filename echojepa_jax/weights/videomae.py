"""VideoMAE's parameter names and layouts, in its own PyTorch code and in transformers.

The same tables serve both directions; vjepa2.py describes a row. Our part "encoder" is VideoMAE's
encoder, without the prefix "encoder." in its names; our part "predictor" is all the rest.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from echojepa_jax.utils.errors import UserError
from echojepa_jax.weights.vjepa2 import (
    LINEAR,
    THIRDS,
    TOKEN,
    Array,
    Lazy,
    Row,
    block_rows,
    dense,
    encoder_rows,
    fused,
    norm,
    some,
)

_PREFIX = "encoder."


def rows_of(part: str, tubelet: int, patch: int) -> tuple[Row, ...]:
    """The table of a part: "encoder", or "predictor" (the decoder and the layer before it)."""
    if part == "encoder":
        return _with_biases(encoder_rows(tubelet, patch), "blocks")
    return (
        Row("encoder_to_decoder.weight", "embed/kernel", LINEAR),
        Row("mask_token", "mask_token", TOKEN),
        *_with_biases(block_rows("decoder.blocks"), "decoder.blocks"),
        *norm("decoder.norm", "norm"),
        *dense("decoder.head", "proj"),
    )


def _with_biases(rows: Iterable[Row], blocks: str) -> tuple[Row, ...]:
    """The rows with separate biases of queries and values instead of one bias of qkv."""
    biases = (
        Row(f"{blocks}.{{i}}.attn.{name}", f"stack/blocks/attention/qkv/{name}")
        for name in ("q_bias", "v_bias")
    )
    return *(row for row in rows if not row.torch.endswith("attn.qkv.bias")), *biases


def is_whole(names: Iterable[str]) -> bool:
    """Whether these are the names of encoder and decoder in one dictionary, or of one of them."""
    return any(re.match(r"encoder\.(blocks|patch_embed)\.|encoder_to_decoder\.", n) for n in names)


def to_parts(tensors: Mapping[str, Array]) -> dict[str, Mapping[str, Array]]:
    """A checkpoint's dictionary as named arrays by part, for `vjepa2.from_torch`."""
    parts: dict[str, dict[str, Callable[[], Array]]] = {"encoder": {}, "predictor": {}}
    for name in tensors:
        part = "encoder" if name.startswith(_PREFIX) else "predictor"
        parts[part][name.removeprefix(_PREFIX)] = partial(tensors.__getitem__, name)
    return {part: Lazy(make) for part, make in parts.items() if make}


def from_parts(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The inverse of `to_parts`, for arrays of any library."""
    return {
        f"{_PREFIX}{name}" if part == "encoder" else name: value
        for part, named in parts.items()
        for name, value in named.items()
    }


# The whole names of VideoMAE's own checkpoints, and those of transformers' VideoMAEForPreTraining,
# where query, key and value are apart.
_LAYERS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_STACKS = {"encoder.blocks": "videomae.encoder.layer", "decoder.blocks": "decoder.decoder_layers"}
_BIASES = {"attn.q_bias": "attention.attention.query.bias"}
_BIASES["attn.v_bias"] = "attention.attention.value.bias"
_HUGGING_FACE = {
    "mask_token": "mask_token",
    "encoder_to_decoder.weight": "encoder_to_decoder.weight",
    **{
        f"{mine}.{leaf}": f"{theirs}.{leaf}"
        for mine, theirs in (
            ("encoder.patch_embed.proj", "videomae.embeddings.patch_embeddings.projection"),
            ("encoder.norm", "videomae.layernorm"),
            ("decoder.norm", "decoder.norm"),
            ("decoder.head", "decoder.head"),
        )
        for leaf in ("weight", "bias")
    },
    **{
        f"{mine}.{{i}}.{layer}.{leaf}": f"{theirs}.{{i}}.{their_layer}.{leaf}"
        for mine, theirs in _STACKS.items()
        for layer, their_layer in _LAYERS.items()
        for leaf in ("weight", "bias")
    },
    **{
        f"{mine}.{{i}}.{bias}": f"{theirs}.{{i}}.{their_bias}"
        for mine, theirs in _STACKS.items()
        for bias, their_bias in _BIASES.items()
    },
}


def _renamed(name: str, table: Mapping[str, str]) -> str | None:
    """The name by a table in which `{i}` is the number of a layer; None if it is unknown."""
    number = re.search(r"\.(\d+)\.", name)
    found = table.get(re.sub(r"\.\d+\.", ".{i}.", name, count=1))
    return found and found.replace("{i}", number[1] if number else "")


def from_hugging_face(tensors: Mapping[str, Array]) -> dict[str, Mapping[str, Array]]:
    """Renames a VideoMAEForPreTraining state dict to VideoMAE's own names, by part.

    It also accepts the state dict of a VideoMAEModel, which is the encoder alone, and the names of
    biases in transformers before version 5.

    Raises:
      UserError: a name is unknown, or a query, key or value lacks the other two.
    """
    back = {theirs: mine for mine, theirs in _HUGGING_FACE.items()}
    make: dict[str, Callable[[], Array]] = {}
    unknown = []
    alone = any(name.startswith("embeddings.") for name in tensors)
    for name in tensors:
        full = f"videomae.{name}" if alone else name
        full = re.sub(r"attention\.([qv])_bias$", _bias_now, full)
        if match := re.fullmatch(r"(.+)\.(\d+)\.attention\.attention\.(?:\w+)\.weight", full):
            stem, number = match[1], match[2]
            mine = next((mine for mine, theirs in _STACKS.items() if theirs == stem), None)
            prefix = name.rpartition("attention.")[0] + "attention."
            thirds = [f"{prefix}{third}.weight" for third in THIRDS]
            if mine is None or name not in thirds or not all(one in tensors for one in thirds):
                unknown.append(name)
                continue
            make[f"{mine}.{number}.attn.qkv.weight"] = partial(fused, tensors, thirds)
        elif found := _renamed(full, back):
            make[found] = partial(tensors.__getitem__, name)
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"these are not names of a VideoMAEForPreTraining: {some(sorted(unknown))}")
    return to_parts(Lazy(make))


def _bias_now(match: re.Match[str]) -> str:
    return f"attention.{'query' if match[1] == 'q' else 'value'}.bias"


def to_hugging_face(parts: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """The inverse of `from_hugging_face`, with the names of version 5."""
    tensors: dict[str, Array] = {}
    for name, value in from_parts(parts).items():
        if match := re.fullmatch(r"(.+)\.(\d+)\.attn\.qkv\.weight", name):
            stem = f"{_STACKS[match[1]]}.{match[2]}.attention.attention"
            for third, rows in zip(THIRDS, np.split(value, 3), strict=True):
                tensors[f"{stem}.{third}.weight"] = rows
        else:
            found = _renamed(name, _HUGGING_FACE)
            assert found is not None, f"{name} comes from our own table"
            tensors[found] = value
    return tensors
