"""What has come of messages that are not whole yet.

gRPC says nothing of a message before all of it is there. So room is taken for the largest one, and
while others wait for room, what each connection has received is compared with what came out of it:
the rest is somewhere between, in messages that are being read. Whoever sends slowly or nothing is
charged for little then, and does not keep others waiting; whoever sends much and never all of it
is found out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from federation.core.admission import Admission
from federation.services.running_call import RunningCall

LEAST_BYTES = 2**16  # gRPC takes about so much of each stream by itself
_PEERS_MAX = 10_000
_OVERHEAD = 50  # of so many bytes one is HTTP/2's or TLS's, at most


class MessageArrivals:
    """Charges calls that read for what has come. Pure: the counters are brought to it."""

    def __init__(self, incoming: Admission) -> None:
        self._incoming = incoming
        self._came: dict[str, int] = {}  # whole messages, in bytes, of each connection
        self.trusts = False  # whether somebody is charged for less than may come

    def __repr__(self) -> str:
        return f"<MessageArrivals on {len(self._came)} connections>"

    def came(self, peer: str, size_bytes: int) -> None:
        """A whole message came from this connection."""
        came_bytes = self._came.get(peer)
        if came_bytes is None and len(self._came) >= _PEERS_MAX:
            self._came.pop(next(iter(self._came)))  # it is counted as if nothing had come of it
        self._came[peer] = (came_bytes or 0) + size_bytes

    def charge(
        self, pending: Collection[RunningCall], received: Mapping[str, int], most_bytes: int
    ) -> RunningCall | None:
        """Charge each call that reads; return one whose connection has to go to make room.

        received: what each connection has brought since it began; those that are gone are not in
        it, nor those that cannot be asked.
        """
        reading: dict[str, list[RunningCall]] = {}
        for call in pending:
            reading.setdefault(call.peer, []).append(call)
        self.trusts = False
        # However little room there is, nobody has to go for a message or two.
        bound_bytes = max(self._incoming.total_bytes, 2 * most_bytes)
        worst, worst_bytes = None, max(bound_bytes // 4, 2 * most_bytes)
        for peer, calls in reading.items():
            came_bytes = self._came.get(peer, 0)
            rest_bytes = received.get(peer, 0) - came_bytes - came_bytes // _OVERHEAD
            if rest_bytes > worst_bytes:
                worst, worst_bytes = calls[0], rest_bytes
            each_bytes = min(max(LEAST_BYTES, rest_bytes // len(calls)), most_bytes)
            for call in calls:
                self.trusts |= each_bytes < most_bytes
                self._incoming.adjust(call.caller, each_bytes - call.pending_bytes)
                call.pending_bytes = each_bytes
        return worst if self._incoming.used_bytes > bound_bytes else None
