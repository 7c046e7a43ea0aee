"""A prepared set: a folder made by `python -m echojepa_jax.prepare`, on disk or in a bucket."""

from echojepa_jax.data import shards
from echojepa_jax.data.sample import Sample


def read(path: str, source: str) -> list[Sample]:
    """One sample per record, with all facts that a scan would measure.

    Raises:
      UserError: there is no such set, or a part of it is missing.
    """
    return shards.samples(path, source)
