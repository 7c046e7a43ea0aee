"""One video as the rest of the program knows it, and one that was refused."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeVar


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One video file. Empty strings and zeros mean unknown."""

    # Unique in its source: file name without extension, or path below the source's root; printable
    # text, see utils/file_names.py.
    name: str
    path: str  # absolute, as the file system knows it
    source: str  # the source string it came from, e.g. "echonet_dynamic:/data/EchoNet-Dynamic"
    patient: str = ""
    study: str = ""
    view: str = ""
    split: str = ""  # lower case: "train", "val", "test", or "" = none
    targets: Mapping[str, float] = dataclasses.field(default_factory=dict)
    frames: int = 0  # really in the file; 0 = not scanned yet
    fps: float = 0.0  # 0 = the file does not tell
    height: int = 0
    width: int = 0
    spacing: tuple[float, float] = (0.0, 0.0)  # mm from a pixel to the next one below, and right
    grey: bool = False  # known to hold grey pictures only
    content: str = ""  # SHA-256 of the coded pictures
    still: bool = False  # the set consists of single pictures: one frame is no fault
    modalities: tuple[str, ...] = ()  # DICOM's codes of the machines that are wanted; () = any
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of targets, by name
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)  # labels that are texts


T = TypeVar("T")


def by_name(labels: Mapping[str, T], name: str) -> T | None:
    """A label or unit by name, None if it is not there; "EF" is "ef", unless there are both."""
    if name in labels:
        return labels[name]
    alike = [known for known in labels if known.casefold() == name.casefold()]
    return labels[alike[0]] if len(alike) == 1 else None


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """A sample that is not used, and the reason.

    kind: it is bad; a still picture where videos are wanted; a video where stills are wanted; or of
    another kind of machine than was asked for.
    """

    sample: Sample
    reason: str
    kind: Literal["bad", "still", "video", "other"]
