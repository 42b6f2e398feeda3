"""Pins, for commands: making and removing them beside the nodes of a directory, and listing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from federation.config import model
from federation.config.types import share_of
from federation.core.clock import SystemClock
from federation.core.pins import ClosureWalk, Pin, PinReport, PinsReport, PinTarget
from federation.storage.admin.common import existing, joined, reading, room_of
from federation.storage.catalogue import keepings, pins
from federation.storage.pin_tables import facts_of_pins, reports_of


def pin(data_dir: Path, settings: model.StorageConfig, wanted: Pin, walk: ClosureWalk) -> PinReport:
    """See Operations."""

    async def work() -> PinReport:
        async with joined(data_dir, settings) as storage:
            return await storage.ledger.pins.pin(wanted, storage.pin_walker(walk))

    return asyncio.run(work())


def unpin(
    data_dir: Path, settings: model.StorageConfig, targets: Sequence[PinTarget], by: str
) -> list[Pin]:
    """See Operations."""

    async def work() -> list[Pin]:
        async with joined(data_dir, settings) as storage:
            return await storage.ledger.pins.unpin(targets, by)

    return asyncio.run(work())


def list_pins(data_dir: Path, settings: model.StorageConfig) -> PinsReport:
    """See Operations. Raises StorageRefused."""
    directory = existing(data_dir)
    with reading(directory) as connection:
        quota_bytes = room_of(directory, settings, connection).marks.quota_bytes
        most = share_of(settings.pins_max, quota_bytes)
        live, kept = pins.live(connection, SystemClock().wall_s()), keepings.totals(connection)
        return PinsReport(reports_of(live, kept), keepings.total_bytes(connection), most)


def pin_facts(connection: apsw.Connection, max_bytes: int) -> dict[str, Any]:
    """Return the sums that `federation status` shows."""
    live = pins.live(connection, SystemClock().wall_s())
    kept = keepings.totals(connection)
    return facts_of_pins(live, kept, keepings.total_bytes(connection), max_bytes)
