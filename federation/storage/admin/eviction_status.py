"""Describes in words whether eviction would take an object. Without I/O."""

from __future__ import annotations

from typing import NamedTuple

from federation.storage.timing import Timing


class EvictionFacts(NamedTuple):
    """The facts about an object and its storage that decide about its eviction."""

    age_ms: int  # since its last use
    marked: bool
    hold_ms: int  # for how long eviction still pauses
    kept_for: tuple[str, ...]  # peers that still have to get it
    older: int  # number of objects that were used less recently
    stored_bytes: int
    starts_at_bytes: int  # eviction starts when more is stored
    pinned_by: str = ""  # what people call the target of the pin; empty: none keeps it


def eviction_status(facts: EvictionFacts, timing: Timing) -> str:
    """Return whether eviction would take the object now, and why or why not."""
    if facts.marked:
        return f"marked: deleted within {timing.grace_ms / 1000:g} s unless it is used"
    if reason := _protection(facts, timing):
        return f"no: {reason}"
    first = f"{facts.older} objects were used less recently and go first"
    if facts.stored_bytes <= facts.starts_at_bytes:
        room = facts.starts_at_bytes - facts.stored_bytes
        return f"no: {room} bytes more are stored before eviction starts; {first}"
    return f"yes: more is stored than {facts.starts_at_bytes} bytes; {first}"


def _protection(facts: EvictionFacts, timing: Timing) -> str:
    """Return what keeps the object from eviction; empty: nothing does."""
    leased_ms = timing.cutoff_age_ms - facts.age_ms
    if facts.pinned_by:
        return f"pinned by {facts.pinned_by}"
    if leased_ms > 0:
        return f"leased, for {leased_ms / 1000:.0f} s more if it is not used again"
    if facts.hold_ms > 0:
        return f"eviction pauses for {facts.hold_ms / 1000:.0f} s, because a process was killed"
    return f"kept for {', '.join(facts.kept_for)}, see when-full" if facts.kept_for else ""
