"""Bounds on the connections of each address, for gRPC's listeners.

gRPC accepts connections itself and does not expose them, so they are inspected once a second, and
excess ones are closed, the youngest first. gRPC's own limit is somewhat higher, so that a flood
does not keep others out until the next inspection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence

from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.fair_share import FairShare, ShareVerdict
from federation.observability.rate_limits import LimitHits
from federation.services import tcp
from federation.services.tcp import TcpConnection

_EVERY_S = 1.0
_SOON_S = 0.2  # while there are too many
_OTHERS = 50  # at least: descriptors that are no client connections


def allowed_by_grpc(limits: LimitsConfig) -> int:
    """Return how many connections gRPC may accept on one listener."""
    return limits.connections + max(_OTHERS, limits.connections // 2)


def excess(
    connections: Sequence[TcpConnection], total: int, each: int
) -> list[tuple[TcpConnection, str]]:
    """Return the excess connections to one port, with the limit that each exceeds.

    connections: the oldest first. each: the most of one address; 0: what it leaves for others.
    """
    share = FairShare(lambda: total, lambda: each)
    found = []
    for one in connections:
        verdict = share.try_acquire(one.peer.host)
        if verdict is not ShareVerdict.GRANTED:
            over = "connections" if verdict is ShareVerdict.FULL else "connections-per-address"
            found.append((one, over))
    return found


class ConnectionGuard:
    """Watches the listeners of one process."""

    def __init__(
        self, limits: LimitsConfig, hits: LimitHits, clock: Clock, ports: Callable[[], list[int]]
    ) -> None:
        """ports: gives those of the listeners, once they are bound."""
        self._limits = limits
        self._hits = hits
        self._clock = clock
        self._ports = ports
        self._seen: dict[TcpConnection, int] = {}  # in the order in which they came
        self._count = 0

    def __repr__(self) -> str:
        return f"<ConnectionGuard of {self._ports()}, {len(self._seen)} seen>"

    async def run(self) -> None:
        """Inspect the connections again and again."""
        while True:
            broken = await asyncio.to_thread(self.poll)
            for connection, limit in broken:
                host, port = connection.peer
                self._hits.hit(limit, f"address {host}", f"{host}:{port}")
            await self._clock.sleep(_SOON_S if broken else _EVERY_S)

    def poll(self) -> list[tuple[TcpConnection, str]]:
        """Close excess connections, and return them; blocks."""
        limits = self._limits
        most = limits.connections_per_address or limits.connections // 2
        # With fewer descriptors than that, no bound can be exceeded: the usual look costs one
        # listing.
        if len(os.listdir("/proc/self/fd")) < min(most, limits.connections):  # noqa: PTH208
            self._seen.clear()
            return []
        by_port = self._by_port(tcp.connections(self._ports()))
        too_many = [
            each
            for found in by_port.values()
            for each in excess(found, limits.connections, limits.connections_per_address)
        ]
        return [(each, limit) for each, limit in too_many if tcp.break_off(each)]

    def _by_port(self, found: Iterable[TcpConnection]) -> dict[int, list[TcpConnection]]:
        """Return the connections of each listener, the oldest first."""
        seen = {}
        for each in found:
            age = self._seen.get(each)
            if age is None:
                self._count += 1
                age = self._count
            seen[each] = age
        self._seen = seen
        by_port: dict[int, list[TcpConnection]] = {}
        # Descriptors do not say which came first: a closed one's number is given to the next
        # connection.
        for each in sorted(seen, key=seen.__getitem__):
            by_port.setdefault(each.local_port, []).append(each)
        return by_port
