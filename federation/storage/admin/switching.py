"""Turning the offline switch of a data directory, and reading it without changing anything."""

from __future__ import annotations

import asyncio
from pathlib import Path

from federation.config import model
from federation.storage.admin.common import existing, joined, reading
from federation.storage.catalogue.meta import get_meta
from federation.storage.offline_switch import OFFLINE_SINCE


def turn_offline(data_dir: Path, settings: model.StorageConfig, *, on: bool) -> None:
    """Turn the switch for all processes, running or not yet. Raises StorageRefused, StorageFull."""
    asyncio.run(_turn(data_dir, settings, on=on))


async def _turn(data_dir: Path, settings: model.StorageConfig, *, on: bool) -> None:
    async with joined(data_dir, settings) as storage:
        await storage.offline_switch.turn(on=on)


def offline_since_s(data_dir: Path) -> int | None:
    """Return when (wall clock) the switch was turned on; None: it is off. Raises StorageRefused."""
    with reading(existing(data_dir)) as connection:
        since_s: int | None = get_meta(connection, OFFLINE_SINCE)
        return since_s
