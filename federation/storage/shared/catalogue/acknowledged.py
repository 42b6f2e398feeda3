"""What peers have acknowledged, told by the node that replicates to all nodes of the site.

For uploads that are answered only once some peers hold them, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable
from federation.core.replication_log import Lane, PeerState
from federation.core.tasks import Background
from federation.storage.shared.catalogue import arrays
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.peer_rows import SitePeers
from federation.storage.shared.catalogue.site_watch import SiteWatch
from federation.storage.shared.catalogue.texts import clean

_UNKNOWN = -1  # a reconcile runs
_TELL_S = 0.02  # what comes meanwhile is told together

_log = structlog.get_logger(__name__)


class SiteAcknowledgements:
    """How far each peer has acknowledged the change log. Used from the event loop."""

    def __init__(
        self, connections: DatabaseConnections, peers: SitePeers, watch: SiteWatch, clock: Clock
    ) -> None:
        self._connections = connections
        self._peers = peers
        self._watch = watch
        self._clock = clock
        self._own: dict[str, int] = {}  # noted by this process, which replicates
        self._told: dict[str, int] = {}  # by the one that does
        self._untold: dict[str, int] = {}
        self._telling: asyncio.Task[None] | None = None
        self._background = Background()

    def __repr__(self) -> str:
        return f"<SiteAcknowledgements {self._told | self._own}>"

    def note(self, name: str, lane: Lane, seq: int) -> None:
        """See ReplicationLog. Ignores the window's lane: no upload waits for it."""
        if lane is Lane.ALWAYS and seq > self._own.get(name, _UNKNOWN):
            self._tell(name, seq)

    def note_unknown(self, name: str) -> None:
        """See ReplicationLog."""
        self._tell(name, _UNKNOWN)

    def forget(self, name: str) -> None:
        """Forget what a dropped peer has acknowledged."""
        for known in (self._own, self._told, self._untold):
            known.pop(name, None)

    def forget_own(self) -> None:
        """Listen to another process from now on, which replicates."""
        self._own.clear()
        self._untold.clear()

    def _tell(self, name: str, seq: int) -> None:
        self._own[name] = self._untold[name] = seq
        self._watch.wake()
        if self._telling is None or self._telling.done():
            self._telling = self._background.start(self._tell_all(), "acknowledgements")

    async def _tell_all(self) -> None:
        while self._untold:
            await self._clock.sleep(_TELL_S)
            told, self._untold = self._untold, {}
            names = [clean(name) for name in told]
            seqs = arrays.numbers(list(told.values()))
            try:
                await self._connections.ask("SELECT federation_tell($1, $2)", names, seqs)
            except SourceUnavailable as error:  # the next note tells more
                _log.info("acknowledgements_not_told", reason=str(error))

    async def wait(self, seq: int, peers: Collection[str], needed: int, timeout_s: float) -> bool:
        """See NodeLog.wait_acknowledged. Raises SourceUnavailable.

        What was told before is not believed: the peer may be compared with all that is held now.
        """
        end_s = self._clock.monotonic_s() + timeout_s
        with self._watch.hurried():
            while True:
                await self._read(peers)
                left_s = end_s - self._clock.monotonic_s()
                if self._have(seq, peers, needed) or left_s <= 0:
                    return self._have(seq, peers, needed)
                await self._watch.next_change(left_s)

    async def close(self) -> None:
        """Stop telling."""
        await self._background.close()

    def _have(self, seq: int, peers: Collection[str], needed: int) -> bool:
        known = self._told | self._own
        return sum(known.get(name, _UNKNOWN) >= seq for name in peers) >= needed

    async def _read(self, peers: Collection[str]) -> None:
        """Read what was told; of peers of which nothing was, what their records say."""
        if all(name in self._own for name in peers):
            return
        rows = await self._connections.ask("SELECT peer, seq FROM acknowledged")
        self._told = dict(rows)
        if all(name in self._told for name in peers):
            return
        for record in await self._peers.records():
            if record.state is PeerState.FOLLOWING and record.lane is Lane.ALWAYS:
                self._told.setdefault(record.name, record.cursor)
