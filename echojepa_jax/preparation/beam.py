"""Preparation as an Apache Beam pipeline: one element is one shard.

The program that starts the pipeline makes the plan; the workers make the shards, whose bytes do not
depend on the worker. All workers must see the files and the output folder under the same paths.
"""

from collections.abc import Sequence

from echojepa_jax.preparation.make import encoded, write_shard
from echojepa_jax.preparation.plan import GIGABYTES, Options, Shard, Work, planned
from echojepa_jax.runtime.sandbox import Guard
from echojepa_jax.utils.errors import UserError, first_line
from echojepa_jax.utils.extras import pip_install


def make_with_beam(
    work: Work,
    missing: Sequence[Shard],
    options: Options,
    _: Guard,
    *,
    runner: str,
    flags: Sequence[str],
) -> None:
    """Makes shards with a Beam runner; each of its workers starts its own sandbox processes.

    Args:
      flags: flags of the runner, such as "--flink_master=HOST:PORT".

    Raises:
      UserError: Beam is not installed, or does not know the runner.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(f"--runner={runner} needs Apache Beam: {pip_install('beam')}") from error
    try:
        chosen = PipelineOptions([f"--runner={runner}", *flags])
        pipeline = beam.Pipeline(options=chosen)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--runner={runner}: {first_line(error)}") from error
    with pipeline as started:
        _ = (
            started
            # Names only: the plan of an archive is too large for the description of a job.
            | "shards" >> beam.Create([shard.name for shard in missing])
            | "spread" >> beam.Reshuffle()
            | "make" >> beam.Map(_make, work=work, options=options)
        )


def _make(name: str, work: Work, options: Options) -> str:
    shard = planned(work, name)
    # An element that Beam retries may be done already.
    if not work.is_done(shard):
        with Guard(1, options.file_seconds, GIGABYTES) as guard:
            write_shard(work, shard, encoded(shard.recordings, options, guard))
    return name
