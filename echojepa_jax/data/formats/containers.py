"""Recognises the container of a video by its bytes, and checks that the file is complete.

FFmpeg also guesses formats from names, follows playlists, and reads a truncated file as a short
video. None of this is acceptable for a data set.
"""

import os
from typing import BinaryIO

from echojepa_jax.data.formats.video_info import UnreadableVideo, first_bytes

_QUICKTIME_ATOMS = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
# The first bytes of videos that are not supported.
_OTHERS = {
    b"0&\xb2u": "WMV",
    b"\0\0\1": "MPEG",
    b"FLV": "Flash",
    b"OggS": "Ogg",
    b"\6\x0e+4": "MXF",
}
_EBML, _SEGMENT = bytes.fromhex("1A45DFA3"), bytes.fromhex("18538067")


def container_format(path: str) -> str:
    """FFmpeg's name of a file's container, see `recognised`.

    Raises:
      UnreadableVideo: the file is missing, not a video, or has another container.
    """
    head = first_bytes(path)
    if name := recognised(head):
        return name
    for start, other in _OTHERS.items():
        if head.startswith(start):
            raise UnreadableVideo(f"unsupported: {other} videos; convert them to MP4 or AVI")
    raise UnreadableVideo("not a video file: no AVI, MP4, MOV, MKV, WebM, GIF or DICOM content")


def recognised(head: bytes) -> str:
    """The container with these first bytes: "avi", "mov" (MP4 too), "matroska" (WebM too) or "gif".

    "" = another one.
    """
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "avi"
    if head[4:8] in _QUICKTIME_ATOMS:
        return "mov"
    if head[:4] == _EBML:
        return "matroska"
    return "gif" if head[:4] == b"GIF8" else ""


def check_complete(file: BinaryIO, container: str) -> None:
    """Checks that the structure of a container ends within the file.

    AVI has the number of frames in a header, MP4 and MOV in an index that recorders write last.
    This function checks that header and index exist; the decoder counts the frames.

    Raises:
      UnreadableVideo: the file is truncated.
    """
    end = file.seek(0, os.SEEK_END)
    if container == "avi" and not _reaches_frames(file, end):
        raise UnreadableVideo("truncated: the file ends before its first frame")
    if container == "mov":
        atoms, reach = _atoms(file, end)
        if b"moov" not in atoms:
            raise UnreadableVideo("truncated: the index (moov) is missing or cut off")
        if b"moof" in atoms and reach > end:  # each fragment has its own index
            raise UnreadableVideo("truncated: the file ends within a fragment")
    if container == "matroska" and _segment_end(file) > end:
        raise UnreadableVideo("truncated: the file ends before its segment does")
    if container == "gif" and not _is_whole_gif(file):
        raise UnreadableVideo("truncated: the end mark of the GIF is missing")


def is_whole_riff(path: str) -> bool:
    """Whether all chunks of an AVI end within the file."""
    position, end = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while position < end:  # large files have several
            file.seek(position)
            head = file.read(8)
            position += 8 + int.from_bytes(head[4:8], "little")
    return position <= end


def _reaches_frames(file: BinaryIO, end: int) -> bool:
    """Whether an AVI contains its list of frames ("movi")."""
    position = 12
    while position < end:
        file.seek(position)
        head = file.read(12)
        if head[8:] == b"movi":
            return True
        size = int.from_bytes(head[4:8], "little")
        position += 8 + size + size % 2  # chunks start at even positions
    return False


def _atoms(file: BinaryIO, end: int) -> tuple[set[bytes], int]:
    """The types of the top-level atoms of a QuickTime file that are complete, and where the last
    atom ends.
    """
    types, position = set(), 0
    while position < end:
        file.seek(position)
        head = file.read(16)
        size = int.from_bytes(head[:4])
        if size == 1:  # too large for 32 bits: the true size follows the type
            size = int.from_bytes(head[8:16])
        position = position + size if size >= 8 else end  # 0: the atom fills the file
        if position <= end:
            types.add(head[4:8])
    return types, position


def _segment_end(file: BinaryIO) -> int:
    """The byte where the segment of a Matroska file ends; 0 if a live recorder left it open."""
    file.seek(0)
    head = file.read(4096)
    start, size = _variable_int(head, 4)
    position = start + size
    if head[position : position + 4] != _SEGMENT:
        return 0
    start, size = _variable_int(head, position + 4)
    unknown = size == (1 << 7 * (start - position - 4)) - 1
    return 0 if unknown else start + size


def _variable_int(data: bytes, position: int) -> tuple[int, int]:
    """Read an EBML size at `position`: (the position after it, the size)."""
    first = data[position : position + 1] or b"\1"
    length = 9 - first[0].bit_length()
    value = int.from_bytes(data[position : position + length])
    return position + length, value & ((1 << 7 * length) - 1)


def _is_whole_gif(file: BinaryIO) -> bool:
    """Whether the blocks of a GIF reach its end mark; bytes after the mark do not matter."""
    file.seek(0)
    _skip_colours(file, file.read(13)[10:11])
    while (kind := file.read(1)) in (b"!", b",", b"\0"):
        if kind == b"\0":  # padding
            continue
        if kind == b",":  # a picture: its position, and perhaps its own colours
            _skip_colours(file, file.read(9)[8:9])
        file.read(1)  # the label of an extension, or the code size of a picture
        while size := file.read(1).strip(b"\0"):
            file.seek(size[0], 1)
    return kind == b";"


def _skip_colours(file: BinaryIO, flags: bytes) -> None:
    """Skips the colour table that follows if the byte `flags` states that there is one."""
    if flags and flags[0] & 0x80:
        file.seek(3 << (flags[0] & 7) + 1, 1)
