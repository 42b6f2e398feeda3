"""Estimates how much has arrived of messages that are not complete yet.

gRPC shows a message only when it is complete. So each read reserves room for the largest message.
While other calls wait for room, the bytes that each connection has received are compared with the
messages that came out of it: the difference is in messages still being received. A slow or silent
sender is then charged for that only and does not keep others waiting; a sender of much data that
never completes a message is detected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from federation.core.admission import Admission
from federation.services.running_call import RunningCall

LEAST_BYTES = 2**16  # gRPC buffers about this much of each stream anyway
_PEERS_MAX = 10_000
OVERHEAD = 50  # at most one byte in so many is HTTP/2's or TLS's


class MessageArrivals:
    """Charges calls for what has arrived of their messages. Pure: it is given the counters."""

    def __init__(self, incoming: Admission) -> None:
        self._incoming = incoming
        self._came: dict[str, int] = {}  # whole messages, in bytes, of each connection
        self._undercharges_unknown = False  # messages whose size is not known
        self._undercharges_known = False

    def __repr__(self) -> str:
        return f"<MessageArrivals on {len(self._came)} connections>"

    @property
    def undercharges(self) -> bool:
        """Whether a call is charged for less than a whole message, by either way of charging."""
        return self._undercharges_unknown or self._undercharges_known

    def note_message(self, peer: str, size_bytes: int) -> None:
        """Count a complete message of this connection."""
        came_bytes = self._came.get(peer)
        if came_bytes is None and len(self._came) >= _PEERS_MAX:
            self._came.pop(next(iter(self._came)))  # from now on counted as if it had sent nothing
        self._came[peer] = (came_bytes or 0) + size_bytes

    def charge(
        self, pending: Collection[RunningCall], received: Mapping[str, int], most_bytes: int
    ) -> RunningCall | None:
        """Charge each pending call; return one whose connection must be closed to make room.

        received: the bytes that each connection has received since it began. Closed ones are
        absent, and those that cannot be inspected.
        """
        reading: dict[str, list[RunningCall]] = {}
        for call in pending:
            reading.setdefault(call.peer, []).append(call)
        self._undercharges_unknown = False
        bound_bytes, worst_bytes = self._bounds(most_bytes)
        worst = None
        for peer, calls in reading.items():
            came_bytes = self._came.get(peer, 0)
            rest_bytes = received.get(peer, 0) - came_bytes - came_bytes // OVERHEAD
            if rest_bytes > worst_bytes:
                worst, worst_bytes = calls[0], rest_bytes
            # Which stream of the connection the rest belongs to is not visible, so they share it.
            each_bytes = min(max(LEAST_BYTES, rest_bytes // len(calls)), most_bytes)
            for call in calls:
                self._undercharges_unknown |= each_bytes < most_bytes
                self._incoming.adjust(call.caller, each_bytes - call.pending_bytes)
                call.pending_bytes = each_bytes
        return worst if self._incoming.used_bytes > bound_bytes else None

    def _bounds(self, most_bytes: int) -> tuple[int, int]:
        """Return above how many bytes, in all and of one connection, that connection is closed.

        However little room there is, none is closed for a message or two of most_bytes.
        """
        of_all_bytes = max(self._incoming.total_bytes, 2 * most_bytes)
        return of_all_bytes, max(of_all_bytes // 4, 2 * most_bytes)

    def charge_known(self, slow: Collection[RunningCall], most_bytes: int) -> RunningCall | None:
        """Charge calls for what has come of messages of known size; otherwise as charge() does."""
        self._undercharges_known = False
        bound_bytes, worst_bytes = self._bounds(most_bytes)
        of_peer: dict[str, int] = {}
        worst = None
        for call in slow:
            came_bytes = call.transport.came_bytes()
            each_bytes = min(max(LEAST_BYTES, came_bytes), call.size_bytes)
            self._undercharges_known |= each_bytes < call.size_bytes
            self._incoming.adjust(call.caller, each_bytes - call.pending_bytes)
            call.pending_bytes = each_bytes
            # By connection: what is closed to make room is a connection, with all its streams.
            of_peer[call.peer] = of_peer.get(call.peer, 0) + came_bytes
            if of_peer[call.peer] > worst_bytes:
                worst, worst_bytes = call, of_peer[call.peer]
        return worst if self._incoming.used_bytes > bound_bytes else None
