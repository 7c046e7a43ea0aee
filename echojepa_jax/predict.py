"""Write a table of a finished probe's predictions for files without labels.

  python -m echojepa_jax.predict --probe=runs/lvef --source=dicom:/data/archive \\
      --out=predictions.csv
  python -m echojepa_jax.predict --probe=runs/lvef --source=phantom:pediatric,patients=5 \\
      --out=out/phantom.csv

The table has a line for every file: the predicted number or class, its spread over the clips of the
video, whether the video is far from the training data, the mean over the study, and why a file was
rejected. Probes of several views write a line for every study. If the program was interrupted, run
the same command again: it continues. If the files have labels, `python -m echojepa_jax.probe
--eval_only` scores a probe on them.
"""

from pathlib import Path

from absl import flags

from echojepa_jax import command_line

PROBE = flags.DEFINE_string("probe", None, "workdir of a finished probe, fine-tuned or not")
SOURCE = flags.DEFINE_multi_string(
    "source", [], "files to predict for, as 'kind:path', see docs/your_data.md; may be repeated"
)
SPLIT = flags.DEFINE_string(
    "split", "", "only this split (train, val or test) of sources that have splits"
)
OUT = flags.DEFINE_string("out", None, "the table to write, a CSV file")
WEIGHTS = flags.DEFINE_string(
    "weights", "", "where the encoder is now; '' = where it was in training"
)
WORKERS = flags.DEFINE_integer(
    "workers", 0, "processes that decode videos; 0 = threads of this process", 0
)


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    from echojepa_jax.probes.table import predict_table
    from echojepa_jax.runtime.platform import configure_jax
    from echojepa_jax.utils.buckets import on_disk

    out, probe = on_disk(str(OUT.value), "out"), on_disk(str(PROBE.value), "probe")
    configure_jax()
    return predict_table(
        probe,
        SOURCE.value,
        Path(out),
        split=SPLIT.value,
        weights_path=WEIGHTS.value,
        workers=WORKERS.value,
    )


if __name__ == "__main__":
    command_line.run(job, needed=("probe", "source", "out"))
