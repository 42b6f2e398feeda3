"""Delays the answer to a write until peers have it, too: `acknowledge` of a listener.

It waits until peers have the change log up to where it ended when the write was durable here. With
concurrent writes that is a little more than the write itself, and it costs no look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, Protocol

import structlog

from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable
from federation.observability.metrics import Metrics
from federation.observability.rate_limits import LogLimit

How = Literal["one-peer", "all-peers"]

_log = structlog.get_logger(__name__)


class AcknowledgedLog(Protocol):
    """What is known about how far peers have the change log."""

    def head(self) -> int:
        """Return the newest row's seq."""
        ...

    async def wait_acknowledged(
        self, seq: int, peers: Collection[str], needed: int, timeout_s: float
    ) -> bool:
        """Wait until so many of these peers have every row up to seq; False after timeout_s.

        Raises SourceUnavailable when the storage cannot tell.
        """
        ...


class Acknowledge:
    """Delays the OK of one listener's writes."""

    def __init__(
        self,
        known: AcknowledgedLog,
        how: How,
        peers: Callable[[], Collection[str]],
        within_s: float,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """peers: gives the names of those there are, which may change."""
        self._known = known
        self._how = how
        self._peers = peers
        self._within_s = within_s
        self._clock = clock
        self._seconds = metrics.peers.acknowledge_seconds.labels(acknowledge=how)
        self._timeouts = metrics.peers.acknowledge_timeouts.labels(acknowledge=how)
        self._log_limit = LogLimit(clock)

    def __repr__(self) -> str:
        return f"<Acknowledge by {self._how} within {self._within_s:g} s>"

    async def wait(self) -> None:
        """Return when the peers have everything written so far, or after the time limit.

        Never an error: the write is durable here, and goes on to the peers in any case.
        """
        began_s = self._clock.monotonic_s()
        if not await self._have_it():
            self._timeouts.inc()
            # A peer that is away would otherwise write a line for each write.
            if (held_back := self._log_limit.admit()) is not None:
                _log.warning("not_acknowledged_in_time", waits=repr(self), held_back=held_back)
        self._seconds.observe(self._clock.monotonic_s() - began_s)

    async def _have_it(self) -> bool:
        peers = self._peers()
        needed = 1 if self._how == "one-peer" else len(peers)
        try:
            # The end as of now, not the row of this write: see decisions, "An acknowledged write
            # waits for the log's end as it is then".
            return await self._known.wait_acknowledged(
                self._known.head(), peers, needed, self._within_s
            )
        except SourceUnavailable:
            return False  # counted like a time-out
