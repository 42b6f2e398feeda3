"""Peers, for commands: what is recorded of each, and requests concerning them.

A request is written to the catalogue; the process that replicates carries it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw

from federation.config import model
from federation.core.clock import Clock, SystemClock
from federation.core.replication_log import Parked, PeerState
from federation.storage.admin.common import existing, joined, reading
from federation.storage.catalogue import change_log, parked, peer_records, schema
from federation.storage.catalogue.transaction import read_totals
from federation.storage.replication_log import CatalogueLog
from federation.storage.reports import KnownPeer, Lag

_T = TypeVar("_T")

_FIRST_VERSION = 2  # the first schema version with peer records


def known_peers(data_dir: Path) -> list[KnownPeer]:
    """Return every known peer that was not dropped, sorted by name. Raises StorageRefused."""
    with reading(existing(data_dir)) as connection:
        return peers_of(connection, SystemClock())


def peers_of(connection: apsw.Connection, clock: Clock) -> list[KnownPeer]:
    """Return every known peer from an open catalogue, sorted by name."""
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
    """Return up to limit parked objects, oldest first; name None: of all peers.

    Raises StorageRefused.
    """
    with reading(existing(data_dir)) as connection:
        if schema.stored_version(connection) < _FIRST_VERSION:
            return []
        return parked.read(connection, name, limit)


def ask_retry(data_dir: Path, settings: model.StorageConfig, name: str | None) -> int:
    """Request a retry of parked objects (name None: of all peers); return their number.

    This and the following functions raise StorageRefused, StorageFull, StorageFailed.
    """
    return _with_ledger(data_dir, settings, lambda ledger: ledger.ask_retry(name))


def ask_reconcile(data_dir: Path, settings: model.StorageConfig, name: str) -> None:
    """Request a reconcile of a peer: compare what it holds, and send what it lacks."""
    _with_ledger(data_dir, settings, lambda ledger: ledger.want(name))


def drop_peer(data_dir: Path, settings: model.StorageConfig, name: str) -> None:
    """Forget a peer, and everything that is pinned or parked for it."""
    _with_ledger(data_dir, settings, lambda ledger: ledger.drop(name))


def _with_ledger(
    data_dir: Path, settings: model.StorageConfig, work: Callable[[CatalogueLog], Awaitable[_T]]
) -> _T:
    async def join() -> _T:
        async with joined(data_dir, settings) as storage:
            return await work(storage.ledger)

    return asyncio.run(join())
