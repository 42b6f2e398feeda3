"""What all parts that send to one peer share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from federation.config.peers import PeerConfig
from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.index import EntryKey
from federation.core.replication_log import Lane, Parked, PeerRecord, ReplicationLog
from federation.replication.counters import PeerCounters
from federation.replication.entry_sender import EntrySender
from federation.replication.gate import Gate
from federation.replication.outcomes import Fate, SendOutcome
from federation.replication.peer_api import PeerApi
from federation.replication.peer_records import PeerRecordCache
from federation.replication.pin_sender import PinSender
from federation.replication.rules import Rules
from federation.replication.shipping import Shipper


@dataclass(frozen=True, slots=True)
class PeerSession:
    """One peer."""

    peer: PeerConfig
    change_log: ReplicationLog
    records: PeerRecordCache
    api: PeerApi
    gate: Gate
    shipper: Shipper
    entries: EntrySender
    counters: PeerCounters
    clock: Clock
    pins: PinSender | None = None  # where the peer is told of pins
    rules: Rules = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", Rules(self.peer))

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self.peer.name

    @property
    def node_id(self) -> str:
        """The node id of the peer as last seen; empty: it is not a node of this project."""
        # Before the first answer, what the record says: objects that came from the peer must not go
        # back.
        return self.api.identity.node_id or self.record(Lane.ALWAYS).node_id

    @property
    def lanes(self) -> Sequence[Lane]:
        """The lanes that its rules use."""
        return (Lane.ALWAYS, Lane.WINDOW) if self.rules.has_window else (Lane.ALWAYS,)

    def record(self, lane: Lane) -> PeerRecord:
        """Return the record of one lane."""
        return self.records.open(self.name, lane)

    def change(self, lane: Lane, **fields: Any) -> None:
        """Change fields of the record of one lane."""
        self.records.change(self.name, lane, **fields)

    def count(self, outcome: SendOutcome, size_bytes: int, objects: int = 1) -> None:
        """Count objects with this outcome."""
        counters = self.counters
        counters.objects.add(objects)
        counters.bytes.add(size_bytes)
        if outcome.fate is Fate.PRESENT:
            counters.present_objects += objects
            counters.present_bytes += size_bytes
        elif outcome.fate is Fate.SKIPPED:
            counters.skipped[outcome.reason] += objects
        elif outcome.fate is Fate.PARKED:
            counters.parked += objects

    def parked(self, seq: int, thing: Digest | EntryKey, label: str, reason: str) -> Parked:
        """Return the row for an object that is parked."""
        digest = thing if isinstance(thing, Digest) else None
        key = thing if isinstance(thing, EntryKey) else None
        return Parked(self.name, seq, digest, key, label, reason, self.clock.wall_s())
