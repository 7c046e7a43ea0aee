"""File names as text and back: a name may contain any bytes, but tables and reports only text.

Unprintable parts are escaped as in Python: bytes that are not UTF-8 and control characters as
`\\xfc`, other invisible characters as `\\u2028`. In such names, and in names that already contain
something like an escape, backslashes are doubled. All other names stay as they are.
"""

import re

_ESCAPE = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF  # Python's characters for bytes that are not UTF-8


def shown(name: str) -> str:
    """A name of the file system as printable text; different names have different texts."""
    if name.isprintable() and not _ESCAPE.search(name):
        return name
    return "".join(map(_shown, name))


def original(text: str) -> str:
    """The inverse of `shown`."""
    return _ESCAPE.sub(_original, text)


def as_unicode(text: str) -> str:
    """Text for a table: `shown` if it contains bytes that are not UTF-8, else unchanged."""
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
