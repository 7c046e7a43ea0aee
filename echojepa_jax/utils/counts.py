"""Counts in sentences."""


def counted(number: int, noun: str) -> str:
    """A number and its noun, such as "1 video", "1,024 studies" or "0 classes"."""
    stem, end = (noun[:-1], "ies") if noun.endswith("y") else (noun, "s")
    many = stem + ("es" if noun.endswith(("s", "ch")) else end)
    return f"{number:,} {noun if number == 1 else many}"
