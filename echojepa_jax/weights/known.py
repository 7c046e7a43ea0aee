"""Public files of weights: a list, and facts that the files themselves do not contain.

The table is known.json. Nothing is downloaded. A file is recognised by its digest. Files whose
digest is not published are listed but not recognised.
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
      name: of the file. where: its address, or the repository whose README links to it.
      bytes: its size; 0 = not known.
      family, architecture, heads: of the encoder; see `models.family` and `models.vit.SIZES`.
      frames, size, fps, normalisation: of the clips that it was trained on.
      sha256, md5: digests of the file; "" = not known.
      unclear: what is uncertain or special about it. licence: its licence, as far as known.
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
        """The clips that it was trained on; all files use ImageNet's normalisation."""
        return ClipInput(self.frames, self.size, "fps", float(self.fps))


def table() -> list[Known]:
    """All known files."""
    rows = json.loads(Path(__file__).with_suffix(".json").read_text())
    return [Known(**row) for row in rows]


def recognised(path: Path, known: Sequence[Known]) -> Known | None:
    """Returns the known file that `path` is, by digest; None if it is not one, or is a folder.

    Files of other sizes than those of the known files are not read.
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
    """The table for a terminal, with one paragraph per file."""
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
