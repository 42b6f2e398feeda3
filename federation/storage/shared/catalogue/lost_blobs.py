"""The record of lost blobs of a site: see federation/core/lost_blobs.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import LeadLost
from federation.core.lost_blobs import Attempt, LostBlob, LostSlice
from federation.core.provenance import Source
from federation.storage.catalogue.blobs import digest_of_key, key_of
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.database_role import DatabaseRole
from federation.storage.shared.catalogue.leads import SiteLeads
from federation.storage.shared.catalogue.rows import SiteRole
from federation.storage.shared.catalogue.texts import clean

# A try in the future, by a clock that was set back, holds nothing up. A blob that came back without
# being asked for is no longer lost. One row has the number of lost blobs where none is due.
_DUE = """
WITH missing AS (
  SELECT * FROM lost WHERE back IS NULL AND NOT EXISTS (SELECT FROM blob WHERE blob.key = lost.key)
)
SELECT n.lost, d.key, d.size, d.source, d.found, d.tries
FROM (SELECT count(*) FROM missing) AS n(lost)
LEFT JOIN LATERAL (
  SELECT * FROM lost WHERE due <= $1 OR due > 0 AND tried > $1 ORDER BY due LIMIT $2
) AS d ON true ORDER BY d.due
"""
_PUT_OFF = "SELECT federation_put_off($1, $2, $3, $4, $5)"
_NOTE_BACK = "SELECT back_key, back_origin FROM federation_note_back($1, $2, $3)"


class SiteLostBlobs:
    """See federation.core.lost_blobs.LostBlobs. Only who has the role can write."""

    def __init__(self, connections: DatabaseConnections, leads: SiteLeads, clock: Clock) -> None:
        self._connections = connections
        self.role = DatabaseRole(leads, SiteRole.HEALING)
        self._clock = clock

    def __repr__(self) -> str:
        return f"<SiteLostBlobs {self.role!r}>"

    async def due(self, now_s: float, limit: int) -> LostSlice:
        """See LostBlobs."""
        rows = await self._connections.ask(_DUE, now_s, limit)
        found = [
            LostBlob(digest_of_key(key, size), Source(source), found_s, tries)
            for _, key, size, source, found_s, tries in rows
            if key is not None
        ]
        return LostSlice(found, rows[0][0])

    async def put_off(self, attempts: Sequence[Attempt]) -> None:
        """See LostBlobs. Raises LeadLost."""
        if not attempts:
            return
        keys = arrays.keys([key_of(each.digest) for each in attempts])
        again = [each.again_at_s for each in attempts]
        reasons = [clean(each.reason) for each in attempts]
        call = (_PUT_OFF, self._term(), keys, again, reasons, self._clock.wall_s())
        await self._connections.ask(*call, twice=False)  # it counts tries

    async def note_back(self, digests: Collection[Digest]) -> dict[Digest, str]:
        """See LostBlobs. Raises LeadLost."""
        if not digests:
            return {}
        by_key = {key_of(digest): digest for digest in digests}
        call = (_NOTE_BACK, self._term(), arrays.keys(list(by_key)), self._clock.wall_s())
        return {by_key[key]: origin for key, origin in await self._connections.ask(*call)}

    def _term(self) -> int:
        if self.role.last is None:
            raise LeadLost("this node has not led the healing of lost blobs")
        return self.role.last.term
