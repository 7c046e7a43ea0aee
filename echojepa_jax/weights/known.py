"""Public files of weights: which there are, and facts that the files themselves do not hold.

The table is known.json. Nothing is downloaded. A file is recognised by its digest. Some digests are
not published: these files are listed, but not recognised.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from echojepa_jax.weights.pretrained import ClipInput


@dataclasses.dataclass(frozen=True)
class Known:
    """A public file of weights.

    Attributes:
      name: of the file. where: an address, or the repository whose README links to the file.
      bytes: its size; 0 = not known.
      family, architecture, heads: of the encoder; see `models.family` and `models.vit.SIZES`.
      frames, size, fps, normalisation: of the clips that it was trained on.
      sha256, md5: its digest, of which one may be known; "" = not known.
      unclear: what is not sure, or special. licence: what is known of it.
    """

    name: str
    family: str
    architecture: str
    heads: int
    frames: int
    size: int
    fps: float
    normalisation: str
    bytes: int
    sha256: str
    md5: str
    where: str
    unclear: str
    licence: str

    @property
    def clip(self) -> ClipInput:
        """The clips that it was trained on; ImageNet's normalisation is that of all files."""
        return ClipInput(self.frames, self.size, "fps", float(self.fps))


def table() -> list[Known]:
    """All that are known."""
    rows = json.loads(Path(__file__).with_suffix(".json").read_text())
    return [Known(**row) for row in rows]


def recognised(path: Path, known: Sequence[Known]) -> Known | None:
    """Which of the known files `path` is; None if it is none of them, or a folder.

    Only a file of the size of one of them is read.
    """
    if not path.is_file():
        return None
    size = path.stat().st_size
    for one in known:
        for kind in ("sha256", "md5"):
            wanted = getattr(one, kind)
            if wanted and size == one.bytes:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, kind).hexdigest() == wanted:
                        return one
    return None


def as_text(known: Sequence[Known]) -> str:
    """The table for a terminal, a paragraph for each file."""
    found = []
    for one in known:
        digest = f"SHA-256 {one.sha256}" if one.sha256 else f"MD5 {one.md5}" if one.md5 else ""
        size = f"{one.bytes:,} bytes" if one.bytes else ""
        lines = [
            one.name,
            f"  {one.family}, {one.architecture}, {one.heads} heads; {one.frames} frames of "
            f"{one.size} px at {one.fps:g} fps, normalised as {one.normalisation}",
            f"  {', '.join(filter(None, (size, digest))) or 'size and digest are not published'}",
            f"  get it: {one.where}",
            f"  licence: {one.licence}",
        ]
        found.append("\n".join(lines + ([f"  note: {one.unclear}"] if one.unclear else [])))
    return "\n\n".join(found)
