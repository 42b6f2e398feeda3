"""What a node needs to know to use the site's catalogue."""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.storage.catalogue.hlc import DRIFT_S

_GRANULARITY_MAX_MS = 15 * 60_000


@dataclass(frozen=True, slots=True)
class CatalogueSettings:
    """How to reach the database, and the times that all nodes of a site have to agree on."""

    url: str = field(repr=False)  # may have a password in it
    lease_s: float
    drift_s: float = DRIFT_S  # how far a stamp may be ahead of the wall clock
    connections_max: int = 8
    call_s: float = 10.0  # how long one answer of the database may take

    @property
    def lease_ms(self) -> int:
        """How long an object stays after somebody was told that it is here."""
        return max(1, int(self.lease_s * 1000))

    @property
    def granularity_ms(self) -> int:
        """How old a lease may be before it is renewed: renewing each time would write too much."""
        return max(1, min(_GRANULARITY_MAX_MS, self.lease_ms // 4))

    @property
    def evictable_ms(self) -> int:
        """How long ago the last lease must be before an object may be evicted.

        The lease, plus the granularity twice: a lease that is not renewed may be that old, and what
        the catalogue said is given out, and believed by caches, for up to half of it each.
        """
        return self.lease_ms + 2 * self.granularity_ms
