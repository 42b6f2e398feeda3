"""When a peer has to be compared with all that is held, and how far such a walk has come.

Decisions without I/O.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from federation.core.replication_log import PeerRecord, PeerState
from federation.wire.node_identity import LogPosition, parse_log


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


FIRST_CHECK_SHARE = 0.1  # of the interval, until the first check begins


def due(record: PeerRecord, check_every_s: float, rested_s: float) -> Position | None:
    """Return from where to offer all now; None: there is no reason to.

    rested_s: for how long no check has run.
    """
    kept = read_position(record.position)
    if record.state is PeerState.NEEDS_RESYNC:
        if kept is not None and kept.purpose is not Purpose.CHECK:
            return kept
        return Position(Purpose.REQUEST if record.wanted > record.served else Purpose.RESYNC)
    if record.wanted > record.served:
        is_it = kept is not None and kept.purpose is Purpose.REQUEST
        return kept if is_it else Position(Purpose.REQUEST)
    if kept is not None and kept.purpose is Purpose.CHECK:
        return kept
    if check_every_s and rested_s >= check_every_s * FIRST_CHECK_SHARE:
        return Position(Purpose.CHECK)
    return None


def is_urgent(record: PeerRecord) -> bool:
    """Whether a check has to make way."""
    return record.state is PeerState.NEEDS_RESYNC or record.wanted > record.served


def what_changed(record: PeerRecord, node_id: str, log: LogPosition | None) -> str | None:
    """Return why a peer may have lost what it acknowledged; None: it is as it was last met."""
    if record.node_id and record.node_id != node_id:
        return f"another data directory answers: node {node_id} instead of {record.node_id}"
    before = parse_log(record.log_seen)
    if before is None or log is None:
        return None
    if before.epoch != log.epoch:
        return "its change log was begun anew"
    if log.seq < before.seq:
        return f"it was put back to an earlier state: its log ends at {log.seq}, not {before.seq}"
    return None
