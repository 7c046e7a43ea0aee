"""Which videos show the same pictures, whatever their names and headers say."""

from collections.abc import Callable, Iterable, Sequence

from echojepa_jax.data.sample import Sample

_SKETCH_BYTES = 2**16


def alike(
    samples: Sequence[Sample], contents: Callable[[Sequence[str], int | None], Iterable[str]]
) -> list[list[Sample]]:
    """Groups of two samples or more that show the same pictures, in the order of `samples`.

    Files of as many frames are compared by how their pictures begin, and only those that begin
    alike are read to the end. Sizes are not compared: what is cropped by its header is the same
    picture as a copy whose header lost its regions.

    Args:
      contents: `decode.content` of paths up to a limit in bytes, or reasons for having none.
    """
    by_length: dict[int, list[Sample]] = {}
    for sample in samples:
        by_length.setdefault(sample.frames, []).append(sample)
    groups = [group for group in by_length.values() if len(group) > 1]

    def parted(groups: Sequence[Sequence[Sample]], limit: int | None) -> list[list[Sample]]:
        candidates = [sample for group in groups for sample in group]
        found = iter(contents([s.path for s in candidates if not s.content], limit))
        by_hash: dict[str, list[Sample]] = {}
        for sample in candidates:
            value = sample.content or next(found)
            if ":" not in value:  # else a reason, which decoding will give again
                by_hash.setdefault(value, []).append(sample)
        return [group for group in by_hash.values() if len(group) > 1]

    # The content of prepared shards is a hash of the whole file.
    prepared: list[list[Sample]] = []
    others: list[list[Sample]] = []
    for group in groups:
        (prepared if any(sample.content for sample in group) else others).append(group)
    return parted([*prepared, *parted(others, _SKETCH_BYTES)], None)
