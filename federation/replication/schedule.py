"""When all that is held is offered to a peer, and why; and what shows that one lost things.

Decisions without I/O.
"""

from __future__ import annotations

from federation.core.replication_log import PeerRecord, PeerState
from federation.replication.walk_position import Position, Purpose, read_position
from federation.wire.node_identity import LogPosition, parse_log

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
