"""How several sources are mixed: their shares, and how often each of them is seen."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from echojepa_jax.data.sample import Sample


def weights(data: ConfigDict, samples: Sequence[Sample]) -> dict[str, float] | None:
    """The share of each source, by `Sample.source`; None mixes all samples by their number.

    Args:
      data: the section of a training config: `sources`, and `weights` or `temperature`. A source of
        n videos gets n^(1/T): T = 1 is by number, large T gives all sources the same.
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
    """Sentences on each source's share of that many clips; none if there is only one source."""
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
