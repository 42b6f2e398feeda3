"""What the site's row in the database says, polled: the end of the log, totals, the offline switch.

And who leads, in the same statement. A notice by NOTIFY would take a lock over all commits of the
database. Every node polls, so the database pays for it: twice a second while nobody waits for
anything, ten times while somebody waits for a row of the log, and less often where it is slow.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable, StorageFull
from federation.core.tasks import Background, FailingWork, sleep_unless
from federation.observability.rate_limits import Complaints
from federation.storage.log_end import Notifier
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.opening import SCHEMA, too_old, upgrade_older
from federation.storage.shared.catalogue.rows import LeadRow, SiteTotals

POLL_S = 0.5
_WAITED_POLL_S = 0.1  # while somebody waits for a row of the log
_HURRIED_POLL_S = 0.02  # while somebody waits for an answer; no poll comes sooner after another
_REST = 10  # a pause is so many times as long as the poll before it took,
_REST_MAX_S = 0.8  # and no longer than this for that reason
_JITTER = 0.2  # by so much a pause may be shorter
_POLL = """
SELECT s.seq, s.log_epoch, s.presence, s.offline_since, s.bytes, s.blobs, s.entries, s.gone,
  s.ticks, s.purges, s.purge_seq, s.schema, s.oldest, f.bytes, l.role, l.node, l.term, l.beat
FROM site s CROSS JOIN pinned f CROSS JOIN lead l
"""
_LEAD_COLUMNS = 4

_log = structlog.get_logger(__name__)


class SiteRow(NamedTuple):
    """The row, as one poll found it."""

    seq: int
    log_epoch: str
    presence: int
    offline_since_s: int | None
    totals: SiteTotals
    ticks: int
    purges: int  # how many records there are
    purge_seq: int  # the number of the newest change of one
    schema: int
    oldest: int  # the oldest schema whose programs may serve the site
    pinned_bytes: int  # of the quota, that pins keep
    leads: tuple[LeadRow, ...]


class Polled(NamedTuple):
    """The row, and when it was asked for and had come, by this node's monotonic clock."""

    row: SiteRow
    asked_s: float
    heard_s: float


async def read_site(connections: DatabaseConnections) -> SiteRow:
    """Read the row. Raises SourceUnavailable."""
    rows = await connections.ask_some(_POLL)
    seq, epoch, presence, since_s, size, blobs, entries, gone = rows[0][:8]
    ticks, purges, purge_seq, schema, oldest, pinned = rows[0][8:-_LEAD_COLUMNS]
    totals = SiteTotals(size, blobs, entries, gone)
    leads = tuple(LeadRow(*columns[-_LEAD_COLUMNS:]) for columns in rows)
    return SiteRow(
        *(seq, epoch, presence, since_s, totals, ticks, purges, purge_seq, schema, oldest),
        pinned,
        leads,
    )


def poll_pause_s(usual_s: float, took_s: float, jitter: random.Random) -> float:
    """Return how long to wait after a poll that took took_s, in seconds.

    Nodes that were started together do not ask together, and a database that has much to do is
    asked less often.
    """
    rest_s = min(_REST_MAX_S, _REST * took_s)
    return max(usual_s, rest_s) * jitter.uniform(1 - _JITTER, 1)


class SiteWatch:
    """The row as last polled, and waiting for its changes. Used from the event loop."""

    def __init__(
        self,
        connections: DatabaseConnections,
        clock: Clock,
        row: SiteRow,
        jitter: random.Random,
        *,
        upgrades: bool = False,
    ) -> None:
        """upgrades: whether to upgrade a database of an older schema that is put back."""
        self._upgrades = upgrades
        self._connections = connections
        self._clock = clock
        self._row = row
        self._removals = 0  # how often polls found that objects may be gone
        self._stored = 0  # the newest row of the log that this process made durable
        self._watchers: list[Callable[[bool], None]] = []
        self._followers: list[Callable[[Polled | None], None]] = []
        self._hurried = 0
        self._waited = 0
        self._called = asyncio.Event()  # somebody cannot wait for the next poll as planned
        self._jitter = jitter
        self._readable = True
        self._complaints = Complaints(_log, clock)
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
        """Return the number of the newest row of the log, at most POLL_S old.

        A fifth of that while somebody waits for a row.
        """
        return max(self._row.seq, self._stored)

    @property
    def log_epoch(self) -> str:
        """The name of the change log."""
        return self._row.log_epoch

    def presence(self) -> int:
        """Return a number that changes within 1 s after objects were removed but not evicted.

        Also when the change log was begun anew: an older database may have been put back.
        """
        return self._removals

    def totals(self) -> SiteTotals:
        """Return what the site holds, at most POLL_S old while the database answers."""
        return self._row.totals

    @property
    def row(self) -> SiteRow:
        """The whole row, as the last poll found it."""
        return self._row

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

    def follow(self, follower: Callable[[Polled | None], None]) -> None:
        """Call follower with what each poll finds from now on; None: it found nothing out."""
        self._followers.append(follower)

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
        self._waited += 1
        if self._waited == 1:
            self.hasten()
        try:
            return await self._notifier.until(lambda: self.head() > seq, timeout_s)
        finally:
            self._waited -= 1

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
        if self._hurried == 1:
            self.hasten()
        try:
            yield
        finally:
            self._hurried -= 1

    def hasten(self) -> None:
        """Have the next poll come soon, whatever pause was planned."""
        self._called.set()

    async def _run(self) -> None:
        while True:
            self._called.clear()
            begun_s = self._clock.monotonic_s()
            await self.refresh()
            took_s = self._clock.monotonic_s() - begun_s
            await self._clock.sleep(_HURRIED_POLL_S)
            rest_s = poll_pause_s(self._usual_s(), took_s, self._jitter) - _HURRIED_POLL_S
            if rest_s > 0:
                await sleep_unless(self._called, rest_s, self._clock)

    def _usual_s(self) -> float:
        if self._hurried:
            return _HURRIED_POLL_S
        return _WAITED_POLL_S if self._waited else POLL_S

    async def refresh(self) -> None:
        """Poll now. Never raises: if the row cannot be read, the state stays as it was."""
        asked_s = self._clock.monotonic_s()
        try:
            row = await read_site(self._connections)
        except SourceUnavailable as error:
            if self._readable:
                _log.warning("site_not_polled", reason=str(error))
            self._readable = False
            self._tell(None)
            if self._upgrades and not self._connections.trouble:  # it answers, but not to this
                await self._upgrade_older()
            return
        self._readable = True
        if self._upgrades and row.schema < SCHEMA:  # put back, and a poll can read it
            await self._upgrade_older()
        if trouble := too_old(row.schema, row.oldest):
            self._connections.give_up(trouble)
        was_on, before = self.is_on, self._row
        self._row = row
        if row.log_epoch != before.log_epoch:
            self._stored = 0  # what was stored then may be in no row of this log
        if (row.presence, row.log_epoch) != (before.presence, before.log_epoch):
            self._removals += 1
        self.wake()
        self._tell(Polled(row, asked_s, self._clock.monotonic_s()))
        if self.is_on != was_on:
            _log.info("offline_switched", offline=self.is_on)
            for watcher in self._watchers:
                watcher(self.is_on)

    async def _upgrade_older(self) -> None:
        try:
            await upgrade_older(self._connections)
        except (SourceUnavailable, StorageFull) as error:  # the next poll tries again
            self._complaints.warn("site_not_upgraded", error)

    def _tell(self, polled: Polled | None) -> None:
        for follower in self._followers:
            follower(polled)
