"""The open connections of one listener: known by their peers, and counted within its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from federation.access.incoming_call import PeerAddress, parse_peer
from federation.config.model import LimitsConfig
from federation.core.fair_share import FairShare, ShareVerdict
from federation.observability.rate_limits import LimitHits


class OpenConnection(Protocol):
    """What is needed of a connection, whatever its protocol."""

    peer: PeerAddress

    @property
    def received_bytes(self) -> int:
        """How many bytes it has brought since it began: see Connections."""
        ...

    def abort(self) -> None:
        """Reset it."""
        ...


_C = TypeVar("_C", bound=OpenConnection)


class OpenConnections(Generic[_C]):
    """Those of one listener; implements Connections of services/transport.py."""

    def __init__(self) -> None:
        self.by_peer: dict[str, _C] = {}
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<OpenConnections {len(self.by_peer)}>"

    def received_from(self, peers: Collection[str]) -> Mapping[str, int]:
        """See Connections."""
        found = ((peer, self.by_peer.get(peer)) for peer in peers)
        return {peer: each.received_bytes for peer, each in found if each is not None}

    def break_off(self, peer: str) -> None:
        """See Connections."""
        connection = self.by_peer.get(peer)
        if connection is not None:
            # Connections are called from threads: see their contract.
            self._loop.call_soon_threadsafe(connection.abort)


class ConnectionRegistry(Generic[_C]):
    """Keeps connections, as many as the limits allow: in all, and from each address."""

    def __init__(self, opened: OpenConnections[_C], limits: LimitsConfig, hits: LimitHits) -> None:
        """opened: where registered ones are found. limits: they may change."""
        self._by_peer = opened.by_peer
        self._hits = hits
        self._share = FairShare(lambda: limits.connections, lambda: limits.connections_per_address)
        self._unnamed = 0
        self._over: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<ConnectionRegistry {len(self._by_peer)} open>"

    def __len__(self) -> int:
        return len(self._by_peer)

    def __iter__(self) -> Iterator[_C]:
        """Iterate over those that are open now, whatever becomes of them meanwhile."""
        return iter(list(self._by_peer.values()))

    def peer_of(self, transport: asyncio.BaseTransport) -> PeerAddress:
        """Return the other end of a connection; no two are alike."""
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            host, port = name[:2]
            return parse_peer(f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}")
        self._unnamed += 1
        return parse_peer(f"unix:{self._unnamed}")

    def admit(self, peer: PeerAddress) -> bool:
        """Count one of this peer; False: there are too many."""
        verdict = self._share.try_acquire(_holder(peer))
        if verdict is ShareVerdict.GRANTED:
            return True
        limit = "connections" if verdict is ShareVerdict.FULL else "connections-per-address"
        self._hits.hit(limit, peer.caller, peer.text)
        return False

    def release(self, peer: PeerAddress) -> None:
        """One that was admitted counts no more."""
        self._share.release(_holder(peer))

    def register(self, connection: _C) -> bool:
        """Count and keep a connection; False: there are too many."""
        if not self.admit(connection.peer):
            return False
        self._by_peer[connection.peer.text] = connection
        return True

    def unregister(self, connection: _C) -> None:
        """A connection is closed, whether it was registered or not."""
        peer = connection.peer
        # A connection that was refused never counted, and a newer one may have its address and
        # port.
        if self._by_peer.get(peer.text) is connection:
            del self._by_peer[peer.text]
            self.release(peer)
        if not self._by_peer and self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def until_empty(self, within_s: float) -> None:
        """Wait until there is none any more, for so long at most."""
        if self._by_peer:
            self._over = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._over], timeout=within_s)


def _holder(peer: PeerAddress) -> str:
    # All programs that come by a Unix socket are one holder: nothing tells them apart.
    return peer.host if peer.port else "unix"
