"""Removes entries of a site that were not used for too long: storage.expire-after."""

from __future__ import annotations

import structlog

from federation.core.index import EntryKind
from federation.storage.entry_age import max_unused_ms
from federation.storage.shared.catalogue.rows import Lead
from federation.storage.shared.site_context import SiteContext
from federation.storage.upkeep.expiry import ExpiryRounds

_LOOKED_AT = 1000  # entries at once, so that the row of the site is locked for a moment only
_EXPIRE = "SELECT last, removed FROM federation_expire($1, $2, $3, $4, $5, $6, $7)"

_log = structlog.get_logger(__name__)


class SiteExpiry:
    """Used by the lead of the upkeep. See storage/upkeep/expiry.py."""

    def __init__(self, core: SiteContext) -> None:
        self._core = core
        self._rounds = ExpiryRounds()

    def __repr__(self) -> str:
        return f"<SiteExpiry of {len(self._core.settings.expire_after)} instances>"

    async def step(self, lead: Lead) -> None:
        """Begin a round if one is due. Raises as round()."""
        now_s = self._core.clock.monotonic_s()
        if self._rounds.begin(self._core.settings.expire_after, now_s):
            await self.round(lead)

    async def round(self, lead: Lead) -> int:
        """Remove what has expired; return how many entries. Raises LeadLost, SourceUnavailable.

        None are while eviction pauses, as leases may have been lost.
        """
        removed = {
            instance: count
            for instance, age_s in self._core.settings.expire_after.items()
            if (count := await self._expire(lead, instance.encode(), age_s))
        }
        self._core.metrics.keeping.expired.inc(sum(removed.values()))
        if removed:
            _log.info("entries_expired", count=sum(removed.values()), instances=removed)
        return sum(removed.values())

    async def _expire(self, lead: Lead, instance: bytes, age_s: float) -> int:
        catalogue, count = self._core.catalogue, 0
        leased_ms = catalogue.settings.evictable_ms
        bounds = (_LOOKED_AT, max_unused_ms(age_s, leased_ms), leased_ms)
        for kind in EntryKind:
            after: bytes | None = b""
            while after is not None:
                after, removed = await catalogue.connections.ask_one(
                    _EXPIRE, lead.term, int(kind), instance, after, *bounds
                )
                count += removed
        return count
