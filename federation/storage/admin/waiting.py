"""Which peers have an object, and which it is kept for, as far as their records tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from federation.core.replication_log import PeerRecord, PeerState
from federation.core.store import Source
from federation.storage.catalogue import parked, peer_records, schema

_FIRST_VERSION = 2  # of the schema; before it nothing was remembered of peers


class LoggedObject(NamedTuple):
    """An object by its newest row in the change log."""

    kind: int
    instance: str
    name: bytes
    seq: int
    source: Source | None  # None: the row was trimmed


class Waiting:
    """What was remembered of peers when this was made."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        is_older = schema.stored_version(connection) < _FIRST_VERSION
        self._records = [] if is_older else peer_records.read(connection)

    def facts(self, of: LoggedObject) -> dict[str, Any]:
        """Return {"peers": [{"name", "answer"}]}; nothing where there is no peer."""
        names = sorted({record.name for record in self._records})
        found = [{"name": name, "answer": self._answer(name, of)} for name in names]
        return {"peers": found} if found else {}

    def kept_for(self, of: LoggedObject) -> tuple[str, ...]:
        """Return the peers that keep it from being evicted."""
        names = {
            record.name
            for record in peer_records.holding(self._records)
            if of.seq > record.cursor and _is_meant(record, of)
        }
        return tuple(sorted(names))

    def _answer(self, name: str, of: LoggedObject) -> str:
        if reason := parked.reason(self._connection, name, of.kind, of.instance, of.name):
            return f"parked: {reason}"
        lanes = [record for record in self._records if record.name == name]
        if not any(_is_meant(record, of) for record in lanes):
            return "left out: it came from an upstream"
        if any(record.state is PeerState.NEEDS_RESYNC for record in lanes):
            return f"not known: it needs a resync ({_reason(lanes)})"
        if any(of.seq > record.cursor for record in lanes):
            return "not acknowledged yet"
        return "acknowledged, or left out by its rules"


def _is_meant(record: PeerRecord, of: LoggedObject) -> bool:
    return record.pins_pulled or of.source is not Source.UPSTREAM


def _reason(lanes: Sequence[PeerRecord]) -> str:
    return next(record.reason for record in lanes if record.state is PeerState.NEEDS_RESYNC)
