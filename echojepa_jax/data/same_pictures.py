"""Finds videos that show the same pictures, although their names and headers may differ."""

from collections.abc import Callable, Iterable, Sequence

from echojepa_jax.data.sample import Sample

_SKETCH_BYTES = 2**16


def groups_of_copies(
    samples: Sequence[Sample], contents: Callable[[Sequence[str], int | None], Iterable[str]]
) -> list[list[Sample]]:
    """Groups of two or more samples that show the same pictures, in the order of `samples`.

    Files with the same number of frames are compared by the first bytes of their pictures; only
    files that agree there are read to the end. Picture sizes are not compared, because a copy whose
    header lost its regions is not cropped, but shows the same pictures.

    Args:
      contents: for each path, `decode.content` up to a limit in bytes, or the reason why it failed.
    """
    by_length: dict[int, list[Sample]] = {}
    for sample in samples:
        by_length.setdefault(sample.frames, []).append(sample)
    groups = [group for group in by_length.values() if len(group) > 1]

    def by_content(groups: Sequence[Sequence[Sample]], limit: int | None) -> list[list[Sample]]:
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
    return by_content([*prepared, *by_content(others, _SKETCH_BYTES)], None)
