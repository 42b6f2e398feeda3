"""What each caller may use up: writing calls at once, and bytes a second in both directions.

A caller over its share waits; it is not refused, since some clients take a refused upload for one
that was not needed. Callers are told apart by their identity, those without one by their address.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import lru_cache

from federation.access.rights import Rights
from federation.config.model import LimitsConfig
from federation.core.clock import Clock
from federation.core.errors import Stalled
from federation.observability.metrics import Metrics

_SHARES_MAX = 10_000
_SLEEP_MAX_S = 0.5  # so that a wait notices when the debt shrinks, or a limit changes


class CallerQuotas:
    """The shares of all callers of a node; the limits may change while it runs."""

    def __init__(self, limits: LimitsConfig, clock: Clock, metrics: Metrics) -> None:
        self._limits = limits
        self._clock = clock
        self._metrics = metrics
        self._by_caller: dict[str, CallerQuota] = {}

    def __repr__(self) -> str:
        return f"<CallerQuotas of {len(self._by_caller)}>"

    def of(self, rights: Rights, peer: str) -> CallerQuota | None:
        """Return the caller's share; None while nothing is limited."""
        limits = self._limits
        if not limits.uploads_per_caller and not limits.bandwidth_per_caller:
            return None
        caller = caller_of(rights, peer)
        share = self._by_caller.get(caller)
        if share is None:
            if len(self._by_caller) >= _SHARES_MAX:
                self._drop_one()
            share = self._by_caller[caller] = CallerQuota(
                caller, limits, self._clock, self._metrics
            )
        return share

    def _drop_one(self) -> None:
        """Forget the one that is idle for longest; while all are in use, their calls bound them."""
        for caller, share in self._by_caller.items():
            if share.is_idle:
                del self._by_caller[caller]
                return


class CallerQuota:
    """One caller's."""

    def __init__(self, caller: str, limits: LimitsConfig, clock: Clock, metrics: Metrics) -> None:
        self._caller = caller
        self._limits = limits
        self._clock = clock
        self._held_back = metrics.held_back
        self._uploads = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._credit_bytes = float(limits.bandwidth_per_caller)  # at most a second's; < 0: a debt
        self._at_s = clock.monotonic_s()
        self._users = 0

    def __repr__(self) -> str:
        return (
            f"<CallerQuota {self._caller}: {self._uploads} uploads, {len(self._waiting)} waiting>"
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost with it."""
        return not self._users and self._debt_s() <= 0

    @asynccontextmanager
    async def taken(self, *, writes: bool) -> AsyncIterator[None]:
        """Be one of the caller's calls; a writing one waits for its turn.

        Raises Stalled when that does not come within the time that a stream may stand still.
        """
        self._users += 1
        try:
            async with self._upload() if writes else nullcontext():
                yield
        finally:
            self._users -= 1

    @asynccontextmanager
    async def _upload(self) -> AsyncIterator[None]:
        if self._waiting or self._is_full():
            await self._turn()
        else:
            self._uploads += 1
        try:
            yield
        finally:
            self._free()

    async def _turn(self) -> None:
        """Wait for a place; whoever sets the future has counted this upload already."""
        self._held_back.labels(by="uploads").inc()
        stall_s = self._limits.stall
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(stall_s):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:  # it came at the very moment when the caller left
                self._free()
            if isinstance(error, TimeoutError):
                raise Stalled(
                    f"{self._caller} has {self._uploads} uploads running, as many as it may, and "
                    f"none ended within {stall_s:g} s"
                ) from None
            raise

    def _free(self) -> None:
        self._uploads -= 1
        while self._waiting and not self._is_full():
            self._uploads += 1
            self._waiting.popleft().set_result(None)

    def _is_full(self) -> bool:
        most = self._limits.uploads_per_caller
        return bool(most) and self._uploads >= most

    async def pay(self, size_bytes: int) -> None:
        """Count these bytes, and wait while the caller has had more than its rate allows."""
        if not self._limits.bandwidth_per_caller:
            return
        self._accrue()
        self._credit_bytes -= size_bytes
        if (debt_s := self._debt_s()) > 0:
            self._held_back.labels(by="bandwidth").inc()
        while debt_s > 0:
            await self._clock.sleep(min(debt_s, _SLEEP_MAX_S))
            debt_s = self._debt_s()

    def _debt_s(self) -> float:
        rate = self._limits.bandwidth_per_caller
        if not rate:
            return 0.0
        self._accrue()
        return -self._credit_bytes / rate

    def _accrue(self) -> None:
        rate, now_s = self._limits.bandwidth_per_caller, self._clock.monotonic_s()
        earned = (now_s - self._at_s) * rate
        self._credit_bytes = min(float(rate), self._credit_bytes + earned)
        self._at_s = now_s


def caller_of(rights: Rights, peer: str) -> str:
    """Return what tells callers apart: who it is, or where an unknown one comes from."""
    return _address_of(peer) if rights.is_anonymous else rights.identity


@lru_cache(maxsize=4096)  # asked at every call, and a connection has many
def _address_of(peer: str) -> str:
    return f"address {host_of(peer)}"


def host_of(peer: str) -> str:
    """Return the address without its port: grpc writes "ipv4:1.2.3.4:5", "ipv6:%5B::1%5D:5"."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    return rest.rpartition(":")[0] or rest
