"""File names as text and back: a name may be any bytes, but tables and reports hold only text.

Unprintable parts are written as in Python: a byte that is not UTF-8, or a control character, as
`\\xfc`; another invisible character as `\\u2028`. In such names a backslash is written as two. All
other names stay as they are, except those that look as if they were written in this way.
"""

import re

_ESCAPE = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF  # what Python makes of bytes that are not UTF-8


def shown(name: str) -> str:
    """A name of the file system as printable text, another one for every name."""
    if name.isprintable() and not _ESCAPE.search(name):
        return name
    return "".join(map(_shown, name))


def original(text: str) -> str:
    """The name that `shown` made `text` of."""
    return _ESCAPE.sub(_original, text)


def as_unicode(text: str) -> str:
    """Text of a table, `shown` where it holds bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return shown(text)
    return text


def _shown(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _original(match: re.Match[str]) -> str:
    byte, *longer = match.groups()
    if byte:
        code = int(byte, 16)
        return chr(code if code < 0x80 else code + 0xDC00)
    number = next(filter(None, longer), None)
    return chr(int(number, 16)) if number else "\\"
