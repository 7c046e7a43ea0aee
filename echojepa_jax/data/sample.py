"""A sample (one video in the list of videos), and a rejected sample."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeVar


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One video file. Empty strings and zeros mean unknown."""

    # Unique in its source: the file name without extension, or the path below the source's root;
    # printable text, see utils/file_names.py.
    name: str
    path: str  # absolute, as in the file system
    source: str  # the source string, such as "echonet_dynamic:/data/EchoNet-Dynamic"
    patient: str = ""
    study: str = ""
    view: str = ""
    split: str = ""  # lower case: "train", "val", "test", or "" = none
    targets: Mapping[str, float] = dataclasses.field(default_factory=dict)
    frames: int = 0  # counted in the file; 0 = not scanned yet
    fps: float = 0.0  # frames a second; 0 = unknown
    height: int = 0
    width: int = 0
    spacing: tuple[float, float] = (0.0, 0.0)  # mm from a pixel to the next one down, and right
    grey: bool = False  # known to contain grey pictures only
    content: str = ""  # SHA-256 of the coded pictures
    still: bool = False  # a still is wanted here: a file of one frame is not rejected
    modalities: tuple[str, ...] = ()  # DICOM codes of the accepted modalities; () = any
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)  # by target name
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)  # labels that are texts


T = TypeVar("T")


def by_name(labels: Mapping[str, T], name: str) -> T | None:
    """A label or unit by name; None if it is missing. "EF" also finds "ef", unless both exist."""
    if name in labels:
        return labels[name]
    alike = [known for known in labels if known.casefold() == name.casefold()]
    return labels[alike[0]] if len(alike) == 1 else None


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """A sample that is not used, and the reason.

    kind: "bad" (the file cannot be used), "still" (a still where videos are wanted), "video" (a
    video where stills are wanted), or "other" (another modality than the source accepts).
    """

    sample: Sample
    reason: str
    kind: Literal["bad", "still", "video", "other"]
