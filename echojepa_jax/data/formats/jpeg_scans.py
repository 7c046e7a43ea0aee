"""Finds JPEGs that lack scans: decoders show such a picture without its detail, or without colours.

A progressive JPEG sends its coefficients in several scans, the upper bits of a value before the
lower ones. Other JPEGs may send each component in its own scan.
"""

import re

import numpy as np

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not a stored 255, filling or a restart
_FRAMES, _PROGRESSIVE = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA), (0xC2, 0xCA)
_SCAN, _END = 0xDA, 0xD9


def lacks_scans(jpeg: bytes) -> bool:
    """Whether a JPEG (not a lossless one) ends before its scans have sent all bits."""
    unsent: dict[int, np.ndarray] = {}  # by component: the bits of each coefficient that are left
    position, progressive = 2, False
    while found := _MARKER.search(jpeg, position):
        marker, start = found[0][1], found.end()
        if marker == _END:
            break
        position = start + int.from_bytes(jpeg[start : start + 2], "big")
        held = jpeg[start + 2 : position]
        if marker in _FRAMES:
            progressive = marker in _PROGRESSIVE
            unsent = {component: np.full(64, 16) for component in held[6::3]}
        elif marker == _SCAN and len(held) > 3:
            first, last, bits = held[-3:] if progressive else (0, 63, 0)
            for component in unsent.keys() & set(held[1:-3:2]):
                unsent[component][first : last + 1] = bits & 15
            if unsent and not any(left.any() for left in unsent.values()):
                return False
    return bool(unsent)
