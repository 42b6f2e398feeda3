"""Evicts from a shared site, and deletes from its bucket what has no row any more."""

from __future__ import annotations

import structlog

from federation.storage.shared.catalogue.rows import Lead
from federation.storage.shared.naming import part_names
from federation.storage.shared.site_context import SiteContext
from federation.storage.upkeep.retention import LOG_TOO_LONG, NO_ROOM, REASONS

_log = structlog.get_logger(__name__)
_DELETED_AT_ONCE = 500  # uploads, of one part mostly
_STEP_BYTES = 4 * 2**30  # so that the log of the site is locked for a moment only
_NEEDLESS_ROWS = 100_000  # acknowledged rows of the change log that are kept


class SiteEviction:
    """One step of each kind of work at a time. All methods raise LeadLost, SourceUnavailable.

    The marker is looked at before objects are removed: an older catalogue may have been put back a
    moment ago.
    """

    def __init__(self, core: SiteContext) -> None:
        self._core = core

    async def evict(self, lead: Lead) -> None:
        """Free room once the high watermark is reached, until the low one is."""
        core, settings = self._core, self._core.settings
        quota_bytes = settings.quota or 0
        starts_bytes = quota_bytes * settings.high_watermark
        if self._held_bytes() <= starts_bytes:
            return
        await core.catalogue.watch.refresh()  # what was evicted a moment ago may not be in it yet
        if (held_bytes := self._held_bytes()) <= starts_bytes or await core.marker.is_ahead():
            return
        wanted_bytes = held_bytes - int(quota_bytes * settings.low_watermark)
        while wanted_bytes > 0:
            done = await core.catalogue.work.evict(lead, min(wanted_bytes, _STEP_BYTES))
            wanted_bytes -= done.freed_bytes
            core.metrics.evicted.inc(done.blobs + done.entries)
            core.metrics.evicted_bytes.inc(done.freed_bytes)
            if not done.freed_bytes:
                if done.is_pinned and settings.when_full == "evict":
                    await self._give_up_one(lead)
                return

    def _held_bytes(self) -> int:
        totals = self._core.catalogue.watch.totals()
        return totals.cost_bytes - totals.gone_bytes  # those are on their way out already

    async def delete_gone(self, lead: Lead) -> bool:
        """Delete objects whose time has come; return whether more wait."""
        core = self._core
        due = await core.catalogue.work.gone_due(_DELETED_AT_ONCE)
        if due and not await core.marker.is_ahead():
            await core.bucket.delete([name for each in due for name in part_names(each)])
            await core.catalogue.work.gone_done(lead, due)
            return len(due) == _DELETED_AT_ONCE
        return False

    async def trim_log(self, lead: Lead) -> None:
        """Remove rows of the change log, and records of purges, that are of use to nobody.

        Also those that are too many.
        """
        await self._core.catalogue.work.note_crash()
        rows_max = self._core.settings.log_max_rows
        needless = min(_NEEDLESS_ROWS, rows_max)
        while True:
            done = await self._core.catalogue.work.trim_log(
                lead, rows_max, needless, REASONS[LOG_TOO_LONG]
            )
            for name in done.given_up:
                self._report(name, LOG_TOO_LONG)
            if done.is_done:
                break
        await self._core.catalogue.work.forget_purges(lead, self._core.settings.purge_keep)

    async def _give_up_one(self, lead: Lead) -> None:
        name = await self._core.catalogue.work.give_up_one(lead, REASONS[NO_ROOM])
        if name is not None:  # None: it caught up meanwhile
            self._report(name, NO_ROOM)

    def _report(self, name: str, why: str) -> None:
        """Count and log that a peer has to be compared with all that is held; name: NAME/LANE."""
        peer, _, lane = name.rpartition("/")
        self._core.metrics.peers.given_up.labels(peer=peer, reason=why).inc()
        _log.error("peer_needs_resync", peer=peer, lane=lane, reason=REASONS[why])
