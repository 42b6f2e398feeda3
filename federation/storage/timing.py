"""Store time, and the intervals that make leases safe.

Store time orders accesses over processes and restarts, in milliseconds that never step back. It is
the kernel's monotonic clock (the same for all processes until the next boot) plus a base from the
catalogue; after a boot the base is chosen so that store time continues from the latest access. The
wall clock is not involved, so setting it changes no lease and starts no eviction.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from federation.core.clock import Clock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the kernel's id of this boot."""
    return _BOOT_ID.read_text().strip()


class StoreClock:
    """Store time in milliseconds, from a base and the monotonic clock."""

    def __init__(self, clock: Clock, base_ms: int) -> None:
        self._clock = clock
        self._base_ms = base_ms

    def now_ms(self) -> int:
        """Return store time now."""
        return self._base_ms + int(self._clock.monotonic_s() * 1000)


class Timing(NamedTuple):
    """Intervals derived from the lease period; all in milliseconds.

    A lease is a touch: an access time in memory that is written within flush_ms. To keep touches
    cheap, an access time is renewed only when it is older than granularity_ms. Eviction marks its
    candidates, waits for grace_ms (longer than any touch may stay unwritten) and checks again. So
    only objects are evicted that were last touched more than cutoff_age_ms ago.
    """

    lease_ms: int
    granularity_ms: int
    flush_ms: int
    grace_ms: int

    @classmethod
    def for_lease(cls, lease_s: float) -> Timing:
        """Return the intervals for a lease. Three hours give 60 s, 2 s and 10 s."""
        lease_ms = max(1, int(lease_s * 1000))
        return cls(
            lease_ms=lease_ms,
            # An eighth of a short lease, so that it adds little to the age of what is evicted.
            granularity_ms=min(60_000, lease_ms // 8),
            flush_ms=max(20, min(2_000, lease_ms // 8)),
            grace_ms=max(200, min(10_000, lease_ms)),
        )

    @property
    def cutoff_age_ms(self) -> int:
        """How long ago (ms) the last touch must be before an object may be evicted.

        The lease, plus twice the granularity: once for touches that are not renewed, and once for
        results about whole closures, which services cache for that long. Plus the time that an
        answer may take after its look-up, since the lease counts from the answer.
        """
        return self.lease_ms + 2 * self.granularity_ms + self.unflushed_max_ms

    @property
    def unflushed_max_ms(self) -> int:
        """How old (ms) an unwritten touch may get before no new lease is given."""
        return self.grace_ms // 2
