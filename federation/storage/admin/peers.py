"""What is remembered of each peer, read without changing anything."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from federation.core.clock import Clock, SystemClock, utc_text
from federation.core.replication_log import Lane, Parked, PeerRecord, PeerState
from federation.storage.admin.common import existing, reading
from federation.storage.catalogue import change_log, parked, peer_records, schema
from federation.storage.catalogue.transaction import read_totals

_FIRST_VERSION = 2  # of the schema; before it nothing was remembered of peers


class Lag(NamedTuple):
    """The rows of the change log that a peer has not acknowledged; some are not meant for it."""

    objects: int
    size_bytes: int
    oldest_s: float  # age of the oldest of them; 0: there is none


class KnownPeer(NamedTuple):
    """One peer as the catalogue knows it."""

    name: str
    lanes: dict[Lane, PeerRecord]
    lags: dict[Lane, Lag]  # of the lanes that follow the log: what others lack is not known
    parked: int

    @property
    def main(self) -> PeerRecord:
        """The record of what is sent at any time, if there is one."""
        return self.lanes.get(Lane.ALWAYS) or next(iter(self.lanes.values()))

    @property
    def is_whole(self) -> bool:
        """Whether it has acknowledged all there is, and refused none of it."""
        following = all(each.state is PeerState.FOLLOWING for each in self.lanes.values())
        return following and not self.parked and not any(lag.objects for lag in self.lags.values())

    @property
    def asked(self) -> int:
        """How many reconciles people have asked for."""
        return self.main.wanted

    @property
    def done(self) -> int:
        """How many of these have been done; what waits for a window is not waited for."""
        return self.main.served

    @property
    def sent_objects(self) -> int:
        """How many objects it was ever sent."""
        return sum(record.sent_objects for record in self.lanes.values())

    @property
    def sent_bytes(self) -> int:
        """Their bytes."""
        return sum(record.sent_bytes for record in self.lanes.values())

    def as_dict(self) -> dict[str, Any]:
        """Return what is shown."""
        main = self.main
        shown = {
            "name": self.name,
            **_lane(main, self.lags.get(main.lane)),
            "parked": self.parked,
            "sent-objects-total": self.sent_objects,
            "sent-bytes-total": self.sent_bytes,
            "last-success": _date(max(r.last_success_s for r in self.lanes.values())),
            **_last_error(self.lanes.values()),
            "node-id": main.node_id or None,
            "reconciles-waiting": max(0, self.asked - self.done),
        }
        held_back = self.lanes.get(Lane.WINDOW)
        if held_back is not None and held_back is not main:
            shown["window"] = _lane(held_back, self.lags.get(Lane.WINDOW))
        return shown


def _lane(record: PeerRecord, lag: Lag | None) -> dict[str, Any]:
    return {
        "state": record.state.value,
        **({"reason": record.reason} if record.reason else {}),
        "lag-objects": None if lag is None else lag.objects,
        "lag-bytes": None if lag is None else lag.size_bytes,
        "lag-s": None if lag is None else round(lag.oldest_s, 1),
    }


def _last_error(records: Iterable[PeerRecord]) -> dict[str, Any]:
    last = max(records, key=lambda record: record.last_error_s)
    return {"last-error": last.last_error or None, "last-error-at": _date(last.last_error_s)}


def _date(wall_s: float) -> str | None:
    return utc_text(wall_s) if wall_s else None


def known_peers(data_dir: Path) -> list[KnownPeer]:
    """Return every peer that was ever met and not dropped, by name. Raises StorageRefused."""
    with reading(existing(data_dir)) as connection:
        return peers_of(connection, SystemClock())


def peers_of(connection: apsw.Connection, clock: Clock) -> list[KnownPeer]:
    """Return the same from an open catalogue."""
    if schema.stored_version(connection) < _FIRST_VERSION:
        return []
    records = peer_records.read(connection)
    counts = parked.counts(connection)
    return [
        KnownPeer(
            name,
            {each.lane: each for each in records if each.name == name},
            {
                each.lane: _lag(connection, each.cursor, clock)
                for each in records
                if each.name == name and each.state is PeerState.FOLLOWING
            },
            counts.get(name, 0),
        )
        for name in sorted({record.name for record in records})
    ]


def _lag(connection: apsw.Connection, cursor: int, clock: Clock) -> Lag:
    totals = read_totals(connection)
    row: Any = connection.execute(
        "SELECT stored FROM log WHERE seq > ? ORDER BY seq LIMIT 1", (cursor,)
    ).fetchone()
    return Lag(
        max(0, totals.seq - cursor),
        max(0, totals.logged_bytes - change_log.total_bytes(connection, cursor)),
        max(0.0, clock.wall_s() - row[0]) if row else 0.0,
    )


def read_parked(data_dir: Path, name: str | None, limit: int) -> list[Parked]:
    """Return what is parked, oldest first, for one peer or all. Raises StorageRefused."""
    with reading(existing(data_dir)) as connection:
        if schema.stored_version(connection) < _FIRST_VERSION:
            return []
        return parked.read(connection, name, limit)
