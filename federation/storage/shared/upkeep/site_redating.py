"""Gives new stamps to entries of a site that a wrong clock has dated too far ahead.

See storage/upkeep/redating.py. Any node's clock can have been wrong, also that of the one which
leads: nothing is done unless its clock and the database's agree.
"""

from __future__ import annotations

import structlog

from federation.core.clock import utc_text
from federation.storage.shared.catalogue.lead_work import lead_of
from federation.storage.shared.catalogue.rows import Lead
from federation.storage.shared.site_context import SiteContext
from federation.storage.upkeep import dates_ahead
from federation.storage.upkeep.dates_ahead import DatesAhead

_ROWS_READ = 5000
_PURGES_AT_ONCE = 200
_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"
_ENTRIES = """
SELECT kind, instance, name, dated, newest
FROM federation_redate_entries($1, $2, $3, $4, $5, $6, $7, $8)
"""
_PURGES = "SELECT federation_redate_purges($1, $2, $3, $4, $5)"
_SETTLE = "SELECT federation_settle_ticks($1, $2, $3, $4, $5, $6)"

_log = structlog.get_logger(__name__)


class SiteRedating:
    """Corrects stamps that are too far ahead; used by the lead of the upkeep."""

    def __init__(self, core: SiteContext) -> None:
        self._core = core
        self._drift_s = core.catalogue.settings.drift_s
        self._dates = DatesAhead(self._drift_s)

    def __repr__(self) -> str:
        return f"<SiteRedating, {self._dates!r}>"

    async def check(self, lead: Lead) -> int:
        """Redate entries if stamps have been too far ahead for STEADY_S; return how many.

        Raises LeadLost, SourceUnavailable.
        """
        clock = self._core.clock
        wall_s = clock.wall_s()
        ahead_s = (self._core.catalogue.watch.row.ticks >> 16) / 1000 - wall_s
        self._core.metrics.dates_ahead.set(max(0.0, ahead_s))
        if self._dates.found(ahead_s, clock.monotonic_s()):
            _log.warning(
                "dates_ahead",
                ahead_s=round(ahead_s),
                clock=utc_text(wall_s),
                text="the clock of a node of this site is wrong, or was wrong when entries were "
                "stamped; if it is not corrected, they get new stamps",
                in_s=dates_ahead.STEADY_S,
            )
        if not self._dates.are_steady(wall_s, clock.monotonic_s()):
            return 0
        (database_s,) = await self._core.catalogue.connections.ask_one(_CLOCK)
        if abs(database_s - wall_s) > self._drift_s:
            return 0  # dates_ahead told of it; one of the two is wrong
        count = await self._redate(lead)
        self._dates.forget()
        self._core.metrics.redated.inc(count)
        _log.warning("entries_redated", count=count, ahead_s=round(ahead_s))
        return count

    async def _redate(self, lead: Lead) -> int:
        ask_one = self._core.catalogue.connections.ask_one
        first = self._core.catalogue.watch.row.seq
        # Before the entries, so that a value that was pushed after a purge stays later than that.
        purges = _PURGES_AT_ONCE
        while purges == _PURGES_AT_ONCE:
            (purges,) = await ask_one(_PURGES, *self._now(lead), _PURGES_AT_ONCE)
        after: tuple[int, bytes, bytes] = (0, b"", b"")
        count: int = 0
        newest: int = 0
        while True:
            kind, instance, name, dated, newest_here = await ask_one(
                _ENTRIES, *self._now(lead), *after, _ROWS_READ
            )
            count += dated
            newest = max(newest, newest_here)
            if kind is None:
                break
            after = (kind, instance, name)
        await ask_one(_SETTLE, *self._now(lead), newest, first)
        return count

    def _now(self, lead: Lead) -> tuple[object, ...]:
        return (*lead_of(lead), self._core.clock.wall_s(), self._drift_s)
