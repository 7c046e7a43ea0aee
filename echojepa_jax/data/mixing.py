"""Mixing of several sources: the share of each one, and how often its videos are seen."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from echojepa_jax.data.sample import Sample


def weights(data: ConfigDict, samples: Sequence[Sample]) -> dict[str, float] | None:
    """The share of each source, by `Sample.source`; None = in proportion to its number of videos.

    Args:
      data: the data section of a training config: `sources`, and `weights` or `temperature` T. With
        T, a source of n videos gets the share n^(1/T): T = 1 is proportional, and a large T gives
        all sources equal shares.
    """
    if data.weights:
        return dict(zip(data.sources, map(float, data.weights), strict=True))
    counts = Counter(sample.source for sample in samples)
    if data.temperature == 1 or len(counts) == 1:
        return None
    return {source: count ** (1 / data.temperature) for source, count in counts.items()}


def describe_mix(
    samples: Sequence[Sample], shares: Mapping[str, float] | None, clips: int
) -> Iterator[str]:
    """Yields a sentence on the share of each source in so many clips; none for a single source."""
    counts = Counter(sample.source for sample in samples)
    if len(counts) < 2:
        return
    parts = shares or counts
    for source, count in counts.items():
        share = parts[source] / sum(parts.values())
        yield (
            f"{source}: {share:.1%} of the clips; its {count:,} videos are seen "
            f"{share * clips / count:.3g} times each"
        )
