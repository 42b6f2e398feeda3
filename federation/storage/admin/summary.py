"""What is stored, which processes serve it, and the offline switch, for commands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw

from federation.config import model
from federation.config.types import share_of
from federation.core.clock import SystemClock
from federation.storage.admin.common import existing, joined, reading, room_of
from federation.storage.admin.healing import healing_facts
from federation.storage.admin.peers import peers_of
from federation.storage.admin.pins import pin_facts
from federation.storage.catalogue import lost, purges, schema
from federation.storage.catalogue.transaction import HOLD, get_meta, read_totals
from federation.storage.offline_switch import OFFLINE_SINCE
from federation.storage.processes import live_runs
from federation.storage.space import in_all, measure_disk
from federation.storage.timing import boot_id

_QUARANTINE_SHOWN = 20  # also of what is lost, and of what is back


def processes(data_dir: Path) -> list[dict[str, Any]]:
    """Return what each process that serves this directory now has published.

    Raises StorageRefused if there is no data directory.
    """
    return live_runs(existing(data_dir))


def summary(data_dir: Path, settings: model.StorageConfig) -> dict[str, Any]:
    """See Operations.summary.

    Raises StorageRefused if there is no data directory or its catalogue cannot be read.
    """
    directory = existing(data_dir)
    facts: dict[str, Any] = {
        "data-dir": str(data_dir),
        "processes": live_runs(directory),
        "disk": {"free-bytes": measure_disk(data_dir).free_bytes},
    }
    with reading(directory) as connection:
        facts |= _stored(connection)
        room = room_of(directory, settings, connection)
        facts["pins"] = pin_facts(connection, share_of(settings.pins_max, room.marks.quota_bytes))
    quota_bytes = in_all(settings, room.marks, room.overhead)
    return {**facts, "held-bytes": room.held, "quota-bytes": quota_bytes}


def _stored(connection: apsw.Connection) -> dict[str, Any]:
    totals = read_totals(connection)
    first: Any = connection.execute("SELECT min(seq) FROM log").fetchone()
    damaged: Any = connection.execute("SELECT count(*) FROM quarantine").fetchone()
    recent: Any = connection.execute(
        "SELECT lower(hex(substr(key, 2))), size, reason FROM quarantine ORDER BY id DESC LIMIT ?",
        (_QUARANTINE_SHOWN,),
    ).fetchall()
    missing, back, back_count = lost.shown(connection, _QUARANTINE_SHOWN)
    return {
        "node-id": get_meta(connection, "node_id"),
        "offline-switch": "off" if get_meta(connection, OFFLINE_SINCE) is None else "on",
        "schema-version": schema.stored_version(connection),
        "sqlite-version": apsw.sqlite_lib_version(),
        "bytes": totals.size_bytes,
        "blobs": totals.blobs,
        "entries": totals.entries,
        "purges": purges.count(connection),
        "change-log": {
            "last": totals.seq,
            # Numbers are dense from the first row kept, so nothing has to be counted.
            "rows": totals.seq - (first[0] or totals.seq + 1) + 1,
        },
        "eviction-held-until-ms": _hold(connection),
        "quarantine": {
            "blobs": damaged[0],
            "newest": [f"{name}/{size}: {reason}" for name, size, reason in recent],
        },
        "healing": healing_facts(lost.count(connection), back_count, missing, back),
        "peers": [peer.as_dict() for peer in peers_of(connection, SystemClock())],
    }


def _hold(connection: apsw.Connection) -> int | None:
    """Return until when eviction pauses (store ms); None if that was not set since the boot."""
    # Store time is counted anew since the boot, so the number would be compared with another clock.
    if get_meta(connection, "boot_id") != boot_id():
        return None
    hold: int | None = get_meta(connection, HOLD)
    return hold


def turn_offline(data_dir: Path, settings: model.StorageConfig, *, on: bool) -> None:
    """Turn the offline switch for all processes, including those started later.

    Raises StorageRefused, StorageFull, StorageFailed.
    """
    asyncio.run(_turn(data_dir, settings, on=on))


async def _turn(data_dir: Path, settings: model.StorageConfig, *, on: bool) -> None:
    async with joined(data_dir, settings) as storage:
        await storage.offline_switch.turn(on=on)


def offline_since_s(data_dir: Path) -> int | None:
    """Return when the offline switch was turned on (wall clock, s); None: it is off.

    Raises StorageRefused.
    """
    with reading(existing(data_dir)) as connection:
        since_s: int | None = get_meta(connection, OFFLINE_SINCE)
        return since_s
