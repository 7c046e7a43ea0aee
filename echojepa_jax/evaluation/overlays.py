"""Masks of a few test frames on their pictures: the true border and what each model found."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from echojepa_jax.data.clips import transforms
from echojepa_jax.data.formats import decode
from echojepa_jax.data.sample import Sample
from echojepa_jax.evaluation.cells import Cell
from echojepa_jax.evaluation.data import Data
from echojepa_jax.evaluation.tasks.segmentation import unpacked
from echojepa_jax.utils.file_names import shown

SIDE = 224  # pixels of a picture, at least
WHITE = (255, 255, 255)
COLOURS = ((255, 190, 60), (90, 200, 255), (255, 120, 200))  # of structures, in the task's order


@dataclasses.dataclass(frozen=True)
class Overlay:
    """A frame with masks: RGB uint8 [side, side, 3].

    about: of the video, such as its view and phase; no name, since names may be of people.
    """

    model: str
    about: str
    picture: np.ndarray


def made(data: Data, found: Mapping[str, Sequence[Sequence[Cell]]]) -> list[Overlay]:
    """The overlays of a task of segmentation, of the first seed of each model.

    Args:
      found: cells by model, then by seed.
    """
    samples = {(shown(s.source), s.name): s for s in data.samples}
    return [
        Overlay(model, _about(sample, facts), drawn(sample, facts))
        for model, by_seed in found.items()
        for facts in by_seed[0][0].pictures
        for sample in [samples[facts["source"], facts["video"]]]
    ]


def _about(sample: Sample, facts: Mapping[str, Any]) -> str:
    return f"{sample.view or 'frame'} {facts['phase']}".strip()


def drawn(sample: Sample, facts: Mapping[str, Any]) -> np.ndarray:
    """The frame as the clip shows it, with the true borders in white and the found ones in colours.

    Args:
      facts: an entry of `Cell.pictures`.
    """
    size = facts["size"]
    scale = -(-SIDE // size)
    video = decode.decode(sample.path, np.array([facts["frame"]]))
    cut = np.empty((1, size, size, 3), np.uint8)
    transforms.cut(video, transforms.centre_box(*video.shape[1:3]), cut)
    picture = cv2.resize(cut[0], None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    true, found = (unpacked(facts[name], size) for name in ("true", "found"))
    for k in range(1, int(max(true.max(), found.max())) + 1):
        _outline(picture, true == k, scale, WHITE)
        _outline(picture, found == k, scale, COLOURS[k - 1])
    return picture


def _outline(
    picture: np.ndarray, mask: np.ndarray, scale: int, colour: tuple[int, int, int]
) -> None:
    large = np.repeat(np.repeat(mask.astype(np.uint8), scale, axis=0), scale, axis=1)
    lines, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, lines, -1, colour, 1)
