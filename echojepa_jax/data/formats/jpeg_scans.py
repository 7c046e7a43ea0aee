"""Finds JPEGs that lack scans: decoders show such a picture without its detail, or without colours.

A progressive JPEG sends its coefficients in several scans, the upper bits of a value before the
lower ones. Other JPEGs may send each component in its own scan.
"""

import re

import numpy as np

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not a stored 255, padding or a restart
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_PROGRESSIVE = (0xC2, 0xCA)
_SCAN, _END = 0xDA, 0xD9


def lacks_scans(jpeg: bytes) -> bool:
    """Whether a JPEG (not a lossless one) ends before its scans have sent all bits."""
    position, kind = 2, 0
    unsent: dict[int, np.ndarray] = {}  # by component: the number of unsent bits [coefficients]
    while found := _MARKER.search(jpeg, position):
        kind_of_segment, start = found[0][1], found.end()
        if kind_of_segment == _END:
            break
        position = start + int.from_bytes(jpeg[start : start + 2], "big")
        held = jpeg[start + 2 : position]
        if kind_of_segment in _FRAMES:
            kind, unsent = kind_of_segment, {c: np.full(64, 16) for c in held[6::3]}
        elif kind_of_segment == _SCAN and kind:
            first, last, bits = 0, 63, 0
            if kind in _PROGRESSIVE:
                first, last, bits = held[-3], held[-2], held[-1] & 15
            for component in held[1:-3:2]:
                unsent[component][first : last + 1] = bits
            if not any(left.any() for left in unsent.values()):
                return False
    return bool(unsent)
