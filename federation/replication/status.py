"""What `status` and the metrics show of one peer."""

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


class LaneLag:
    """How far one lane is behind, refreshed once a second from the change log."""

    def __init__(self, session: PeerSession, lane: Lane) -> None:
        self._session = session
        self._lane = lane
        self.size_bytes = 0
        self.oldest_s: float | None = None  # wall clock; of the oldest object not acknowledged

    async def poll(self) -> None:
        """Refresh it. Raises SourceUnavailable."""
        change_log, cursor = self._session.change_log, self._session.record(self._lane).cursor
        head = change_log.head()
        if cursor >= head:
            self.size_bytes, self.oldest_s = 0, None
            return
        self.size_bytes = await change_log.total_bytes(head) - await change_log.total_bytes(cursor)
        rows = (await change_log.read(cursor, 1)).rows
        self.oldest_s = rows[0].stored_at_s if rows else None


def state_of(runner: PeerRunner) -> str:
    """Return the state of a peer in one word."""
    session, record = runner.session, runner.session.record(Lane.ALWAYS)
    # These come before the gate's state: nothing is sent then, however well the peer answers.
    if runner.state in {"itself", "local trouble", "failed"}:
        return runner.state
    if not session.gate.is_open:
        kind = session.gate.last_error.kind if session.gate.last_error is not None else None
        return _CLOSED_BY.get(kind, "unreachable")
    if runner.state != "up":
        return runner.state
    if record.state is PeerState.NEEDS_RESYNC:
        return "reconciling" if Lane.ALWAYS in runner.reconciles else "needs-resync"
    return "following"


def facts_of(runner: PeerRunner, lags: dict[Lane, LaneLag], parked: int) -> dict[str, Any]:
    """Return what `status` shows. Counts without "total" are since this process began."""
    session, counters = runner.session, runner.session.counters
    record = session.record(Lane.ALWAYS)
    lanes = {str(lane): _lane(runner, lane, lags[lane]) for lane in session.lanes}
    behind = [lane["lag-objects"] for lane in lanes.values()]
    per_s, bytes_per_s = counters.objects.per_s(), counters.bytes.per_s()
    return {
        "name": session.name,
        "url": session.peer.url,
        "state": state_of(runner),
        "reason": record.reason,
        "node-id": session.node_id,
        "lag-objects": sum(behind),
        "lag-bytes": sum(lane["lag-bytes"] for lane in lanes.values()),
        "lag-s": max(lane["lag-s"] for lane in lanes.values()),
        "objects-per-s": round(per_s, 1),
        "bytes-per-s": round(bytes_per_s),
        "caught-up-in-s": _eta(sum(behind), per_s),
        "last-success": _at(record.last_success_s),
        **_last_error(session, record),
        "next-try-in-s": round(session.gate.wait_s, 1),
        "parked": parked,
        "sent-objects-total": record.sent_objects,
        "sent-bytes-total": record.sent_bytes,
        "sent-objects": counters.sent_objects,
        "sent-bytes": counters.sent_bytes,
        "present-objects": counters.present_objects,
        "present-bytes": counters.present_bytes,
        "skipped": dict(sorted(counters.skipped.items())),
        "unsupported": dict(sorted(counters.unsupported.items())),
        "forgotten": counters.forgotten,
        "forgets": counters.forgets,
        "purges-told": session.shipper.purges.has_told_all,
        "purges-not-taken": session.shipper.purges.trouble,
        "pins-not-taken": "" if session.pins is None else session.pins.trouble,
        "lanes": lanes,
    }


def _last_error(session: PeerSession, record: PeerRecord) -> dict[str, Any]:
    """Return facts of the record, which has none of a peer that was never reached."""
    error, at_s = record.last_error, record.last_error_s
    if session.gate.last_error is not None:
        error, at_s = session.gate.last_error.reason, session.gate.last_error_s
    return {"last-error": error, "last-error-at": _at(at_s)}


def _lane(runner: PeerRunner, lane: Lane, lag: LaneLag) -> dict[str, Any]:
    session, record = runner.session, runner.session.record(lane)
    follower, walk = runner.followers.get(lane), runner.reconciles.get(lane)
    behind = max(0, session.change_log.head() - record.cursor)
    beyond = 0 if follower is None else follower.progress.done_beyond
    now_s = session.clock.wall_s()
    return {
        "state": str(record.state),
        "reason": record.reason,
        "cursor": record.cursor,
        # Rows that were delivered out of order are not behind, although the cursor has not passed
        # them.
        "lag-objects": max(0, behind - beyond),
        "lag-bytes": lag.size_bytes if behind else 0,
        "lag-s": round(max(0.0, now_s - lag.oldest_s), 1) if behind and lag.oldest_s else 0.0,
        "in-flight": 0 if follower is None else follower.progress.unresolved,
        "position": record.position,
        "offered": 0 if walk is None else walk.offered,
    }


def facts_of_record(record: PeerRecord, parked: int) -> dict[str, Any]:
    """Return what is known of a peer that is no longer configured, or is served elsewhere."""
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
    # A decaying rate never becomes 0; below this the estimate would be years.
    return round(objects / per_s, 1) if per_s > 0.01 else None


def _at(wall_s: float) -> str | None:
    return utc_text(wall_s) if wall_s else None
