"""Embed videos or DICOMs with a frozen encoder: a row of Parquet per clip, in input order.

  python -m echojepa_jax.embed --weights=out/orbax --source=dicom:/data/archive --out=out/embeddings
  python -m echojepa_jax.embed --weights=runs/demo --source=phantom:adult,patients=20 \\
      --out=out/phantom --clips=2 --by_study

Weights are a run, an export, or anything that `convert` reads. Clips are cut as in the training of
the encoder, unless you set --frames, --size, --sample_by or --sample_value. If the program was
interrupted, run the same command again: finished shards are verified and kept. On several hosts,
give each its number: --host=$SLURM_PROCID --hosts=$SLURM_NTASKS.
"""

from absl import flags

from echojepa_jax import command_line

WEIGHTS = flags.DEFINE_string("weights", None, "the encoder: a run, an export, or a file")
SOURCE = flags.DEFINE_multi_string(
    "source", [], "videos to embed, as 'kind:path', see docs/your_data.md; may be repeated"
)
SPLIT = flags.DEFINE_string(
    "split", "", "only this split (train, val or test) of sources that have splits"
)
OUT = flags.DEFINE_string("out", None, "folder to write the embeddings to")
CLIPS = flags.DEFINE_integer("clips", 1, "number of clips of every video, spread over it")
TOKENS = flags.DEFINE_enum(
    "tokens", "mean", ["mean", "all"], "all: write every token as well, to array_record files"
)
BY_STUDY = flags.DEFINE_bool("by_study", False, "write the mean embedding of every study as well")
FRAMES = flags.DEFINE_integer("frames", 0, "frames of a clip; 0 = as in training")
SIZE = flags.DEFINE_integer("size", 0, "height and width of a clip in pixels; 0 = as in training")
SAMPLE_BY = flags.DEFINE_string(
    "sample_by",
    "",
    "how frames are spaced: fps, stride, duration or share, see docs/your_data.md; '' = as in "
    "training",
)
SAMPLE_VALUE = flags.DEFINE_float(
    "sample_value", 0.0, "frames per second, frames, seconds, or share; 0 = as in training"
)
DTYPE = flags.DEFINE_enum(
    "dtype",
    "auto",
    ["auto", "float32", "bfloat16"],
    "of the computation; auto: bfloat16, but float32 on a CPU",
)
BATCH = flags.DEFINE_integer("batch", 8, "number of clips that a device encodes at a time")
SHARD_VIDEOS = flags.DEFINE_integer("shard_videos", 1024, "number of videos in one output file")
WORKERS = flags.DEFINE_integer(
    "workers", 0, "processes that decode videos; 0 = threads of this process"
)
MAX_BAD_SHARE = flags.DEFINE_float(
    "max_bad_share", 0.01, "the program stops if a larger share of the files is rejected"
)
EXPECT_STILLS = flags.DEFINE_bool(
    "expect_stills", False, "skip stills (files with one frame) without counting them as rejected"
)
HOST = flags.DEFINE_integer("host", 0, "number of this host, from 0, if several share the work")
HOSTS = flags.DEFINE_integer("hosts", 1, "how many hosts share the work")


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    import jax

    from echojepa_jax.data import manifest
    from echojepa_jax.data.clips.sampling import NEED_RATE
    from echojepa_jax.features.clip_input import clip_spec
    from echojepa_jax.features.embeddings import QUARANTINE, EmbedSettings, check_folder, embed
    from echojepa_jax.runtime.platform import configure_jax
    from echojepa_jax.train.load_weights import load_encoder_weights
    from echojepa_jax.utils.buckets import on_disk

    configure_jax()
    on_cpu = jax.default_backend() == "cpu"
    out = on_disk(str(OUT.value), "out")
    weights = load_encoder_weights(str(WEIGHTS.value))
    clip = clip_spec(weights, FRAMES.value, SIZE.value, SAMPLE_BY.value, SAMPLE_VALUE.value, "--")
    check_folder(out)
    dtype = ("float32" if on_cpu else "bfloat16") if DTYPE.value == "auto" else DTYPE.value
    settings = EmbedSettings(
        clip, CLIPS.value, TOKENS.value, dtype, BATCH.value, SHARD_VIDEOS.value
    )
    samples = manifest.load(
        SOURCE.value,
        split=SPLIT.value,
        quarantine=out / QUARANTINE,
        max_bad_share=MAX_BAD_SHARE.value,
        expect_stills=EXPECT_STILLS.value,
        need_rate=clip.by in NEED_RATE,
        workers=max(1, WORKERS.value),
    )
    return embed(
        weights,
        samples,
        out,
        settings,
        host=HOST.value,
        hosts=HOSTS.value,
        workers=WORKERS.value,
        by_study=BY_STUDY.value,
    )


if __name__ == "__main__":
    command_line.run(job, needed=("weights", "source", "out"))
