"""What each caller may use up: writing calls at once, and bytes a second in both directions.

A caller over its quota waits; it is not refused, since some clients take a refused upload for one
that was not needed. Callers are told apart by their identity, those without one by their address.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.errors import Stalled
from federation.core.semaphore import FairSlots
from federation.core.token_bucket import TokenBucket
from federation.observability.metrics import Metrics

_QUOTAS_MAX = 10_000
_SLEEP_MAX_S = 0.5  # so that a wait notices when the debt shrinks, or a limit changes


class CallerQuotas:
    """Those of all callers of a node; the limits may change while it runs."""

    def __init__(self, limits: LimitsConfig, clock: Clock, metrics: Metrics) -> None:
        self._limits = limits
        self._clock = clock
        self._metrics = metrics
        self._by_caller: dict[str, CallerQuota] = {}

    def __repr__(self) -> str:
        return f"<CallerQuotas of {len(self._by_caller)}>"

    def of(self, caller: str) -> CallerQuota | None:
        """Return the caller's quota; None while nothing is limited."""
        limits = self._limits
        # Looked at for each call, since a reload may set either.
        if not limits.uploads_per_caller and not limits.bandwidth_per_caller:
            return None
        quota = self._by_caller.get(caller)
        if quota is None:
            if len(self._by_caller) >= _QUOTAS_MAX:
                self._drop_one()
            quota = CallerQuota(caller, limits, self._clock, self._metrics)
            self._by_caller[caller] = quota
        return quota

    def _drop_one(self) -> None:
        """Forget the oldest that is idle; while all are in use, the bound on calls bounds them."""
        for caller, quota in self._by_caller.items():
            if quota.is_idle:
                del self._by_caller[caller]
                return


class CallerQuota:
    """One caller's."""

    def __init__(self, caller: str, limits: LimitsConfig, clock: Clock, metrics: Metrics) -> None:
        self._caller = caller
        self._limits = limits
        self._clock = clock
        self._held_back = metrics.held_back
        self._uploads = FairSlots(lambda: limits.uploads_per_caller or sys.maxsize)
        rate = limits.bandwidth_per_caller
        self._credit = TokenBucket(rate, rate, clock.monotonic_s(), tokens=rate)
        self._users = 0

    def __repr__(self) -> str:
        uploads = self._uploads
        return f"<CallerQuota {self._caller}: {uploads.taken} uploads, {uploads.waiting} waiting>"

    @property
    def is_idle(self) -> bool:
        """Whether it can be forgotten without loss."""
        return not self._users and self._spend(0) <= 0

    @asynccontextmanager
    async def acquired(self, *, writes: bool) -> AsyncIterator[None]:
        """Count one of the caller's calls; a writing one waits for a slot.

        Raises Stalled when none is free within limits.stall.
        """
        # Also while it waits for a slot, or its quota could be forgotten and begun anew.
        self._users += 1
        try:
            async with self._upload() if writes else nullcontext():
                yield
        finally:
            self._users -= 1

    @asynccontextmanager
    async def _upload(self) -> AsyncIterator[None]:
        if not self._uploads.try_acquire():
            await self._wait_for_slot()
        try:
            yield
        finally:
            self._uploads.release()

    async def _wait_for_slot(self) -> None:
        self._held_back.labels(by="uploads").inc()
        stall_s = self._limits.stall
        try:
            async with asyncio.timeout(stall_s):
                await self._uploads.acquire()
        except TimeoutError:
            raise Stalled(
                f"{self._caller} has {self._uploads.taken} uploads running, the most allowed, and "
                f"none ended within {stall_s:g} s"
            ) from None

    async def pay(self, size_bytes: int) -> None:
        """Count these bytes, and wait while the caller has had more than its rate allows."""
        if not self._limits.bandwidth_per_caller:
            return
        debt_s = self._spend(size_bytes)
        # Bytes are counted after they came: their size is not known before, and nothing is dropped
        # for it.
        if debt_s > 0:
            self._held_back.labels(by="bandwidth").inc()
        while debt_s > 0:
            await self._clock.sleep(min(debt_s, _SLEEP_MAX_S))
            debt_s = self._spend(0)

    def _spend(self, size_bytes: int) -> float:
        """Return how long to wait; the rate may have changed since, and a second's is saved up."""
        self._credit.rate = self._credit.burst = self._limits.bandwidth_per_caller
        return self._credit.spend(size_bytes, self._clock.monotonic_s())
