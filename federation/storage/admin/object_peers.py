"""Which peers have an object, and for which it is kept, according to the peer records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import apsw

from federation.core.provenance import Source
from federation.core.replication_log import PeerRecord, PeerState
from federation.storage.catalogue import parked, peer_records, schema

_FIRST_VERSION = 2  # the first schema version with peer records


class LoggedObject(NamedTuple):
    """An object as its newest row in the change log names it."""

    kind: int
    instance: str
    name: bytes
    seq: int
    source: Source | None  # None: the row was trimmed


class ObjectPeers:
    """Answers from peer records, as they are given."""

    def __init__(
        self,
        records: Sequence[PeerRecord],
        parked_because: Callable[[str, LoggedObject], str | None],
    ) -> None:
        """parked_because: returns why an object is parked for a peer; None: it is not."""
        self._records = records
        self._parked_because = parked_because

    def facts(self, of: LoggedObject) -> dict[str, Any]:
        """Return {"peers": [{"name", "answer"}]}; {} if there are no peers."""
        names = sorted({record.name for record in self._records})
        found = [{"name": name, "answer": self._answer(name, of)} for name in names]
        return {"peers": found} if found else {}

    def kept_for(self, of: LoggedObject) -> tuple[str, ...]:
        """Return the names of the peers for which the object is pinned."""
        names = {
            record.name
            for record in peer_records.holding(self._records)
            if of.seq > record.cursor and _is_meant(record, of)
        }
        return tuple(sorted(names))

    def _answer(self, name: str, of: LoggedObject) -> str:
        # First: the cursor passes what is parked, so the peer would look as if it had it.
        if reason := self._parked_because(name, of):
            return f"parked: {reason}"
        lanes = [record for record in self._records if record.name == name]
        if not any(_is_meant(record, of) for record in lanes):
            return "left out: it came from an upstream"
        if any(record.state is PeerState.NEEDS_RESYNC for record in lanes):
            return f"not known: it needs a resync ({_reason(lanes)})"
        if any(of.seq > record.cursor for record in lanes):
            return "not acknowledged yet"
        return "acknowledged, or left out by its rules"


def peers_of_catalogue(connection: apsw.Connection) -> ObjectPeers:
    """Return what the peer records of an open catalogue answer."""
    is_older = schema.stored_version(connection) < _FIRST_VERSION
    records = [] if is_older else peer_records.read(connection)
    return ObjectPeers(
        records,
        lambda peer, of: parked.reason(connection, peer, of.kind, of.instance, of.name),
    )


def _is_meant(record: PeerRecord, of: LoggedObject) -> bool:
    return record.pins_pulled or of.source is not Source.UPSTREAM


def _reason(lanes: Sequence[PeerRecord]) -> str:
    return next(record.reason for record in lanes if record.state is PeerState.NEEDS_RESYNC)
