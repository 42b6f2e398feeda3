"""Numbers as people read them; - stands for what is not known."""

from __future__ import annotations

_POWERS = ((40, "T"), (30, "G"), (20, "M"), (10, "K"))
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"))


def rounded(size_bytes: int | None) -> str:
    """Return a rounded size: 12, 3.4M."""
    if size_bytes is None:
        return "-"
    if size_bytes < 2**10:
        return str(size_bytes)
    power, letter = next(p for p in _POWERS if size_bytes >= 2 ** p[0])
    return f"{size_bytes / 2**power:.1f}{letter}"


def span(seconds: float | None) -> str:
    """Return a rounded duration: 12s, 3.5h."""
    if seconds is None:
        return "-"
    for unit_s, letter in _UNITS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.1f}{letter}"
    return f"{seconds:.0f}s"


def percent(share: float | None) -> str:
    """Return a share (0 to 1) in percent: 93 %; it is 100 % only if nothing is missing."""
    if share is None:
        return "-"
    shown = round(100 * share)
    return f"{min(shown, 99) if share < 1 else 100} %"


def grouped(number: int | None) -> str:
    """Return a number in groups of three digits: 1,234."""
    return "-" if number is None else f"{number:,}"


def counted(number: int, one: str, many: str) -> str:
    """Return a number with its noun: 1 object, 1,234 objects."""
    return f"{grouped(number)} {one if number == 1 else many}"
