"""Prepare a data set: any source to verified, de-identified shards that train fast.

  python -m echojepa_jax.prepare --source=dicom:/data/archive --out=shards/archive --size=224 \\
      --workers=16
  python -m echojepa_jax.prepare --verify=shards/archive
  python -m echojepa_jax.prepare --source=echonet_dynamic:/data/EchoNet-Dynamic --out=shards/echonet
  python -m echojepa_jax.prepare --source=dicom:/data/archive --out=/shared/archive \\
      --runner=FlinkRunner --beam_flag=--flink_master=HOST:8081

OUT may be given away; OUT.private must not: it tells which file became which video. The same
command continues after an interruption, and then says that there is nothing to do. Train on it with
--config.data.sources="('shards/archive',)".
"""

import os
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from echojepa_jax import command_line

# The job's own modules are imported inside the functions: its processes import this file as well.

SOURCE = flags.DEFINE_multi_string(
    "source", [], "what to prepare: 'kind:path', as in training; one source for each --out"
)
OUT = flags.DEFINE_string("out", "", "folder of the prepared set")
VERIFY = flags.DEFINE_string("verify", "", "read a prepared set again, and fail if it is not clean")
SIZE = flags.DEFINE_integer("size", 224, "height and width of frames in pixels")
WORKERS = flags.DEFINE_integer("workers", 0, "processes; 0 = as many as there are cores")
SECTOR = flags.DEFINE_enum(
    "sector",
    "auto",
    ["auto", "always", "never"],
    "keep the ultrasound sector alone, all else black; auto: except of public data sets",
)
MIN_FRAMES = flags.DEFINE_integer(
    "min_frames", 8, "shorter videos are left out; fewer frames do not show what moves"
)
MAX_FRAMES = flags.DEFINE_integer("max_frames", 5000, "longer videos are left out")
DEFAULT_FPS = flags.DEFINE_float(
    "default_fps", 0.0, "frame rate of files that tell none; 0 = they are left out"
)
SPLITS = flags.DEFINE_string(
    "splits", "", "shares of patients, for sources without splits; '' = train:0.8,val:0.1,test:0.1"
)
PATIENT_FROM = flags.DEFINE_string(
    "patient_from",
    "",
    "regular expression that finds the patient in a file's name (its first group, or all it "
    "finds), for sources that name no patients: '^([^_]+)_'",
)
SALT_FILE = flags.DEFINE_string(
    "salt_file", "", "file with a secret that ids are hashed with; '' = made, and kept privately"
)
TARGETS = flags.DEFINE_string(
    "targets",
    "",
    "labels to keep, numbers and classes: 'ef,severity'; '' = all, but none of a CSV table, which "
    "may hold ids",
)
SHARD_VIDEOS = flags.DEFINE_integer("shard_videos", 256, "videos of a shard")
FILE_SECONDS = flags.DEFINE_float("file_seconds", 300.0, "a file that takes longer is left out")
RUNNER = flags.DEFINE_string(
    "runner", "", "of Apache Beam, such as DirectRunner, FlinkRunner, SparkRunner, DataflowRunner"
)
BEAM_FLAG = flags.DEFINE_multi_string("beam_flag", [], "a flag for the runner; may be repeated")
_OF_PREPARING: tuple[flags.FlagHolder[Any], ...] = (
    *(SOURCE, OUT, SIZE, SECTOR, MIN_FRAMES, MAX_FRAMES, DEFAULT_FPS, SPLITS, SALT_FILE, TARGETS),
    *(SHARD_VIDEOS, FILE_SECONDS, RUNNER, BEAM_FLAG, PATIENT_FROM),
)


def job() -> str:
    from echojepa_jax.preparation import make as preparation
    from echojepa_jax.preparation import plan
    from echojepa_jax.preparation.beam import make_with_beam
    from echojepa_jax.report.data_page import write_summary
    from echojepa_jax.utils.buckets import on_disk
    from echojepa_jax.utils.errors import UserError

    workers = WORKERS.value or os.cpu_count() or 1
    if workers < 1:
        raise UserError(f"--workers={workers} must be 1 or more, or 0")
    if VERIFY.value:
        if given := [flag.name for flag in _OF_PREPARING if flag.present]:
            raise UserError(f"--verify takes no --{given[0]}: it reads what was made")
        return check(on_disk(VERIFY.value, "verify"), workers)
    if len(SOURCE.value) > 1:
        raise UserError(
            f"--source is given {len(SOURCE.value)} times: prepare each source with an --out of "
            "its own, and all with the same --salt_file, so that a patient of several sources "
            "keeps split and pseudonym"
        )
    if not SOURCE.value or not OUT.value:
        raise UserError("--source and --out must be given, or --verify; see --help")
    if BEAM_FLAG.value and not RUNNER.value:
        raise UserError("--beam_flag needs --runner")
    options = plan.Options(
        size=SIZE.value,
        sector=SECTOR.value,
        min_frames=MIN_FRAMES.value,
        max_frames=MAX_FRAMES.value,
        default_fps=DEFAULT_FPS.value,
        splits=SPLITS.value,
        salt_file=SALT_FILE.value,
        targets=TARGETS.value,
        shard_videos=SHARD_VIDEOS.value,
        file_seconds=FILE_SECONDS.value,
        patient_from=PATIENT_FROM.value,
    )
    out = on_disk(OUT.value, "out").absolute()
    work = plan.Work(out)
    make: preparation.MakeShards = preparation.make_here
    if RUNNER.value:
        make = partial(make_with_beam, runner=RUNNER.value, flags=BEAM_FLAG.value)
    with work.claimed():
        told = preparation.prepare(SOURCE.value[0], work, options, workers, make)
        return f"{told}. Look at {write_summary(out, public_command())}"


def public_command() -> str:
    """This command, without the names of folders and files: the set may be given away."""
    from echojepa_jax.preparation.plan import origin_of

    source = SOURCE.value[0]
    shown = source if source.startswith("phantom:") else f"{origin_of(source)}:..."
    hidden = {OUT.name: Path(OUT.value).name, SALT_FILE.name: "...", BEAM_FLAG.name: "..."}
    hidden[SOURCE.name] = shown
    given = [
        f"--{flag.name}={shlex.quote(hidden.get(flag.name, str(flag.value)))}"
        for flag in _OF_PREPARING
        if flag.present
    ]
    return " ".join(["python -m echojepa_jax.prepare", *given])


def check(folder: Path, workers: int) -> str:
    """Verifies a set; returns the last line.

    Raises:
      UserError: something is wrong with it.
    """
    from echojepa_jax.data import shards
    from echojepa_jax.preparation.plan import PUBLIC
    from echojepa_jax.preparation.verify import verify
    from echojepa_jax.utils.errors import UserError

    problems = verify(folder, workers)
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(
            f"{folder} is not as it should be: {len(problems)} findings, listed above; look at the "
            "videos, and prepare the set again without what should not be there"
        )
    about = shards.about(str(folder))
    published = not about["clean"] and about["kind"] in PUBLIC
    looked = "pixels are as published" if published else "no text was found beside the hearts"
    return f"verified: {about['videos']} videos of {folder} are whole, and {looked}"


if __name__ == "__main__":
    command_line.run(job, needed=())
