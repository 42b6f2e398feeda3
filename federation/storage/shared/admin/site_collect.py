"""Eviction on request: the step of eviction is atomic, so a command may do it beside the nodes."""

from __future__ import annotations

from federation.config.storage import StorageConfig
from federation.storage.contract import Progress
from federation.storage.reports import CollectReport
from federation.storage.shared.catalogue.rows import Evicted
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue

_STEP_BYTES = 2**30


async def collect_site(
    catalogue: SiteCatalogue, settings: StorageConfig, progress: Progress, target: int | None
) -> CollectReport:
    """See Operations.collect. Raises SourceUnavailable.

    The node that leads the upkeep deletes the objects one lease later; what waits for that counts
    as freed.
    """
    if target is None:
        target = int((settings.quota or 0) * settings.low_watermark)
    report = CollectReport()
    held = before = await _held(catalogue)
    while held > target:
        done = await catalogue.work.evict(None, min(held - target, _STEP_BYTES))
        held = await _held(catalogue)
        progress(max(0, before - held), before - target)
        if not done.freed_bytes:
            report.held_back = _why(done)
            break
    report.stored_bytes = held
    report.freed_bytes = max(0, before - held)
    return report


async def _held(catalogue: SiteCatalogue) -> int:
    await catalogue.watch.refresh()
    totals = catalogue.watch.totals()
    return totals.cost_bytes - totals.gone_bytes


def _why(done: Evicted) -> str:
    if done.is_paused:
        return "eviction pauses for a lease, because the database was killed or failed over"
    if done.is_pinned:
        return "peers have not acknowledged the rest yet"
    return "everything else is leased or pinned"
