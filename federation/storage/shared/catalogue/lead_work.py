"""What the lead of the upkeep does in the catalogue: eviction, deletions, trimming of the log."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import NamedTuple

from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.blobs import objects_of
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.rows import BlobObject, Evicted, Lead, SiteRole
from federation.storage.shared.catalogue.settings import CatalogueSettings

_ROWS = 1000  # of one step, so that no upload waits long for the lock of the site
_TRIM_ROWS = 10_000
_GONE = """
SELECT key, attempt, size FROM gone
WHERE due_ms <= (SELECT now_ms FROM clock) ORDER BY due_ms LIMIT $1
"""
_EVICT = """
SELECT blobs, entries, freed, is_paused, is_pinned FROM federation_evict($1, $2, $3, $4, $5, $6)
"""
_TRIM = "SELECT removed, marked FROM federation_trim($1, $2, $3, $4, $5, $6)"


class SiteTrim(NamedTuple):
    """The result of one step of trimming the change log."""

    rows: int
    is_done: bool  # no more rows are to be removed now
    given_up: Sequence[str]  # NAME/LANE of peers that needed these rows


class LeadWork:
    """All methods raise LeadLost (nothing was changed), SourceUnavailable."""

    def __init__(self, connections: DatabaseConnections, settings: CatalogueSettings) -> None:
        self._connections = connections
        self._settings = settings

    def __repr__(self) -> str:
        return f"<LeadWork over {self._connections!r}>"

    async def evict(self, lead: Lead | None, most_bytes: int) -> Evicted:
        """Remove the least recently used objects until most_bytes are freed, in one bounded step.

        lead: None for a command, which may do it beside the lead.

        Nothing that is leased or that a peer waits for. The objects of large blobs are deleted one
        lease later, when slow readers have finished; until then they count against the quota.
        """
        times = (self._settings.evictable_ms, self._settings.lease_ms)
        by = (SiteRole.UPKEEP.value, None) if lead is None else lead_of(lead)
        row = await self._connections.ask_one(_EVICT, *by, most_bytes, _ROWS, *times)
        return Evicted(*row)

    async def note_crash(self) -> None:
        """Begin the pause of eviction, if a crash of the database may have taken leases.

        Otherwise it would begin when room is needed, however long ago the crash was.
        """
        call = "SELECT FROM federation_clock_of_leases($1)"
        await self._connections.ask(call, self._settings.evictable_ms)

    async def gone_due(self, limit: int) -> list[BlobObject]:
        """Return objects that are to be deleted from the bucket now, the oldest first."""
        return objects_of(await self._connections.ask(_GONE, limit))

    async def gone_done(self, lead: Lead, objects: Sequence[BlobObject]) -> None:
        """Forget objects that are deleted."""
        if not objects:
            return
        keys = arrays.keys([key_of(each.digest) for each in objects])
        attempts = arrays.blobs([each.attempt for each in objects])
        call = "SELECT federation_gone_done($1, $2, $3, $4)"
        await self._connections.ask(call, *lead_of(lead), keys, attempts)

    async def trim_log(self, lead: Lead, rows_max: int, needless_max: int, reason: str) -> SiteTrim:
        """Remove some of the oldest rows of the log, so that rows_max are left.

        And needless_max of those that every peer has acknowledged. reason: what the records of
        peers say that needed the rows.
        """
        bounds = (rows_max, needless_max, _TRIM_ROWS, reason)
        rows, marked = await self._connections.ask_one(_TRIM, *lead_of(lead), *bounds)
        return SiteTrim(rows, rows < _TRIM_ROWS, marked or ())

    async def forget_purges(self, lead: Lead, keep_s: float) -> int:
        """Forget records that were not used for keep_s and that every peer was told of.

        Returns how many were forgotten, in one bounded step.
        """
        call = "SELECT federation_forget_purges($1, $2, $3, $4)"
        (forgotten,) = await self._connections.ask_one(
            call, *lead_of(lead), int(keep_s * 1000), _ROWS
        )
        return int(forgotten)

    async def give_up_one(self, lead: Lead, reason: str) -> str | None:
        """Keep nothing any more for the peer that lags most; return NAME/LANE, None: all caught up.

        reason: what its record says. A reconcile brings it up to date.
        """
        call = "SELECT federation_give_up_one($1, $2, $3)"
        (given_up,) = await self._connections.ask_one(call, *lead_of(lead), reason)
        return None if given_up is None else str(given_up)

    async def begin_epoch(self, lead: Lead) -> str:
        """Begin a new epoch of the change log, and return its name: peers compare all they hold."""
        epoch = uuid.uuid4().hex
        call = "SELECT federation_begin_epoch($1, $2, $3)"
        await self._connections.ask(call, *lead_of(lead), epoch)
        return epoch


def lead_of(lead: Lead) -> tuple[str, int]:
    """Return the values by which a function of the database checks a lead."""
    return lead.role.value, lead.term
