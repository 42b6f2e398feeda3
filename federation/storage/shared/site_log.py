"""The site's change log as replication sees it: see federation.core.replication_log."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import structlog

from federation.core.digest import Digest
from federation.core.errors import LeadLost
from federation.core.index import Entry, EntryKey
from federation.core.replication_log import EntryHead, Lane, LogSlice, Page, Parked, PeerRecord
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of
from federation.storage.catalogue.parked import KEPT_MAX
from federation.storage.pinning import StoredPins
from federation.storage.shared.catalogue.database_role import DatabaseRole
from federation.storage.shared.catalogue.rows import SiteRole
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue

_log = structlog.get_logger(__name__)


class SiteLog:
    """The NodeLog of one node of a site."""

    def __init__(self, catalogue: SiteCatalogue, pins: StoredPins[EntryKey]) -> None:
        self._site_id = catalogue.site_id
        self._watch = catalogue.watch
        self._role = DatabaseRole(catalogue.leads, SiteRole.REPLICATION)
        self._reader = catalogue.log
        self._peers = catalogue.peers
        self._acknowledged = catalogue.acknowledged
        self._blobs = catalogue.blobs
        self._index = catalogue.index
        self._walks = catalogue.walks
        self.purges = catalogue.purges
        self.pins = pins

    def __repr__(self) -> str:
        return f"<SiteLog at {self.head()}{' leads' if self.holds_lead() else ''}>"

    @property
    def node_id(self) -> str:
        """See ReplicationLog: of the site, which all its nodes share."""
        return self._site_id

    @property
    def log_epoch(self) -> str:
        """See ReplicationLog."""
        return self._watch.log_epoch

    def try_to_lead(self) -> bool:
        """See ReplicationLog. The first call only makes this node stand, and returns False."""
        return self._role.try_to_lead()

    def holds_lead(self) -> bool:
        """See ReplicationLog."""
        return self._role.holds_lead()

    def close(self) -> None:
        """Stop leading, so that another node can at once."""
        self._role.close()

    # -- change log ------------------------------------------------------------------------

    def head(self) -> int:
        """See ReplicationLog."""
        return self._watch.head()

    async def wait_beyond(self, seq: int, timeout_s: float) -> bool:
        """See ReplicationLog."""
        return await self._watch.wait_beyond(seq, timeout_s)

    async def read(self, after: int, limit: int) -> LogSlice:
        """See ReplicationLog."""
        return await self._reader.read(after, limit)

    async def total_bytes(self, seq: int) -> int:
        """See ReplicationLog."""
        return await self._reader.total_bytes(seq)

    # -- peers -----------------------------------------------------------------------------

    async def peers(self) -> list[PeerRecord]:
        """See ReplicationLog."""
        return await self._peers.records()

    async def save(self, records: Sequence[PeerRecord]) -> None:
        """See ReplicationLog."""
        with self._listening_once_lost():
            await self._peers.save(self._role.last, records)

    async def want(self, name: str) -> None:
        """See ReplicationLog."""
        await self._peers.want(name)

    async def drop(self, name: str) -> None:
        """See ReplicationLog."""
        await self._peers.drop(name)
        self._acknowledged.forget(name)

    def note_acknowledged(self, name: str, lane: Lane, seq: int) -> None:
        """See ReplicationLog."""
        self._acknowledged.note(name, lane, seq)

    def note_unacknowledged(self, name: str) -> None:
        """See ReplicationLog."""
        self._acknowledged.note_unknown(name)

    async def wait_acknowledged(
        self, seq: int, peers: Collection[str], needed: int, timeout_s: float
    ) -> bool:
        """See NodeLog."""
        return await self._acknowledged.wait(seq, peers, needed, timeout_s)

    # -- parked ----------------------------------------------------------------------------

    async def park(self, rows: Sequence[Parked]) -> None:
        """See ReplicationLog. Only the newest KEPT_MAX objects of each peer are kept."""
        with self._listening_once_lost():
            forgotten = await self._peers.park(self._role.last, rows)
        if forgotten:
            _log.warning("parked_forgotten", count=forgotten, kept=KEPT_MAX)

    async def parked(self, name: str | None = None, limit: int = 1000) -> list[Parked]:
        """See ReplicationLog."""
        return await self._peers.parked(name, limit)

    async def parked_due(
        self, name: str, now_s: float, waits_s: Sequence[float], limit: int
    ) -> list[Parked]:
        """See ReplicationLog."""
        return await self._peers.parked_due(name, now_s, waits_s, limit)

    async def parked_counts(self) -> dict[str, int]:
        """See ReplicationLog."""
        return await self._peers.parked_counts()

    async def unpark(self, rows: Sequence[Parked]) -> None:
        """See ReplicationLog."""
        with self._listening_once_lost():
            await self._peers.unpark(self._role.last, rows)

    async def ask_retry(self, name: str | None = None) -> int:
        """See ReplicationLog."""
        return await self._peers.ask_retry(name)

    # -- what is held ----------------------------------------------------------------------

    async def entries_at(self, keys: Sequence[EntryKey]) -> list[tuple[int, Entry] | None]:
        """See ReplicationLog."""
        rows = await self._index.rows(keys, Use.PEEK)
        return [row and (row.seq, row.entry) for row in rows]

    async def heads_at(self, keys: Sequence[EntryKey]) -> list[EntryHead | None]:
        """See ReplicationLog."""
        return await self._index.heads(keys)

    async def blobs(self, position: str | None, limit: int) -> Page:
        """See ReplicationLog."""
        return await self._walks.blobs(position, limit)

    async def entries(self, position: str | None, limit: int) -> Page:
        """See ReplicationLog."""
        return await self._walks.entries(position, limit)

    async def held(self) -> tuple[int, int]:
        """See ReplicationLog."""
        totals = self._watch.totals()
        return totals.blobs, totals.entries

    async def held_like(self, names: Sequence[bytes]) -> set[bytes]:
        """See ReplicationLog."""
        return await self._blobs.held_like(names)

    async def is_damaged(self, digest: Digest) -> bool:
        """See ReplicationLog."""
        return await self._blobs.is_damaged(key_of(digest))

    @contextmanager
    def _listening_once_lost(self) -> Iterator[None]:
        """Forget what this node told of peers, once another one replicates."""
        try:
            yield
        except LeadLost:
            self._acknowledged.forget_own()
            raise
