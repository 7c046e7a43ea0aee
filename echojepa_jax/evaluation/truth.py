"""Traced frames of a data set, and their masks as clips show them.

Masks are made once for a kind of clips, and stored and verified like the features of a model.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from echojepa_jax.data.clips.sampling import ClipSpec
from echojepa_jax.data.sample import Sample
from echojepa_jax.data.sources import read_tracings
from echojepa_jax.data.tracings import BadTracing, Tracing, in_clip
from echojepa_jax.evaluation.models import Facts, Model
from echojepa_jax.features.encode import EncodedClips
from echojepa_jax.utils.errors import UserError
from echojepa_jax.utils.files import digest_of

log = logging.getLogger(__name__)

Traced = tuple[int, Tracing]
"""The row of a sample in its data set, and a tracing of it."""


def traced(samples: Sequence[Sample], views: Sequence[str]) -> tuple[list[Traced], list[int]]:
    """The traced frames of samples of these views (() = all), in order.

    Returns:
      Them, and the row of the sample of every tracing whose video ends before it.

    Raises:
      UserError: a source has no tracings, they cannot be read, or none is of such a sample.
    """
    rows = {
        (s.source, s.name): row for row, s in enumerate(samples) if not views or s.view in views
    }
    found, beyond = [], []
    for source in dict.fromkeys(s.source for s in samples):
        for tracing in read_tracings(source):
            row = rows.get((source, tracing.name))
            if row is None:
                continue
            if 0 <= tracing.frame < samples[row].frames:
                found.append((row, tracing))
            else:
                beyond.append((row, tracing))
    if beyond:
        log.warning(
            "%d traced frames are left out, because their video is shorter; the first is frame %d "
            "of %s",
            *(len(beyond), beyond[0][1].frame, beyond[0][1].name),
        )
    if not found:
        sources = ", ".join(dict.fromkeys(s.source for s in samples))
        of_views = f" of the views {', '.join(views)}" if views else ""
        raise UserError(
            f"{sources}: no video{of_views} has a traced frame, which segmentation needs: remove "
            "this task, or name other views"
        )
    return sorted(found, key=lambda one: (one[0], one[1].frame)), [row for row, _ in beyond]


def fingerprint(frames: Sequence[Traced]) -> str:
    """SHA-256 of the tracings, as far as they are known without reading files of labels."""
    return digest_of([[row, t.name, t.frame, t.phase, *t.outline] for row, t in frames])


def masks(frames: Sequence[Traced], samples: Sequence[Sample], clip: ClipSpec) -> Model:
    """A model that knows the truth: the tokens of a frame are its labels, [B, size, size]."""
    tracings = {(samples[row].source, t.name, t.frame): t for row, t in frames}

    def encode_frames(samples: Sequence[Sample], numbers: np.ndarray) -> Iterator[EncodedClips]:
        labels = np.zeros((len(samples), clip.size, clip.size), np.uint8)
        errors = [""] * len(samples)
        for i, (s, number) in enumerate(zip(samples, numbers.tolist(), strict=True)):
            try:
                found = tracings[s.source, s.name, number].labels(s.height, s.width)
                labels[i] = in_clip(found, clip.size)
            except BadTracing as error:
                errors[i] = str(error)
        if bad := [i for i, error in enumerate(errors) if error]:
            log.warning(
                "%d of %d tracings cannot be used; the first is that of %s: %s",
                *(len(bad), len(samples), samples[bad[0]].name, errors[bad[0]]),
            )
        yield EncodedClips(
            np.arange(len(samples)), np.array(errors), np.zeros(len(samples), int), labels
        )

    def encode(*_: object) -> Iterator[EncodedClips]:
        raise NotImplementedError("only frames are traced")

    facts = Facts(
        "masks",
        "tracings",
        fingerprint(frames),
        clip,
        parameters=0,
        tokens=clip.size,
        width=clip.size,
        flops=0.0,
        places=clip.size,
        times=1,
    )
    return Model(facts, encode, encode_frames)
