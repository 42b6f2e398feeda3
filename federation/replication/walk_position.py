"""Why all that is held is offered to a peer, and how far that has come, as a record keeps it."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Purpose(enum.Enum):
    """Why all is offered."""

    RESYNC = "resync"  # the log alone does not do
    REQUEST = "request"  # an operator asked, and what is sent by hand goes along
    CHECK = "check"  # to find what was lost without a word


class WalkPhase(enum.Enum):
    """What is offered; entries come last, because they need the blobs."""

    BLOBS = "blobs"
    ENTRIES = "entries"


class Position(NamedTuple):
    """Where a walk stands, as a record keeps it."""

    purpose: Purpose
    phase: WalkPhase = WalkPhase.BLOBS
    at: str = ""  # the change log's; empty: begin

    def __str__(self) -> str:
        return f"{self.purpose.value} {self.phase.value} {self.at}"


def read_position(text: str) -> Position | None:
    """Read what str() wrote; None for nothing, and for what another version may have written."""
    try:
        purpose, phase, at = text.split(" ", 2)
        return Position(Purpose(purpose), WalkPhase(phase), at)
    except ValueError:
        return None
