"""The only module that reads the system's clocks: others take a Clock.

Intervals (leases, idle times, backoff) use monotonic_s, which is not affected when the clock is
set. Only dates that clients give, such as an asset's expiry, are compared with wall_s.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed point; the same point for every process until the next boot."""
        ...

    def wall_s(self) -> float:
        """Seconds since 1970-01-01 UTC, as the operator set the machine's clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        """See Clock."""
        return time.monotonic()  # noqa: TID251 - this is its home

    def wall_s(self) -> float:
        """See Clock."""
        return time.time()  # noqa: TID251 - this is its home

    async def sleep(self, seconds: float) -> None:
        """See Clock."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock for tests and simulations: it stands still until it is advanced."""

    def __init__(self, monotonic_s: float = 1_000.0, wall_s: float = 1_800_000_000.0) -> None:
        self._monotonic_s = monotonic_s
        self._wall_s = wall_s

    def monotonic_s(self) -> float:
        """See Clock."""
        return self._monotonic_s

    def wall_s(self) -> float:
        """See Clock."""
        return self._wall_s

    async def sleep(self, seconds: float) -> None:
        """Advance both clocks instead of waiting."""
        self.advance(seconds)
        # Still one turn of the loop: code that waits in a loop must not starve what it waits for.
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Advance both clocks."""
        self._monotonic_s += seconds
        self._wall_s += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP can."""
        self._wall_s += seconds


def utc_text(wall_s: float) -> str:
    """Return a wall clock time as text: 2026-01-31 12:00:00+00:00."""
    # UTC, as logs of several sites are read side by side.
    return datetime.fromtimestamp(wall_s, UTC).isoformat(" ", "seconds")
