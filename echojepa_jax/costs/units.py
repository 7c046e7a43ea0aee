"""Numbers with units as readable text."""

import math


def scaled(value: float, unit: str) -> str:
    """A number with a suitable prefix, such as "6.14 GB" or "187 ms"."""
    power = math.floor(math.log10(value) / 3) if value else 0
    power = min(5, max(-3, power))
    return f"{value / 1000.0**power:.4g} {'nµm kMGTP'[power + 3].strip()}{unit}"
