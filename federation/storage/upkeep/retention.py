"""What the change log and the pins of lagging peers may take, and who is given up when it is more.

Writes are not to wait for a peer. So a peer for which the log would have to be longer than its
bound, or which pins what eviction has to take, is marked: a reconcile brings it up to date later,
and until then nothing is kept for it.
"""

from __future__ import annotations

from typing import NamedTuple

import structlog

from federation.core.replication_log import PeerRecord
from federation.observability.metrics import Metrics
from federation.storage.catalogue import change_log, peer_records
from federation.storage.catalogue.transaction import Transaction

_log = structlog.get_logger(__name__)

LOG_TOO_LONG = "log"  # reasons, as the metric names them
NO_ROOM = "room"
_REASONS = {
    LOG_TOO_LONG: "the change log no longer reaches back to where it stands (log-max-rows)",
    NO_ROOM: "what it had not acknowledged filled the quota",
}


class Trimmed(NamedTuple):
    """What one step of trimming did."""

    rows: int
    given_up: list[PeerRecord]  # as they were before


def trim_log(transaction: Transaction, last_gone: int, limit: int) -> Trimmed:
    """Remove up to limit of the oldest rows, none beyond last_gone, whoever has not read them."""
    given_up = []
    if change_log.reaches_back_to(transaction.connection, last_gone):
        for record in peer_records.following(peer_records.read(transaction.connection)):
            if record.cursor < last_gone:
                peer_records.mark(transaction, record, _REASONS[LOG_TOO_LONG])
                given_up.append(record)
    return Trimmed(change_log.trim(transaction, last_gone, limit), given_up)


def give_up_one(transaction: Transaction) -> PeerRecord | None:
    """Mark the one that lags most and has not acknowledged all; None: there is none."""
    for record in peer_records.following(peer_records.read(transaction.connection)):
        if record.cursor < transaction.totals.seq:
            peer_records.mark(transaction, record, _REASONS[NO_ROOM])
            return record
    return None


def tell(metrics: Metrics, record: PeerRecord, why: str, head: int) -> None:
    """Say loudly that a peer was given up."""
    metrics.peers.given_up.labels(record.name, why).inc()
    _log.error(
        "peer_needs_resync",
        peer=record.name,
        lane=record.lane.value,
        reason=_REASONS[why],
        unacknowledged_rows=head - record.cursor,
    )
