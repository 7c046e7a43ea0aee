"""Export the weights of a run, for probes, for PyTorch, or for serving without this package.

  python -m echojepa_jax.export --workdir=runs/demo --out=out/encoder
  python -m echojepa_jax.export --workdir=runs/demo --format=hf --out=out/hf
  python -m echojepa_jax.export --workdir=runs/demo --format=stablehlo --out=out/serve

The new folder contains the weights, a config.json and a model_card.md. Formats: orbax and
safetensors (our own names), torch (the names of V-JEPA 2 or VideoMAE), hf (VJEPA2Model or
VideoMAEForPreTraining of transformers, encoder and predictor), stablehlo (the forward pass as a
program, in float32 and in bfloat16, and its weights).
"""

import logging

from absl import flags

from echojepa_jax import command_line

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a training or fine-tuning run")
OUT = flags.DEFINE_string("out", None, "folder to create")
FORMAT = flags.DEFINE_enum(
    "format", "orbax", ["orbax", "safetensors", "torch", "hf", "stablehlo"], "format of the export"
)
PART = flags.DEFINE_enum(
    "part",
    "target",
    ["target", "context", "predictor", "all", "initial"],
    "what to export: the target encoder, the context encoder, the predictor, all three, or the "
    "target encoder before training (the control for probes)",
)
STEP = flags.DEFINE_integer("step", -1, "step of the checkpoint; -1 = the latest")

log = logging.getLogger(__name__)


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    import dataclasses

    from echojepa_jax.train.load_weights import initial_weights, load_weights
    from echojepa_jax.utils.buckets import on_disk
    from echojepa_jax.utils.errors import UserError
    from echojepa_jax.utils.trees import count_parameters
    from echojepa_jax.weights.stablehlo import write_stablehlo
    from echojepa_jax.weights.write import write_weights

    workdir, out = str(WORKDIR.value), on_disk(str(OUT.value), "out")
    form, part = FORMAT.value, PART.value
    if part == "initial":
        if STEP.value != -1:
            raise UserError("--part=initial exports the weights before training: omit --step")
        weights = initial_weights(workdir)
    else:
        weights = load_weights(workdir, STEP.value)
    if part == "context":
        if "context_encoder" not in weights.params:
            raise UserError(f"{workdir} contains no context encoder")
        # From here on it takes the place of the encoder.
        encoder = weights.params["context_encoder"]
        weights = dataclasses.replace(weights, params={**weights.params, "encoder": encoder})
    kept = {"predictor": ("predictor",), "all": ("encoder", "context_encoder", "predictor")}
    wanted = kept.get(part, ("encoder",))
    if form == "stablehlo" and part in ("predictor", "all"):
        raise UserError("--format=stablehlo exports one encoder's forward pass: use --part=target")
    if form == "hf" and part != "predictor":
        wanted = ("encoder", "predictor")  # a model of transformers needs both
        if part == "all" and "context_encoder" in weights.params:
            raise UserError("a VJEPA2Model has one encoder: use --part=target or --part=context")
    weights = weights.only(*wanted)
    if not weights.params:
        raise UserError(f"{workdir} contains no {part}")
    weights = dataclasses.replace(weights, origin={**weights.origin, "part": part})
    if form == "stablehlo":
        write_stablehlo(weights, out)
    else:
        write_weights(weights, out, form)
    for name, mark in weights.fingerprints().items():
        count = count_parameters(weights.params[name])
        log.info("%s: %s parameters, fingerprint %s", name, f"{count:,}", mark)
    return f"wrote {', '.join(weights.params)} to {out} as {form}"


if __name__ == "__main__":
    command_line.run(job, needed=("workdir", "out"))
