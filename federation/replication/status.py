"""What people and programs are shown of one peer."""

from __future__ import annotations

from typing import Any

from federation.core.clock import utc_text
from federation.core.replication_log import Lane, PeerRecord, PeerState
from federation.remote.failures import FailureKind
from federation.replication.peer import PeerRunner
from federation.replication.session import PeerSession

_CLOSED_BY: dict[FailureKind | None, str] = {
    FailureKind.DENIED: "refused",
    FailureKind.REFUSED: "refused",
    FailureKind.CERTIFICATE: "refused",
    FailureKind.EXHAUSTED: "full",
}


class Lag:
    """What one lane has still to bring, looked up now and then: it takes a look at the log."""

    def __init__(self, link: PeerSession, lane: Lane) -> None:
        self._link = link
        self._lane = lane
        self.size_bytes = 0
        self.oldest_s: float | None = None  # wall clock; of the oldest object not acknowledged

    async def look(self) -> None:
        """Look it up. Raises SourceUnavailable."""
        ledger, cursor = self._link.ledger, self._link.record(self._lane).cursor
        head = ledger.head()
        if cursor >= head:
            self.size_bytes, self.oldest_s = 0, None
            return
        self.size_bytes = await ledger.total_bytes(head) - await ledger.total_bytes(cursor)
        rows = (await ledger.read(cursor, 1)).rows
        self.oldest_s = rows[0].stored_at_s if rows else None


def state_of(runner: PeerRunner) -> str:
    """Return one word for how it is with a peer."""
    link, record = runner.link, runner.link.record(Lane.ALWAYS)
    if runner.state in {"itself", "local trouble", "failed"}:
        return runner.state
    if not link.gate.is_open:
        kind = link.gate.last_error.kind if link.gate.last_error is not None else None
        return _CLOSED_BY.get(kind, "unreachable")
    if runner.state != "up":
        return runner.state
    if record.state is PeerState.NEEDS_RESYNC:
        return "reconciling" if Lane.ALWAYS in runner.reconciles else "needs-resync"
    return "following"


def facts_of(runner: PeerRunner, lags: dict[Lane, Lag], parked: int) -> dict[str, Any]:
    """Return what `status` shows. Counts without "total" are since this process began."""
    link, tally = runner.link, runner.link.tally
    record = link.record(Lane.ALWAYS)
    lanes = {str(lane): _lane(runner, lane, lags[lane]) for lane in link.lanes}
    behind = [lane["lag-objects"] for lane in lanes.values()]
    per_s, bytes_per_s = tally.objects.per_s(), tally.bytes.per_s()
    return {
        "name": link.name,
        "url": link.peer.url,
        "state": state_of(runner),
        "reason": record.reason,
        "node-id": link.node_id,
        "lag-objects": sum(behind),
        "lag-bytes": sum(lane["lag-bytes"] for lane in lanes.values()),
        "lag-s": max(lane["lag-s"] for lane in lanes.values()),
        "objects-per-s": round(per_s, 1),
        "bytes-per-s": round(bytes_per_s),
        "caught-up-in-s": _eta(sum(behind), per_s),
        "last-success": _at(record.last_success_s),
        **_last_error(link, record),
        "next-try-in-s": round(link.gate.wait_s, 1),
        "parked": parked,
        "sent-objects-total": record.sent_objects,
        "sent-bytes-total": record.sent_bytes,
        "sent-objects": tally.sent_objects,
        "present-objects": tally.present_objects,
        "skipped": dict(sorted(tally.skipped.items())),
        "unsupported": dict(sorted(tally.unsupported.items())),
        "forgotten": tally.forgotten,
        "forgets": tally.forgets,
        "lanes": lanes,
    }


def _last_error(link: PeerSession, record: PeerRecord) -> dict[str, Any]:
    """The record is written only while the peer is met: of one that never was, it says nothing."""
    error, at_s = record.last_error, record.last_error_s
    if link.gate.last_error is not None:
        error, at_s = link.gate.last_error.reason, link.gate.last_error_s
    return {"last-error": error, "last-error-at": _at(at_s)}


def _lane(runner: PeerRunner, lane: Lane, lag: Lag) -> dict[str, Any]:
    link, record = runner.link, runner.link.record(lane)
    follower, walk = runner.followers.get(lane), runner.reconciles.get(lane)
    behind = max(0, link.ledger.head() - record.cursor)
    beyond = 0 if follower is None else follower.progress.done_beyond
    now_s = link.clock.wall_s()
    return {
        "state": str(record.state),
        "reason": record.reason,
        "cursor": record.cursor,
        "lag-objects": max(0, behind - beyond),
        "lag-bytes": lag.size_bytes if behind else 0,
        "lag-s": round(max(0.0, now_s - lag.oldest_s), 1) if behind and lag.oldest_s else 0.0,
        "in-flight": 0 if follower is None else follower.progress.unresolved,
        "position": record.position,
        "offered": 0 if walk is None else walk.offered,
    }


def facts_of_record(record: PeerRecord, parked: int) -> dict[str, Any]:
    """Return what is known of a peer that is not configured any more, or runs elsewhere."""
    return {
        "name": record.name,
        "lane": str(record.lane),
        "state": str(record.state),
        "reason": record.reason,
        "cursor": record.cursor,
        "node-id": record.node_id,
        "last-success": _at(record.last_success_s),
        "last-error": record.last_error,
        "parked": parked,
        "sent-objects-total": record.sent_objects,
        "sent-bytes-total": record.sent_bytes,
    }


def _eta(objects: int, per_s: float) -> float | None:
    if not objects:
        return 0.0
    return round(objects / per_s, 1) if per_s > 0.01 else None


def _at(wall_s: float) -> str | None:
    return utc_text(wall_s) if wall_s else None
