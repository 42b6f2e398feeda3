"""Assembly of replication from the configured peers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from federation.closure.names import names_of_entry
from federation.closure.walk import Walk as ClosureWalk
from federation.closure.walk import WalkContext
from federation.config.model import Config, LimitsConfig
from federation.config.peers import PeerConfig
from federation.core.clock import Clock
from federation.core.index import Entry
from federation.core.replication_log import ReplicationLog
from federation.core.store import Readable
from federation.core.tasks import Background
from federation.core.uses import Peek
from federation.observability.metrics import Metrics
from federation.observability.peer_metrics import PeerCollector
from federation.remote import Remote, RemoteSettings
from federation.replication.blob_sender import Sender
from federation.replication.closure_sender import Walk
from federation.replication.counters import PeerCounters
from federation.replication.entry_sender import EntrySender
from federation.replication.gate import Gate
from federation.replication.peer_api import PeerApi
from federation.replication.peer_blobs import PeerBlobs, may_fetch_from
from federation.replication.peer_records import PeerRecordCache
from federation.replication.remote_peer import RemotePeer
from federation.replication.send_memory import SendMemory
from federation.replication.session import PeerSession
from federation.replication.shipping import Shipper
from federation.replication.throttle import LoopThrottle
from federation.replication.worker import Replicator
from federation.storage.contract import NodeStorage

_log = structlog.get_logger(__name__)


class Replication:
    """The replication of one node."""

    def __init__(
        self,
        peers: Sequence[PeerConfig],
        store: Readable,
        change_log: ReplicationLog,
        walk: Walk,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._peers = list(peers)
        self._jitter = random.Random()  # noqa: S311 - it spreads retries, it guards nothing
        self._store = store
        self._change_log = change_log
        self._walk = walk
        self._metrics = metrics
        self._clock = clock
        self._worker = Replicator(change_log, self._session, clock, metrics.failing)
        self._throttle = LoopThrottle(lambda: metrics.calls_running > 0)
        self._memory = SendMemory()
        self._sending: dict[str, Remote] = {}  # by peer: the connection that was made last
        self._started = False
        self._background = Background()
        metrics.registry.register(PeerCollector(self.describe))

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
        if self._peers:
            self._started = True
            self._worker.start(self._peers)

    def apply_config(self, config: Config) -> None:
        """Take over the peers of a new configuration."""
        if config.peers != self._peers:
            _log.info("peers_changed", before=self.names, after=[p.name for p in config.peers])
            self._background.start(self.reload(config.peers), "taking over other peers")

    async def reload(self, peers: Sequence[PeerConfig]) -> None:
        """Send to these peers from now on."""
        self._peers = list(peers)
        if self._started:
            await self._worker.reload(peers)
        else:
            self.start()

    def heard_from(self, node_id: str) -> None:
        """Report that a call of this node has come in."""
        self._worker.heard_from(node_id)

    async def close(self) -> None:
        """Stop sending, and save how far each peer has come."""
        await self._background.close()
        await self._worker.close()

    @asynccontextmanager
    async def holders(self) -> AsyncIterator[list[PeerBlobs]]:
        """Connect to the peers that may be asked for blobs now, for the length of the block.

        What comes from a peer counts against its bandwidth, together with what is sent there.
        """
        now_s = self._clock.wall_s()
        remotes = [
            self._connect(peer, shares_bandwidth_of=self._sending.get(peer.name))
            for peer in self._peers
            if may_fetch_from(peer, now_s)
        ]
        try:
            yield [PeerBlobs(remote) for remote in remotes]
        finally:
            for remote in remotes:
                await remote.close()

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows."""
        return self._worker.describe()

    def _session(self, peer: PeerConfig, records: PeerRecordCache) -> PeerSession:
        remote = self._sending[peer.name] = self._connect(peer)
        for_large = self._connect(peer, shares_bandwidth_of=remote)
        api = RemotePeer(remote, for_large, peer.names_there)
        return make_session(
            peer,
            records,
            api,
            self._store,
            self._change_log,
            self._walk,
            self._clock,
            self._jitter,
            self._throttle,
            self._memory,
        )

    def _connect(self, peer: PeerConfig, *, shares_bandwidth_of: Remote | None = None) -> Remote:
        return Remote(
            # What fails is tried again by one call at a time, for all: see Gate.
            replace(RemoteSettings.of(peer, _of_blobs(peer)), retry_limit=0),
            self._metrics,
            self._clock,
            self._jitter,
            node_id=self._change_log.node_id,
            shares_bandwidth_of=shares_bandwidth_of,
        )


def make_replication(
    config: Config, limits: LimitsConfig, storage: NodeStorage, metrics: Metrics, clock: Clock
) -> Replication:
    """Make the replication of a node; nothing is connected yet."""
    return Replication(config.peers, storage, storage.ledger, walking(limits), metrics, clock)


def walking(limits: LimitsConfig) -> Walk:
    """Return the walk through closures that are sent; its CPU turns are apart from readers'."""
    context = WalkContext()

    async def walk(store: Readable, entry: Entry) -> bool:
        return await ClosureWalk(store, limits, context).complete(partial(names_of_entry, entry))

    return walk


def make_session(
    peer: PeerConfig,
    records: PeerRecordCache,
    api: PeerApi,
    store: Readable,
    change_log: ReplicationLog,
    walk: Walk,
    clock: Clock,
    jitter: random.Random,
    throttle: LoopThrottle,
    memory: SendMemory,
) -> PeerSession:
    """Assemble what sends to one peer. throttle, memory: shared by all peers.

    What it reads here is no use of it, and keeps nothing from being evicted.
    """
    store = Peek(store)
    counters = PeerCounters(clock)
    gate = Gate(peer.name, clock, peer.connection_config.retry_delay / 1000, jitter, throttle)
    sender = Sender(peer.name, store, change_log, api, gate, counters, memory, clock)
    shipper = Shipper(sender, api, clock)
    gate.at_failure(shipper.confirmed.clear)
    of_entries = memory.of_entries(peer.name)
    entries = EntrySender(store, change_log, api, gate, shipper, walk, counters, of_entries, clock)
    return PeerSession(peer, change_log, records, api, gate, shipper, entries, counters, clock)


def _of_blobs(peer: PeerConfig) -> str:
    """Return the instance name for calls about blobs, which have no instance."""
    names = peer.names_there or {}
    return names.get("", next(iter(names.values()), ""))
