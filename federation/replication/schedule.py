"""When a peer has to be compared with all that is held, and how far such a walk has come.

Decisions without I/O.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from federation.core.replication_log import PeerRecord, PeerState
from federation.wire.node_identity import LogPosition, parse_log


class Purpose(enum.Enum):
    """Why everything held is offered."""

    RESYNC = "resync"  # the change log alone is not sufficient
    REQUEST = "request"  # an operator asked; includes what rules leave to `manual`
    CHECK = "check"  # to find what the peer lost without saying so


class WalkPhase(enum.Enum):
    """What is offered. Entries come last, because they need their blobs."""

    BLOBS = "blobs"
    ENTRIES = "entries"


class Position(NamedTuple):
    """How far a walk has come, as stored in the record of the peer."""

    purpose: Purpose
    phase: WalkPhase = WalkPhase.BLOBS
    at: str = ""  # a position of ReplicationLog.blobs or entries; empty: the beginning

    def __str__(self) -> str:
        return f"{self.purpose.value} {self.phase.value} {self.at}"


def read_position(text: str) -> Position | None:
    """Parse the text of a position; None if it is empty or of another version."""
    try:
        purpose, phase, at = text.split(" ", 2)
        return Position(Purpose(purpose), WalkPhase(phase), at)
    except ValueError:
        return None


FIRST_CHECK_SHARE = 0.1  # of the interval, until the first check begins


def due(record: PeerRecord, check_every_s: float, rested_s: float) -> Position | None:
    """Return where a walk has to begin or go on now; None: no walk is due.

    rested_s: for how long no check has run.
    """
    kept = read_position(record.position)
    if record.state is PeerState.NEEDS_RESYNC:
        # A check has left out values that differ, so its position does not count for a resync.
        if kept is not None and kept.purpose is not Purpose.CHECK:
            return kept
        # A request offers all that a resync does, and `manual` rules: one walk serves both.
        return Position(Purpose.REQUEST if record.wanted > record.served else Purpose.RESYNC)
    if record.wanted > record.served:
        is_it = kept is not None and kept.purpose is Purpose.REQUEST
        return kept if is_it else Position(Purpose.REQUEST)
    if kept is not None and kept.purpose is Purpose.CHECK:
        return kept
    # After a check the caller counts rested_s from later on, so checks are an interval apart.
    if check_every_s and rested_s >= check_every_s * FIRST_CHECK_SHARE:
        return Position(Purpose.CHECK)
    return None


def is_urgent(record: PeerRecord) -> bool:
    """Whether a resync or a request is waiting, so that a check has to stop."""
    return record.state is PeerState.NEEDS_RESYNC or record.wanted > record.served


def what_changed(record: PeerRecord, node_id: str, log: LogPosition | None) -> str | None:
    """Return why a peer may have lost what it acknowledged; None: nothing has changed."""
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
