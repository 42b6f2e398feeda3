"""Limits the change log and the pins of lagging peers, and gives up peers that exceed the limits.

Writes must not wait for a peer. If the log would have to exceed its bound for a peer, or if its
pins keep what eviction needs, the peer is marked: nothing is kept for it any more, and a reconcile
brings it up to date later.
"""

from __future__ import annotations

from typing import NamedTuple

import structlog

from federation.core.replication_log import Lane, PeerRecord
from federation.observability.metrics import Metrics
from federation.storage.catalogue import change_log, peer_records, purges
from federation.storage.catalogue.footprint import LOG_ROW_BYTES
from federation.storage.catalogue.transaction import Transaction
from federation.storage.context import StorageContext

_log = structlog.get_logger(__name__)

_LOG_PART = 4  # the log may take 1/4 of the quota,
_ACKNOWLEDGED_PART = 16  # but only 1/16 with rows that no peer needs
_ROWS_MIN = 1000
_TRIM_ROWS = 10_000  # per transaction, so that uploads do not wait long for the write lock
_PURGES_AT_ONCE = 1000
_TRIM_PART = 10  # after growing by 1/10 of the bound, the log is trimmed ahead of schedule
LOG_TOO_LONG = "log"  # reasons, as the metric names them
NO_ROOM = "room"
REASONS = {
    LOG_TOO_LONG: "the change log no longer reaches back to its cursor (log-max-rows)",
    NO_ROOM: "objects that it had not acknowledged filled the quota",
}


class Trimmed(NamedTuple):
    """The result of one step of trimming."""

    rows: int
    given_up: list[PeerRecord]  # the records before they were marked


class LogBounds(NamedTuple):
    """How many rows of the change log are kept."""

    rows_max: int  # at most, even if peers have not read them
    acknowledged_max: int  # at most, if every peer has acknowledged the older ones


def bounds_of_log(log_max_rows: int, quota_bytes: int) -> LogBounds:
    """Return the configured bound, or less if that would take much of a small quota."""
    by_quota = quota_bytes // LOG_ROW_BYTES
    return LogBounds(
        min(log_max_rows, max(_ROWS_MIN, by_quota // _LOG_PART)),
        min(log_max_rows, max(_ROWS_MIN, by_quota // _ACKNOWLEDGED_PART)),
    )


def trim_log(transaction: Transaction, bounds: LogBounds, limit: int) -> Trimmed:
    """Remove up to limit of the oldest rows beyond the bounds; mark peers that needed them."""
    given_up = []
    head = transaction.totals.seq
    last_gone = head - bounds.rows_max
    records = peer_records.holding(peer_records.read(transaction.connection))
    acknowledged = records[0].cursor if records else head
    last_needless = min(head - bounds.acknowledged_max, acknowledged)
    # Rows that nobody needs are enough to go; no peer has to be marked for that.
    if last_needless > last_gone:
        return Trimmed(change_log.trim(transaction, last_needless, limit), [])
    if change_log.reaches_back_to(transaction.connection, last_gone):
        for record in records:
            if record.cursor < last_gone:
                peer_records.mark(transaction, record, REASONS[LOG_TOO_LONG])
                given_up.append(record)
    return Trimmed(change_log.trim(transaction, last_gone, limit), given_up)


def give_up_one(transaction: Transaction) -> PeerRecord | None:
    """Mark the peer that lags most, and return its record; None: all have caught up."""
    for record in peer_records.holding(peer_records.read(transaction.connection)):
        if record.cursor < transaction.totals.seq:
            peer_records.mark(transaction, record, REASONS[NO_ROOM])
            return record
    return None


def report_given_up(metrics: Metrics, record: PeerRecord, why: str, head: int) -> None:
    """Log and count a peer that was given up.

    why: LOG_TOO_LONG or NO_ROOM; head: the newest row of the change log.
    """
    metrics.peers.given_up.labels(peer=record.name, reason=why).inc()
    _log.error(
        "peer_needs_resync",
        peer=record.name,
        lane=record.lane.value,
        reason=REASONS[why],
        unacknowledged_rows=head - record.cursor,
    )


def forget_purges(transaction: Transaction, keep_s: float) -> int:
    """Remove records of purges that kept nothing out for keep_s; return how many.

    None goes before every peer was told. Peers that are no nodes of this project are told nothing,
    and send nothing.
    """
    told = [
        record.purges
        for record in peer_records.read(transaction.connection)
        if record.lane is Lane.ALWAYS and (record.node_id or not record.last_success_s)
    ]
    upto = min(told, default=purges.newest(transaction.connection))
    before_ms = transaction.now_ms - int(keep_s * 1000)
    return purges.forget(transaction, before_ms, upto, _PURGES_AT_ONCE)


class LogTrimmer:
    """Trims the change log of one data directory. Used by the holder of the maintenance lock."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._due_at_row = 0

    @property
    def is_due(self) -> bool:
        """Whether the log has grown so much that it should be trimmed ahead of schedule."""
        return self._core.head.value >= self._due_at_row

    async def trim(self) -> None:
        """Remove rows beyond the change log's bounds, even if peers have not read them.

        Fewer rows are kept if every peer has acknowledged them. Raises what Writer.submit raises.
        """
        core = self._core
        bounds = bounds_of_log(core.settings.log_max_rows, core.space.quota_bytes)
        self._due_at_row = core.head.value + max(1, bounds.rows_max // _TRIM_PART)

        def work(transaction: Transaction) -> Trimmed:
            return trim_log(transaction, bounds, _TRIM_ROWS)

        rows = _TRIM_ROWS
        # A full step means that there may be more.
        while rows == _TRIM_ROWS:
            rows, given_up = await core.writer.submit(work)
            for record in given_up:
                report_given_up(core.metrics, record, LOG_TOO_LONG, core.head.value)
