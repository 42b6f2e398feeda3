"""What the site's row in the database says, polled: the end of the log, totals, the offline switch.

A notice by NOTIFY would take a lock over all commits of the database; a poll of one row ten times a
second costs a node less than a thousandth of a core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable
from federation.core.tasks import Background, FailingWork
from federation.storage.log_end import Notifier
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.rows import SiteTotals

POLL_S = 0.1
_HURRIED_POLL_S = 0.02  # while somebody waits for something to happen
_POLL = """
SELECT seq, log_epoch, presence, offline_since, bytes, blobs, entries, gone, ticks FROM site
"""

_log = structlog.get_logger(__name__)


class SiteRow(NamedTuple):
    """The row, as one poll found it."""

    seq: int
    log_epoch: str
    presence: int
    offline_since_s: int | None
    totals: SiteTotals
    ticks: int


async def read_site(connections: DatabaseConnections) -> SiteRow:
    """Read the row. Raises SourceUnavailable."""
    seq, epoch, presence, since_s, size, blobs, entries, gone, ticks = await connections.ask_one(
        _POLL
    )
    totals = SiteTotals(size, blobs, entries, gone)
    return SiteRow(seq, epoch, presence, since_s, totals, ticks)


class SiteWatch:
    """The row as last polled, and waiting for its changes. Used from the event loop."""

    def __init__(self, connections: DatabaseConnections, clock: Clock, row: SiteRow) -> None:
        self._connections = connections
        self._clock = clock
        self._row = row
        self._stored = 0  # the newest row of the log that this process made durable
        self._watchers: list[Callable[[bool], None]] = []
        self._hurried = 0
        self._readable = True
        self._polls = 0
        self._notifier = Notifier(lambda: self._polls, clock)
        self._background = Background()

    def __repr__(self) -> str:
        return f"<SiteWatch at {self.head()}, {self._notifier!r}>"

    def start(self, failing: FailingWork) -> None:
        """Begin to poll; close() ends it."""
        self._background.keep(self._run, "site watch", self._clock, failing)

    async def close(self) -> None:
        """Stop polling; tasks that still wait are not woken."""
        await self._background.close()
        await self._notifier.close()

    def head(self) -> int:
        """Return the number of the newest row of the log, at most POLL_S old."""
        return max(self._row.seq, self._stored)

    @property
    def log_epoch(self) -> str:
        """The name of the change log."""
        return self._row.log_epoch

    def presence(self) -> int:
        """Return a number that changes within 1 s after objects were removed but not evicted."""
        return self._row.presence

    def totals(self) -> SiteTotals:
        """Return what the site holds, at most POLL_S old while the database answers."""
        return self._row.totals

    def note_stored(self, seq: int) -> None:
        """Record a row of the log that this process made durable."""
        if seq > self._stored:
            self._stored = seq
            self._notifier.notify_all()

    @property
    def is_on(self) -> bool:
        """See OfflineState."""
        return self._row.offline_since_s is not None

    def watch(self, watcher: Callable[[bool], None]) -> None:
        """See OfflineState."""
        self._watchers.append(watcher)
        watcher(self.is_on)

    @property
    def offline_since_s(self) -> int | None:
        """When the offline switch was turned on (wall clock, s); None: it is off."""
        return self._row.offline_since_s

    async def turn_offline(self, since_s: int | None) -> None:
        """Turn the offline switch on (since when; wall clock) or off (None), for all nodes.

        Raises SourceUnavailable.
        """
        await self._connections.ask("UPDATE site SET offline_since = $1", since_s)
        await self.refresh()

    async def wait_beyond(self, seq: int, timeout_s: float) -> bool:
        """Wait until there is a row of the log after seq; False after timeout_s."""
        return await self._notifier.until(lambda: self.head() > seq, timeout_s)

    async def next_change(self, timeout_s: float) -> None:
        """Wait for the next poll or wake(), timeout_s at most."""
        seen = self._polls
        await self._notifier.until(lambda: self._polls != seen, timeout_s)

    def wake(self) -> None:
        """Wake those who wait for a change: this process knows of one before a poll does."""
        self._polls += 1
        self._notifier.notify_all()

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Poll more often inside: somebody waits for an answer."""
        self._hurried += 1
        try:
            yield
        finally:
            self._hurried -= 1

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(_HURRIED_POLL_S if self._hurried else POLL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Poll now. Never raises: if the row cannot be read, the state stays as it was."""
        try:
            row = await read_site(self._connections)
        except SourceUnavailable as error:
            if self._readable:
                _log.warning("site_not_polled", reason=str(error))
            self._readable = False
            return
        self._readable = True
        was_on, self._row = self.is_on, row
        self.wake()
        if self.is_on != was_on:
            _log.info("offline_switched", offline=self.is_on)
            for watcher in self._watchers:
                watcher(self.is_on)
