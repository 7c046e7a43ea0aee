"""Convert weights between PyTorch, Hugging Face and our formats, bit for bit.

  python -m echojepa_jax.convert --from=vjepa2_vitl.pt --to=weights/vit_l
  python -m echojepa_jax.convert --from=weights/vit_l --to=weights/vit_l_hf --format=hf
  python -m echojepa_jax.convert --list

--list prints the known public files: what they are and where to get them.

Inputs: PyTorch checkpoints of V-JEPA 2, V-JEPA 2.1, EchoJEPA and VideoMAE, safetensors files,
folders of Hugging Face's VJEPA2Model and VideoMAE, and our own folders and runs. If an entry of the
input is not used, the conversion fails and names it. Nothing in a file is ever executed.
"""

import logging
from typing import Any

from absl import flags

from echojepa_jax import command_line

FROM = flags.DEFINE_string("from", None, "weights to convert: a file or folder")
TO = flags.DEFINE_string("to", None, "folder to create")
FORMAT = flags.DEFINE_enum(
    "format", "orbax", ["orbax", "safetensors", "torch", "hf"], "format of the new folder"
)
IGNORE = flags.DEFINE_multi_string(
    "ignore", [], "regular expression of entries (names of arrays) to leave out; may be repeated"
)
HEADS = flags.DEFINE_integer(
    "heads", 0, "number of attention heads, if the file lacks it; 0 = that of the encoder's size"
)
PREDICTOR_HEADS = flags.DEFINE_integer(
    "predictor_heads", 0, "the same for the predictor; 0 = that of its size"
)
LIST = flags.DEFINE_bool("list", False, "list the known public files of weights")

log = logging.getLogger(__name__)


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    from pathlib import Path

    from echojepa_jax.train.load_weights import load_weights
    from echojepa_jax.utils.buckets import on_disk
    from echojepa_jax.utils.errors import UserError
    from echojepa_jax.utils.trees import count_parameters
    from echojepa_jax.weights import known
    from echojepa_jax.weights.write import write_weights

    public = known.table()
    if LIST.value:
        print(known.as_text(public))
        digests = sum(bool(one.sha256 or one.md5) for one in public)
        return f"{len(public)} public files; convert recognises {digests} of them by their digests"
    if not (FROM.value and TO.value):
        raise UserError("give --from and --to, or --list; see --help")
    to = on_disk(str(TO.value), "to")
    path = Path(str(FROM.value))
    found = known.recognised(path, public)
    if found:
        log.info("this is the public file %s (see --list)", found.name)
    elif path.is_file() and not path.with_name("config.json").exists():
        log.info("this is not a known public file (see --list): sizes are read from its arrays")
    weights = load_weights(
        str(FROM.value),
        heads=HEADS.value or (found.heads if found else 0),
        clip=found.clip if found else None,
        predictor_heads=PREDICTOR_HEADS.value,
        ignore=IGNORE.value,
    )
    log.info("encoder: %s", _sizes(weights.shape))
    if weights.predictor_shape and "predictor" in weights.params:
        log.info("predictor: %s", _sizes(weights.predictor_shape))
    for part, mark in weights.fingerprints().items():
        count = count_parameters(weights.params[part])
        log.info("%s: %s parameters, fingerprint %s", part, f"{count:,}", mark)
    if FORMAT.value == "hf" and "context_encoder" in weights.params:
        log.info("left out: the context encoder, because a VJEPA2Model has one encoder")
        weights = weights.only("encoder", "predictor")
    write_weights(weights, to, FORMAT.value)
    return f"wrote {', '.join(weights.params)} to {to} as {FORMAT.value}"


def _sizes(shape: Any) -> str:
    """The sizes of a network as "width 1024, depth 24, ..."."""
    return ", ".join(f"{name} {value}" for name, value in vars(shape).items())


if __name__ == "__main__":
    command_line.run(job, needed=())
