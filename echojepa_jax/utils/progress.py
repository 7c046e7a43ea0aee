"""Time as a person wants to read it."""


def duration(seconds: float) -> str:
    """Seconds as "42s", "3m05s" or "7h04m"."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
