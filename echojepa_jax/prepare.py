"""Prepare a data set: turn any source into verified, de-identified shards that train fast.

  python -m echojepa_jax.prepare --source=dicom:/data/archive --out=shards/archive --size=224 \\
      --workers=16
  python -m echojepa_jax.prepare --verify=shards/archive
  python -m echojepa_jax.prepare --source=echonet_dynamic:/data/EchoNet-Dynamic --out=shards/echonet
  python -m echojepa_jax.prepare --source=dicom:/data/archive --out=/shared/archive \\
      --runner=FlinkRunner --beam_flag=--flink_master=HOST:8081

OUT, the folder that --out names, is then a prepared set: shards (files of many videos each), an
index and summary.html. Read docs/hospital.md before you share it. OUT.private must stay private: it
records which file became which video. Run the same command again to continue after an interruption;
once the set is complete, it reports that there is nothing to do. Train on the set with
--config.data.sources="('shards/archive',)".
"""

import dataclasses
import os
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from echojepa_jax import command_line

# The modules of the job are imported inside the functions, because its worker processes import this
# file as well.

SOURCE = flags.DEFINE_multi_string(
    "source",
    [],
    "videos to prepare: 'kind:path', see docs/your_data.md; each --out takes one source",
)
OUT = flags.DEFINE_string("out", "", "folder of the prepared set")
VERIFY = flags.DEFINE_string("verify", "", "check this prepared set, and fail if it is not clean")
SIZE = flags.DEFINE_integer("size", 224, "height and width of frames in pixels")
WORKERS = flags.DEFINE_integer("workers", 0, "number of processes; 0 = one per core")
SECTOR = flags.DEFINE_enum(
    "sector",
    "auto",
    ["auto", "always", "never"],
    "make everything outside the ultrasound sector black; auto: except in public data sets",
)
MIN_FRAMES = flags.DEFINE_integer(
    "min_frames", 8, "reject videos with fewer frames, which do not show what moves"
)
MAX_FRAMES = flags.DEFINE_integer("max_frames", 5000, "reject videos with more frames")
DEFAULT_FPS = flags.DEFINE_float(
    "default_fps", 0.0, "frame rate for files that do not state one; 0 = reject such files"
)
SPLITS = flags.DEFINE_string(
    "splits",
    "",
    "share of the patients in each split, for sources without splits; "
    "'' = train:0.8,val:0.1,test:0.1",
)
PATIENT_FROM = flags.DEFINE_string(
    "patient_from",
    "",
    "regular expression that finds the patient in a file's name (its first group, or the whole "
    "match), for sources that do not name patients, such as '^([^_]+)_'",
)
SALT_FILE = flags.DEFINE_string(
    "salt_file", "", "file with the secret for hashing ids; '' = create one in OUT.private"
)
TARGETS = flags.DEFINE_string(
    "targets",
    "",
    "labels to keep (numbers or classes), such as 'ef,severity'; '' = all labels, but none of a "
    "CSV table, which may contain ids",
)
SHARD_VIDEOS = flags.DEFINE_integer("shard_videos", 256, "videos per shard")
FILE_SECONDS = flags.DEFINE_float(
    "file_seconds", 300.0, "reject a file that takes longer (seconds)"
)
RUNNER = flags.DEFINE_string(
    "runner", "", "Apache Beam runner: DirectRunner, FlinkRunner, SparkRunner or DataflowRunner"
)
BEAM_FLAG = flags.DEFINE_multi_string("beam_flag", [], "flag for the Beam runner; may be repeated")
_PREPARE_FLAGS: tuple[flags.FlagHolder[Any], ...] = (
    *(SOURCE, OUT, SIZE, SECTOR, MIN_FRAMES, MAX_FRAMES, DEFAULT_FPS, SPLITS, SALT_FILE, TARGETS),
    *(SHARD_VIDEOS, FILE_SECONDS, RUNNER, BEAM_FLAG, PATIENT_FROM),
)


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
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
        if others := [flag.name for flag in _PREPARE_FLAGS if flag.present]:
            raise UserError(
                f"--{others[0]} has no effect on --verify, which checks an existing set: remove it"
            )
        return check(on_disk(VERIFY.value, "verify"), workers)
    if len(SOURCE.value) > 1:
        raise UserError(
            f"--source is given {len(SOURCE.value)} times: prepare each source with its own --out, "
            "and all of them with the same --salt_file, so that a patient in several sources keeps "
            "the same split and pseudonym"
        )
    if not SOURCE.value or not OUT.value:
        raise UserError(
            "--source and --out are missing: give both, or --verify to check a set; see --help"
        )
    if BEAM_FLAG.value and not RUNNER.value:
        raise UserError("--beam_flag needs --runner: name the Beam runner")
    # Every option is a flag of the same name.
    names = [field.name for field in dataclasses.fields(plan.Options)]
    given: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    options = plan.Options(**given)
    out = on_disk(OUT.value, "out").absolute()
    work = plan.Work(out)
    make: preparation.MakeShards = preparation.make_here
    if RUNNER.value:
        make = partial(make_with_beam, runner=RUNNER.value, flags=BEAM_FLAG.value)
    with work.claimed():
        summary = preparation.prepare(SOURCE.value[0], work, options, workers, make)
        return f"{summary}. Look at {write_summary(out, public_command())}"


def public_command() -> str:
    """This command without the names of folders and files, because the set may be shared."""
    from echojepa_jax.data.sources import origin_of

    source = SOURCE.value[0]
    shown = source if source.startswith("phantom:") else f"{origin_of(source)}:..."
    hidden = {OUT.name: Path(OUT.value).name, SALT_FILE.name: "...", BEAM_FLAG.name: "..."}
    hidden[SOURCE.name] = shown
    given = [
        f"--{flag.name}={shlex.quote(hidden.get(flag.name, str(flag.value)))}"
        for flag in _PREPARE_FLAGS
        if flag.present
    ]
    return " ".join(["python -m echojepa_jax.prepare", *given])


def check(folder: Path, workers: int) -> str:
    """Verifies a set, prints what is wrong with it, and returns the closing line of the log.

    Raises:
      UserError: something is wrong with the set.
    """
    from echojepa_jax.data import shards
    from echojepa_jax.preparation.plan import PUBLIC
    from echojepa_jax.preparation.verify import verify
    from echojepa_jax.utils.counts import counted
    from echojepa_jax.utils.errors import UserError

    problems = verify(folder, workers)
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(
            f"{folder} has {counted(len(problems), 'problem')}, listed above: look at the videos "
            "named there, and prepare the set again without them"
        )
    about = shards.about(str(folder))
    published = not about["clean"] and about["kind"] in PUBLIC
    pixels = "pixels are as published" if published else "no text was found in the pixels"
    return f"verified: all {about['videos']} videos of {folder} are complete, and {pixels}"


if __name__ == "__main__":
    command_line.run(job, needed=())
