"""The replication of a node, from its configuration: what sends is made once there is a peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

from federation.config.model import Config, LimitsConfig
from federation.config.peers import PeerConfig
from federation.core.clock import Clock
from federation.core.replication_log import ReplicationLog
from federation.core.store import Readable
from federation.core.tasks import Background
from federation.observability.metrics import Metrics
from federation.observability.peer_metrics import peer_families
from federation.storage.contract import NodeStorage

if TYPE_CHECKING:
    from federation.replication.assembly import PeerClients
    from federation.replication.peer_blobs import PeerBlobs
    from federation.replication.worker import Replicator

_log = structlog.get_logger(__name__)


class Replication:
    """The replication of one node."""

    def __init__(
        self,
        peers: Sequence[PeerConfig],
        store: Readable,
        change_log: ReplicationLog,
        limits: LimitsConfig,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._peers = list(peers)
        self._store = store
        self._change_log = change_log
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._worker: Replicator | None = None  # None: there was no peer yet
        self._clients: PeerClients | None = None  # likewise
        self._background = Background()
        metrics.declared.collect_from(lambda: peer_families(self.describe()))

    def __repr__(self) -> str:
        return f"<Replication {self._worker!r}>"

    @property
    def names(self) -> list[str]:
        """The names of the configured peers."""
        return [peer.name for peer in self._peers]

    def start(self) -> None:
        """Begin sending; each peer is connected when it is first asked.

        Without peers this process does not try to be the one that replicates: others may have some.
        """
        if not self._peers:
            return
        # Not above: a node without peers does not need what sends to them, nor the client, a
        # tenth of the CPU of its start.
        from federation.replication.assembly import PeerClients, make_replicator  # noqa: PLC0415

        node_id = self._change_log.node_id
        self._clients = PeerClients(self._metrics, self._clock, node_id)
        self._worker = make_replicator(
            self._clients, self._store, self._change_log, self._limits, self._metrics, self._clock
        )
        self._worker.start(self._peers)

    def apply_config(self, config: Config) -> None:
        """Take over the peers of a new configuration."""
        if config.peers != self._peers:
            _log.info("peers_changed", before=self.names, after=[p.name for p in config.peers])
            self._background.start(self.reload(config.peers), "taking over other peers")

    async def reload(self, peers: Sequence[PeerConfig]) -> None:
        """Send to these peers from now on."""
        self._peers = list(peers)
        if self._worker is None:
            self.start()
        else:
            await self._worker.reload(peers)

    def heard_from(self, node_id: str) -> None:
        """Report that a call of this node has come in."""
        if self._worker is not None:
            self._worker.heard_from(node_id)

    async def close(self) -> None:
        """Stop sending, and save how far each peer has come."""
        # First: a reload under way would start senders again.
        await self._background.close()
        if self._worker is not None:
            await self._worker.close()

    @asynccontextmanager
    async def holders(self) -> AsyncIterator[list[PeerBlobs]]:
        """Connect to the peers that may be asked for blobs now, for the length of the block."""
        if self._clients is None:
            yield []
            return
        async with self._clients.to_fetch(self._peers) as holders:
            yield holders

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows."""
        if self._worker is None:
            return {"replicates-here": False, "peers": [], "left-peers": []}
        return self._worker.describe()


def make_replication(
    config: Config, limits: LimitsConfig, storage: NodeStorage, metrics: Metrics, clock: Clock
) -> Replication:
    """Make the replication of a node; nothing is connected yet."""
    return Replication(config.peers, storage, storage.ledger, limits, metrics, clock)
