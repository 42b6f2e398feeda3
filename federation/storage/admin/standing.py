"""How far from eviction an object is, in words. Without I/O."""

from __future__ import annotations

from typing import NamedTuple

from federation.storage.timing import Timing


class Standing(NamedTuple):
    """What decides: times in store milliseconds, older: how many objects were used longer ago."""

    age_ms: int
    marked: bool
    hold_ms: int
    kept_for: tuple[str, ...]  # peers that are still to get it
    older: int
    stored_bytes: int
    starts_at_bytes: int


def standing(of: Standing, timing: Timing) -> str:
    """Say whether eviction would take it now, and why or why not."""
    leased_ms = timing.cutoff_age_ms - of.age_ms
    if of.marked:
        return f"marked: deleted within {timing.grace_ms / 1000:g} s unless it is used"
    if leased_ms > 0:
        return f"no: leased, for {leased_ms / 1000:.0f} s more if it is not used again"
    if of.hold_ms > 0:
        return f"no: eviction pauses for {of.hold_ms / 1000:.0f} s, because a process was killed"
    if of.kept_for:
        return f"no: kept for {', '.join(of.kept_for)}, see when-full"
    first = f"{of.older} objects were used less recently and go first"
    if of.stored_bytes <= of.starts_at_bytes:
        room = of.starts_at_bytes - of.stored_bytes
        return f"no: {room} bytes more are stored before eviction starts; {first}"
    return f"yes: more is stored than {of.starts_at_bytes} bytes; {first}"
