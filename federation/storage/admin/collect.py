"""Eviction on request: by the node that maintains the directory, or here if there is none."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

from federation.config import model
from federation.storage.admin.common import joined
from federation.storage.catalogue.transaction import DONE, REQUEST, get_meta, set_meta
from federation.storage.contract import Progress
from federation.storage.reports import CollectReport
from federation.storage.storage import Storage

_POLL_S = 0.2


def collect(
    data_dir: Path, settings: model.StorageConfig, progress: Progress, *, target_bytes: int | None
) -> CollectReport:
    """Evict until at most target_bytes are held (None: the low watermark of the quota).

    Raises StorageRefused.
    """
    return asyncio.run(_collect(data_dir, settings, progress, target_bytes))


async def _collect(
    data_dir: Path, settings: model.StorageConfig, progress: Progress, target_bytes: int | None
) -> CollectReport:
    async with joined(data_dir, settings) as storage:
        space = storage.core.space
        before = space.stored_bytes
        if target_bytes is None:
            target_bytes = space.marks.target_bytes
        report = CollectReport()
        if await storage.maintenance.try_to_hold():
            report.files_removed = await storage.maintenance.sweep_all()
            await _evict_here(storage, target_bytes, before, progress)
            report.held_back = storage.maintenance.held_back
        else:
            report.by_running_node = True
            report.held_back = await _ask(storage, target_bytes, before, progress)
        await storage.flusher.measure()
        report.stored_bytes = space.stored_bytes
        report.freed_bytes = max(0, before - space.stored_bytes)
        # What held eviction back does not matter once the target was met.
        if report.stored_bytes <= target_bytes:
            report.held_back = ""
        return report


async def _evict_here(storage: Storage, target_bytes: int, before: int, progress: Progress) -> None:
    await storage.maintenance.evict(target_bytes)
    while storage.maintenance.eviction_pending:
        await asyncio.sleep(_POLL_S)
        await storage.maintenance.delete_due()
        progress(before - storage.core.space.stored_bytes, max(0, before - target_bytes))


async def _ask(storage: Storage, target_bytes: int, before: int, progress: Progress) -> str:
    """Write the request for the node that maintains the directory, and wait for its answer.

    Returns why less was freed than requested; empty: it was not.
    """
    core = storage.core
    request = {"id": uuid.uuid4().hex, "target_bytes": target_bytes}
    await core.writer.submit(lambda tx: set_meta(tx, REQUEST, json.dumps(request)))
    while True:
        await asyncio.sleep(_POLL_S)
        await storage.flusher.measure()
        progress(max(0, before - core.space.stored_bytes), max(0, before - target_bytes))
        text = await core.pool.run(lambda: get_meta(core.pool.connection(), DONE))
        done = json.loads(text) if text else {}
        if done.get("id") == request["id"]:
            return str(done["held_back"])
        if await storage.maintenance.try_to_hold():  # that node has stopped
            await _evict_here(storage, target_bytes, before, progress)
            return storage.maintenance.held_back
