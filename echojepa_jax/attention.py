"""Draw where an encoder or a probe looks: attention maps over the frames of videos.

  python -m echojepa_jax.attention --weights=runs/demo --source=phantom:adult,patients=2 \\
      --out=out/maps
  python -m echojepa_jax.attention --probe=runs/ef --source=dicom:/data/archive --out=out/maps

With --weights (a run, an export, or anything that `convert` reads) each picture shows the encoder's
last layer, averaged over all heads. With --probe (the workdir of a finished probe whose head is
attentive and reads all tokens) it shows which tokens the probe reads when it predicts. Colours
begin at uniform attention: a token without colour got no more than if all tokens got the same.
These pictures illustrate; they prove nothing about what a model has understood.
"""

from pathlib import Path

from absl import flags

from echojepa_jax import command_line

WEIGHTS = flags.DEFINE_string(
    "weights", "", "the encoder: a run, an export, or a file; with --probe, where it is now"
)
PROBE = flags.DEFINE_string(
    "probe", "", "workdir of a finished probe, to show its own attention; '' = show the encoder's"
)
SOURCE = flags.DEFINE_multi_string(
    "source", [], "videos to draw, as 'kind:path', see docs/your_data.md; may be repeated"
)
SPLIT = flags.DEFINE_string(
    "split", "", "only this split (train, val or test) of sources that have splits"
)
OUT = flags.DEFINE_string("out", None, "a new folder for the pictures, PNG files")
VIDEOS = flags.DEFINE_integer(
    "videos", 8, "number of videos (or studies), spread over the source; 0 = all"
)
ROLLOUT = flags.DEFINE_bool(
    "rollout", False, "with --weights: also follow attention through all layers"
)
WORKERS = flags.DEFINE_integer("workers", 1, "threads that measure the files of the source", 1)


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    import dataclasses

    from echojepa_jax.api import load_encoder, load_probe
    from echojepa_jax.data import manifest
    from echojepa_jax.data.clips.sampling import NEED_RATE
    from echojepa_jax.report.attention_pictures import write_encoder_maps, write_probe_maps
    from echojepa_jax.runtime.platform import configure_jax
    from echojepa_jax.utils.buckets import on_disk
    from echojepa_jax.utils.errors import UserError

    if not WEIGHTS.value and not PROBE.value:
        raise UserError("--weights or --probe must be given; see --help")
    if PROBE.value and ROLLOUT.value:
        raise UserError("--rollout is of the encoder: leave out --probe, or --rollout")
    configure_jax()
    out = Path(on_disk(str(OUT.value), "out"))
    probe = None
    if PROBE.value:
        probe = load_probe(on_disk(PROBE.value, "probe"), WEIGHTS.value or None)
        clips = probe.saved.clips
        encoder = dataclasses.replace(probe.encoder.frozen, clips=clips, keep="all")
    else:
        encoder = load_encoder(WEIGHTS.value).frozen
    samples = manifest.load(
        SOURCE.value,
        split=SPLIT.value,
        quarantine=None,
        max_bad_share=1.0,
        expect_stills=True,
        need_rate=encoder.clip.by in NEED_RATE,
        workers=WORKERS.value,
    )
    if probe:
        return write_probe_maps(probe.saved, encoder, samples, out, VIDEOS.value)
    return write_encoder_maps(encoder, samples, out, VIDEOS.value, ROLLOUT.value)


if __name__ == "__main__":
    command_line.run(job, needed=("source", "out"))
