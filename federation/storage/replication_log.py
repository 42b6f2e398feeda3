"""The catalogue as replication sees it. federation.core.replication_log describes each method."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import apsw
import structlog

from federation.core.digest import Digest
from federation.core.index import Entry, EntryKey
from federation.core.replication_log import EntryHead, Lane, LogSlice, Page, Parked, PeerRecord
from federation.storage import quarantine, scan
from federation.storage.acknowledgements import Acknowledgements
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue import change_log, entries, parked, peer_records
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.catalogue.transaction import Transaction, read_totals
from federation.storage.context import StorageContext
from federation.storage.directory_pins import DirectoryKeepings, DirectoryPins
from federation.storage.file_role import FileRole
from federation.storage.pinning import StoredPins
from federation.storage.presence import find_like
from federation.storage.purging import CataloguePurges

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class CatalogueLog:
    """The ReplicationLog of an open data directory."""

    def __init__(self, core: StorageContext, node_id: str, log_epoch: str) -> None:
        self._core = core
        self._node_id = node_id
        self._log_epoch = log_epoch
        self._role = FileRole(core.directory.replication_lock)
        self.purges = CataloguePurges(core)
        self.pins = StoredPins(DirectoryPins(core), DirectoryKeepings(core), core.clock)
        self._acknowledged = Acknowledgements(core.epoch, self.peers, core.clock)

    def __repr__(self) -> str:
        return f"<CatalogueLog at {self.head()}{' leads' if self._role.holds_lead() else ''}>"

    @property
    def node_id(self) -> str:
        """See ReplicationLog."""
        return self._node_id

    @property
    def log_epoch(self) -> str:
        """See ReplicationLog."""
        return self._log_epoch

    def try_to_lead(self) -> bool:
        """See ReplicationLog. Raises TooBusy (no handle left), SourceUnavailable (the disk)."""
        return self._role.try_to_lead()

    def holds_lead(self) -> bool:
        """See ReplicationLog."""
        return self._role.holds_lead()

    def close(self) -> None:
        """Release the replication lock, so that another process can lead."""
        self._role.close()

    async def stop_waiting(self) -> None:
        """Stop polling for changes; tasks that still wait are not woken."""
        await self._core.head.close()
        await self._acknowledged.close()

    # -- change log ------------------------------------------------------------------------

    def head(self) -> int:
        """See ReplicationLog."""
        return self._core.head.value

    async def wait_beyond(self, seq: int, timeout_s: float) -> bool:
        """See ReplicationLog."""
        return await self._core.head.wait_beyond(seq, timeout_s)

    async def read(self, after: int, limit: int) -> LogSlice:
        """See ReplicationLog."""
        return await self._ask(lambda connection: change_log.read(connection, after, limit))

    async def total_bytes(self, seq: int) -> int:
        """See ReplicationLog."""
        return await self._ask(lambda connection: change_log.total_bytes(connection, seq))

    # -- peers -----------------------------------------------------------------------------

    async def peers(self) -> list[PeerRecord]:
        """See ReplicationLog."""
        return await self._ask(peer_records.read)

    async def save(self, records: Sequence[PeerRecord]) -> None:
        """See ReplicationLog."""
        await self._change(lambda transaction: peer_records.save(transaction, records))

    async def want(self, name: str) -> None:
        """See ReplicationLog."""
        await self._change(lambda transaction: peer_records.want(transaction, name))

    async def drop(self, name: str) -> None:
        """See ReplicationLog."""

        def work(transaction: Transaction) -> None:
            peer_records.drop(transaction, name)
            parked.drop(transaction, name)

        await self._change(work)
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
        """Wait until `needed` of these peers have every row up to seq; False after timeout_s.

        Ignores what a rule holds back for a window. Raises SourceUnavailable.
        """
        return await self._acknowledged.wait(seq, peers, needed, timeout_s)

    # -- parked ----------------------------------------------------------------------------

    async def park(self, rows: Sequence[Parked]) -> None:
        """See ReplicationLog. Only the newest parked.KEPT_MAX objects of each peer are kept."""
        forgotten = await self._change(lambda transaction: parked.park(transaction, rows))
        if forgotten:
            _log.warning("parked_forgotten", count=forgotten, kept=parked.KEPT_MAX)

    async def parked(self, name: str | None = None, limit: int = 1000) -> list[Parked]:
        """See ReplicationLog."""
        return await self._ask(lambda connection: parked.read(connection, name, limit))

    async def parked_due(
        self, name: str, now_s: float, waits_s: Sequence[float], limit: int
    ) -> list[Parked]:
        """See ReplicationLog."""
        return await self._ask(lambda c: parked.due(c, name, now_s, waits_s, limit))

    async def parked_counts(self) -> dict[str, int]:
        """See ReplicationLog."""
        return await self._ask(parked.counts)

    async def unpark(self, rows: Sequence[Parked]) -> None:
        """See ReplicationLog."""
        await self._change(lambda transaction: parked.unpark(transaction, rows))

    async def ask_retry(self, name: str | None = None) -> int:
        """See ReplicationLog."""
        return await self._change(lambda transaction: parked.ask_retry(transaction, name))

    # -- what is held ----------------------------------------------------------------------

    async def entries_at(self, keys: Sequence[EntryKey]) -> list[tuple[int, Entry] | None]:
        """See ReplicationLog."""
        rows = await self._ask(lambda connection: entries.get(connection, keys))
        return [row and (row.seq, row.entry) for row in rows]

    async def heads_at(self, keys: Sequence[EntryKey]) -> list[EntryHead | None]:
        """See ReplicationLog."""
        return await self._ask(lambda connection: entries.heads(connection, keys))

    async def blobs(self, position: str | None, limit: int) -> Page:
        """See ReplicationLog."""
        now_ms = self._core.now_ms()
        return await self._ask(lambda c: scan.blobs(c, position, limit, now_ms))

    async def entries(self, position: str | None, limit: int) -> Page:
        """See ReplicationLog."""
        now_ms = self._core.now_ms()
        return await self._ask(lambda c: scan.entries(c, position, limit, now_ms))

    async def held(self) -> tuple[int, int]:
        """See ReplicationLog."""
        totals = await self._ask(read_totals)
        return totals.blobs, totals.entries

    async def held_like(self, names: Sequence[bytes]) -> set[bytes]:
        """See ReplicationLog. Raises SourceUnavailable also if the disk does not answer."""
        return await find_like(self._core, names)

    async def is_damaged(self, digest: Digest) -> bool:
        """See ReplicationLog. A blob that was uploaded again since is not damaged."""
        await self._core.wait_set_aside(digest)  # the caller may just have found the damage
        key = catalogue.key_of(digest)
        return await self._ask(
            lambda c: quarantine.was_set_aside(c, key) and not catalogue.look_up(c, [key])
        )

    async def _ask(self, work: Callable[[apsw.Connection], _T]) -> _T:
        try:
            return await self._core.pool.run(lambda: work(self._core.pool.connection()))
        except UNREADABLE as error:
            raise self._core.catalogue_unreadable(error) from error

    async def _change(self, work: Callable[[Transaction], _T]) -> _T:
        return await self._core.writer.submit(work)
