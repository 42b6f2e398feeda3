"""Assembly of what sends to peers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from federation.closure.names import names_of_entry
from federation.closure.walk import Walk as ClosureWalk
from federation.closure.walk import WalkContext
from federation.config.model import LimitsConfig
from federation.config.peers import PeerConfig
from federation.core.clock import Clock
from federation.core.index import Entry
from federation.core.replication_log import Lane, ReplicationLog
from federation.core.store import Readable
from federation.core.uses import Peek
from federation.observability.metrics import Metrics
from federation.remote.client import Remote
from federation.remote.settings import RemoteSettings
from federation.replication.blob_sender import Sender
from federation.replication.closure_sender import Walk
from federation.replication.counters import PeerCounters
from federation.replication.entry_sender import EntrySender
from federation.replication.gate import Gate
from federation.replication.peer_api import PeerApi
from federation.replication.peer_blobs import PeerBlobs, may_fetch_from
from federation.replication.peer_records import PeerRecordCache
from federation.replication.pin_sender import PinSender
from federation.replication.purge_sender import PurgeSender, ToldPurges
from federation.replication.remote_peer import RemotePeer
from federation.replication.send_memory import SendMemory
from federation.replication.session import PeerSession
from federation.replication.shipping import Shipper
from federation.replication.throttle import LoopThrottle
from federation.replication.worker import Replicator


class PeerClients:
    """Makes the clients for peers: those that send, and those that fetch blobs from them."""

    def __init__(self, metrics: Metrics, clock: Clock, node_id: str) -> None:
        """node_id: of this node, which each call names."""
        self.jitter = random.Random()  # noqa: S311 - it spreads retries, it guards nothing
        self._metrics = metrics
        self._clock = clock
        self._node_id = node_id
        self._sending: dict[str, Remote] = {}  # by peer: the client that was made last

    def __repr__(self) -> str:
        return f"<PeerClients {list(self._sending)}>"

    def to_send(self, peer: PeerConfig) -> RemotePeer:
        """Return a peer to send to; it is connected when it is first asked."""
        remote = self._sending[peer.name] = self._connect(peer)
        # Small objects must not wait behind minutes of a large blob (decisions: Large blobs go to a
        # peer on a connection of their own).
        for_large = self._connect(peer, shares_bandwidth_of=remote)
        return RemotePeer(remote, for_large, peer.names_there)

    @asynccontextmanager
    async def to_fetch(self, peers: Sequence[PeerConfig]) -> AsyncIterator[list[PeerBlobs]]:
        """Connect to those of these peers that may be asked for blobs now, within the block.

        What comes from a peer counts against its bandwidth, together with what is sent there.
        """
        now_s = self._clock.wall_s()
        remotes = [
            self._connect(peer, shares_bandwidth_of=self._sending.get(peer.name))
            for peer in peers
            if may_fetch_from(peer, now_s)
        ]
        try:
            yield [PeerBlobs(remote) for remote in remotes]
        finally:
            for remote in remotes:
                await remote.close()

    def _connect(self, peer: PeerConfig, *, shares_bandwidth_of: Remote | None = None) -> Remote:
        return Remote(
            # What fails is tried again by one call at a time, for all: see Gate.
            replace(RemoteSettings.of(peer, _of_blobs(peer)), retry_limit=0),
            self._metrics,
            self._clock,
            self.jitter,
            node_id=self._node_id,
            shares_bandwidth_of=shares_bandwidth_of,
        )


def make_replicator(
    clients: PeerClients,
    store: Readable,
    change_log: ReplicationLog,
    limits: LimitsConfig,
    metrics: Metrics,
    clock: Clock,
) -> Replicator:
    """Make what sends to peers; each is connected when it is first asked."""
    # One for all peers: together they may not keep the loop from clients, nor fill the memory.
    throttle = LoopThrottle(lambda: metrics.calls_running > 0)
    memory = SendMemory()
    walk = walking(limits)

    def session(peer: PeerConfig, records: PeerRecordCache) -> PeerSession:
        parts = store, change_log, walk, clock, clients.jitter, throttle, memory
        return make_session(peer, records, clients.to_send(peer), *parts)

    return Replicator(change_log, session, clock, metrics.failing)


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
    lane = Lane.ALWAYS
    told = ToldPurges(
        # Each change replaces the record, so it is looked up at each call.
        lambda: records.open(peer.name, lane).purges,
        lambda last: records.change(peer.name, lane, purges=last),
    )
    purges = PurgeSender(peer.name, change_log.purges, api, sender.answered_call, told, clock)
    shipper = Shipper(sender, api, purges, clock)
    pins = None
    if peer.pins:
        pins = PinSender(peer.name, change_log.pins, api, sender.answered_call, clock)
    # A peer that answers again after a failure may have been restarted with less than it confirmed.
    gate.at_failure(shipper.confirmed.clear)
    of_entries = memory.of_entries(peer.name)
    entries = EntrySender(store, change_log, api, gate, shipper, walk, counters, of_entries, clock)
    return PeerSession(
        peer, change_log, records, api, gate, shipper, entries, counters, clock, pins
    )


def _of_blobs(peer: PeerConfig) -> str:
    """Return the instance name for calls about blobs, which have no instance."""
    # A peer may let this node use the mapped instances only, so one of their names is taken where
    # the empty one is not among them.
    names = peer.names_there or {}
    return names.get("", next(iter(names.values()), ""))
