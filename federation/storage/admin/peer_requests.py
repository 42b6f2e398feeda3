"""What people ask for about peers. It is written down; the process that replicates does it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from federation.config import model
from federation.storage.admin.common import joined
from federation.storage.replication_log import CatalogueLog

_T = TypeVar("_T")


def ask_retry(data_dir: Path, settings: model.StorageConfig, name: str | None) -> int:
    """Ask that what is parked, for one peer or all, be tried again; return how much it is.

    All functions here raise StorageRefused, StorageFull, StorageFailed.
    """
    return _with_ledger(data_dir, settings, lambda ledger: ledger.ask_retry(name))


def ask_reconcile(data_dir: Path, settings: model.StorageConfig, name: str) -> None:
    """Ask that a peer be compared with what is held here, and be sent what it lacks."""
    _with_ledger(data_dir, settings, lambda ledger: ledger.want(name))


def drop_peer(data_dir: Path, settings: model.StorageConfig, name: str) -> None:
    """Forget a peer, what is pinned for it, and what is parked for it."""
    _with_ledger(data_dir, settings, lambda ledger: ledger.drop(name))


def _with_ledger(
    data_dir: Path, settings: model.StorageConfig, work: Callable[[CatalogueLog], Awaitable[_T]]
) -> _T:
    async def join() -> _T:
        async with joined(data_dir, settings) as storage:
            return await work(storage.ledger)

    return asyncio.run(join())
