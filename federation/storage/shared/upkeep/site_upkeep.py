"""The work of the node that leads the upkeep: eviction, pins, deletions, marker, sweep and scrub.

Every node stands for the lead and loses it when it cannot be heard. Each write to the catalogue
carries the proof of leading, so that a node that was stopped and wakes up changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from federation.core.errors import LeadLost, SourceUnavailable, StorageRefused
from federation.core.tasks import Background
from federation.storage.shared.catalogue.rows import Lead, SiteRole
from federation.storage.shared.site_context import SiteContext
from federation.storage.shared.upkeep.bucket_check import BucketCheck
from federation.storage.shared.upkeep.bucket_sweep import EVERY_S, BucketSweep
from federation.storage.shared.upkeep.site_eviction import SiteEviction
from federation.storage.shared.upkeep.site_expiry import SiteExpiry
from federation.storage.shared.upkeep.site_pin_keeping import SitePinKeeping
from federation.storage.shared.upkeep.site_redating import SiteRedating
from federation.storage.shared.upkeep.site_scrub import SiteScrub

_EVERY_S = 1.0
_MARK_EVERY_S = 10.0
_TRIM_EVERY_S = 60.0
_DATES_EVERY_S = 10.0
_EXPIRY_EVERY_S = 60.0  # looks whether a round is due

_log = structlog.get_logger(__name__)
_Step = Callable[[Lead], Awaitable[None]]


class SiteUpkeep:
    """Runs from start() to close(); does nothing while another node leads."""

    def __init__(self, core: SiteContext) -> None:
        self._core = core
        self._eviction = SiteEviction(core)
        self._redating = SiteRedating(core)
        self._scrub = SiteScrub(core)
        self._sweep = BucketSweep(core, random.SystemRandom())
        self._expiry = SiteExpiry(core)
        self.pins = SitePinKeeping(core)
        self._compared_term: int | None = None  # the term in which the bucket was compared
        self._tasks = Background()

    def start(self) -> None:
        """Begin."""
        self._keep("site-eviction", _EVERY_S, self._evict)
        self._keep("site-marker", _MARK_EVERY_S, self.mark)
        self._keep("site-log", _TRIM_EVERY_S, self._eviction.trim_log)
        self._keep("site-dates", _DATES_EVERY_S, self._redate)
        self._keep("site-pins", _EVERY_S, self.pins.step)
        self._keep("site-expiry", _EXPIRY_EVERY_S, self._expire)
        self._keep("bucket-deletions", _EVERY_S, self._delete_gone)
        self._keep("bucket-sweep", EVERY_S, self._sweep_next)
        self._keep("bucket-scrub", _EVERY_S, self._scrub_on)

    async def close(self) -> None:
        """Stop, and let another node lead at once."""
        await self._tasks.close()
        self._core.catalogue.leads.resign(SiteRole.UPKEEP)

    def _keep(self, name: str, every_s: float, step: _Step) -> None:
        core = self._core
        work: Callable[[], Coroutine[Any, Any, None]] = partial(self._repeat, every_s, step)
        self._tasks.keep(work, name, core.clock, core.metrics.failing)

    async def _repeat(self, every_s: float, step: _Step) -> None:
        while True:
            lead = self._core.catalogue.leads.lead(SiteRole.UPKEEP)
            if lead is None:
                await self._core.clock.sleep(_EVERY_S)
            else:
                try:
                    await step(lead)
                except (LeadLost, SourceUnavailable) as error:
                    # Catalogue and bucket report their own trouble; another node may lead by now.
                    _log.debug("upkeep_interrupted", reason=str(error))
                await self._core.clock.sleep(every_s)

    async def _evict(self, lead: Lead) -> None:
        if self._compared_term == lead.term:
            await self._eviction.evict(lead)

    async def _expire(self, lead: Lead) -> None:
        if self._compared_term == lead.term and not await self._core.marker.is_ahead():
            await self._expiry.step(lead)

    async def _delete_gone(self, lead: Lead) -> None:
        if self._compared_term == lead.term:
            while await self._eviction.delete_gone(lead):
                pass

    async def _sweep_next(self, lead: Lead) -> None:
        if self._compared_term == lead.term and not await self._core.marker.is_ahead():
            await self._sweep.sweep_next()

    async def _redate(self, lead: Lead) -> None:
        await self._redating.check(lead)

    async def _scrub_on(self, _lead: Lead) -> None:
        await self._scrub.step()

    async def mark(self, lead: Lead) -> None:
        """Compare the catalogue with the marker, and keep the marker up to date.

        An older catalogue may be put back while nodes run: then the lead is still the same.
        """
        marker = self._core.marker
        try:
            await marker.check()
            if self._compared_term != lead.term or await marker.is_ahead():
                self._compared_term = None
                await self._compare(lead)
        except StorageRefused as error:
            _log.error("bucket_refused", reason=str(error))
            return
        # The comparison may have taken hours.
        if self._core.catalogue.leads.lead(SiteRole.UPKEEP) == lead:
            await marker.write()

    async def _compare(self, lead: Lead) -> None:
        """Find out whether an older catalogue was put back; if so, check every object first.

        Until that is done nothing is evicted or deleted, also by the next lead.
        """
        marker, work = self._core.marker, self._core.catalogue.work
        facts = await marker.read()
        if await marker.is_ahead():
            epoch = await work.begin_epoch(lead)
            _log.error(
                "older_catalogue_put_back",
                head=self._core.catalogue.watch.row.seq,
                head_before=facts.head,
                log_epoch=epoch,
            )
            await marker.write(is_checking=True)
            facts = facts._replace(is_checking=True)
        if facts.is_checking:
            absent = await BucketCheck(self._core).check_all()
            _log.warning("older_catalogue_checked", blobs_set_aside=absent)
        self._compared_term = lead.term
