"""Group commit: one thread owns the write connection and puts many operations in a transaction.

While one commit waits for the disk, the next operations queue up. An operation that fails is undone
alone, and no caller gets its result before the commit is durable. After an I/O error on the
catalogue nothing more is written: pages that the kernel dropped after a failed fsync look written,
so a later commit could acknowledge data that is not on the disk. Reads continue.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import apsw
import structlog

from federation.core.admission import Admission
from federation.core.clock import Clock
from federation.core.errors import (
    FederationError,
    StorageFailed,
    TooBusy,
)
from federation.observability.metrics import Metrics
from federation.storage.catalogue import footprint
from federation.storage.catalogue.entry_changes import EntryChanges
from federation.storage.catalogue.failures import translate
from federation.storage.catalogue.hlc import DRIFT_S
from federation.storage.catalogue.transaction import Totals, Transaction, read_totals, write_totals
from federation.storage.directory import SpareHandle
from federation.storage.timing import StoreClock

_T = TypeVar("_T")
_QUEUED_MAX = 10_000
_HELD_MAX_BYTES = 32 * 2**20
_EVERYBODY = ""  # one name for all callers in the admission: they are not told apart here
_BATCH_MAX = 256
_log = structlog.get_logger(__name__)


class _Operation:
    __slots__ = ("error", "future", "loop", "result", "size_bytes", "work")

    def __init__(self, work: Callable[[Transaction], Any], size_bytes: int) -> None:
        self.work = work
        self.size_bytes = size_bytes
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.future.done():  # the caller was cancelled; the work was done nevertheless
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Writer:
    """Runs operations in write transactions. Create and use it from one event loop."""

    def __init__(
        self,
        connect: Callable[[], apsw.Connection],
        store_clock: StoreClock,
        clock: Clock,
        quota_bytes: Callable[[], int],
        on_commit: Callable[[Totals, int], None],
        metrics: Metrics,
        *,
        node_id: str,
        drift_s: float = DRIFT_S,
        on_fail: Callable[[], None] = lambda: None,
        entry_changes: EntryChanges | None = None,
    ) -> None:
        self._connect = connect
        self._store_clock = store_clock
        self._clock = clock
        self._quota_bytes = quota_bytes
        # Called on the event loop with the totals and the quota's bytes in use, before any caller
        # gets the result of its operation.
        self._on_commit = on_commit
        self._metrics = metrics
        self._on_fail = on_fail  # called in the thread that found the failure
        self._entry_changes = entry_changes
        self._node_id = node_id  # for the stamps given in its transactions
        self._drift_s = drift_s
        # Blob bytes on their way to the disk. Cancelling a caller does not free them, so they are
        # bounded here and not per caller.
        self._held = Admission(lambda: _HELD_MAX_BYTES, each=lambda: _HELD_MAX_BYTES)
        self._queue: SimpleQueue[_Operation | None] = SimpleQueue()  # None: nothing follows
        self._lock = threading.Lock()  # so that nothing is queued behind the end
        self._closing = False
        self._has_ended = False
        self._unsettled: set[int] = set()
        self._begun_s: float | None = None
        self.totals = Totals()
        self.held_bytes = 0  # of the quota, after the last commit
        self._measured: Totals | None = None  # the totals when that was measured
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="catalogue-writer", daemon=True)

    def __repr__(self) -> str:
        return f"<Writer {self._queue.qsize()} queued{', failed' if self.failure else ''}>"

    def start(self) -> None:
        """Start the thread that runs the queued operations."""
        self._thread.start()

    @property
    def pending_bytes(self) -> int:
        """How many blob bytes are on their way to the disk."""
        return self._held.used_bytes

    @property
    def held_back(self) -> int:
        """How many callers wait in room_for."""
        return self._held.waiting

    async def room_for(self, size_bytes: int) -> None:
        """Wait until this many more bytes may be on their way to the disk.

        The caller must call has_written with the same number later.
        """
        await self._held.acquire(_EVERYBODY, size_bytes)

    def has_written(self, size_bytes: int) -> None:
        """Note that this many bytes admitted by room_for are durable, or were dropped."""
        self._held.release(_EVERYBODY, size_bytes)

    async def submit(self, work: Callable[[Transaction], _T], size_bytes: int = 0) -> _T:
        """Run work in a transaction; return its result once that is durable.

        work runs in the writer's thread. A FederationError that it raises undoes this work alone. A
        caller that is cancelled stops waiting; its work is still done as a whole or not at all.

        size_bytes: how many blob bytes the work keeps in memory. The call waits while all
        operations together keep too many.

        Raises TooBusy (queue full), StorageFull, StorageFailed, SourceUnavailable (write lock not
        obtained), and what work raises.
        """
        if self.failure is not None:
            raise StorageFailed(self.failure)
        if size_bytes:
            await self.room_for(size_bytes)
        operation = _Operation(work, size_bytes)
        try:
            self._enqueue(operation)
        except BaseException:
            if size_bytes:
                self.has_written(size_bytes)
            raise
        result: _T = await operation.future
        return result

    def _enqueue(self, operation: _Operation) -> None:
        with self._lock:
            if self._closing:
                raise StorageFailed("this node is shutting down")
            if self._queue.qsize() >= _QUEUED_MAX:
                raise TooBusy(f"{_QUEUED_MAX} catalogue writes are waiting; try again")
            self._queue.put(operation)

    def stuck_s(self) -> float:
        """Return for how many seconds the current transaction has been running; 0: none is."""
        begun_s = self._begun_s
        return 0.0 if begun_s is None else self._clock.monotonic_s() - begun_s

    def take_unsettled(self) -> set[int]:
        """Return and forget the blob folders (0..255) where failures may have left stray files."""
        unsettled, self._unsettled = self._unsettled, set()
        return unsettled

    def leave_unsettled(self, folders: set[int]) -> None:
        """Put folders back for the next take_unsettled(): they could not be swept."""
        self._unsettled |= folders

    def fail(self, reason: str) -> None:
        """Stop writing for good: queued and later operations raise StorageFailed."""
        if self.failure is None:
            self.failure = reason
            self._on_fail()
            _log.error("catalogue_write_failed", reason=reason)

    def close(self) -> None:
        """Run what is queued, then end the thread. Blocks; call it from a worker thread."""
        with self._lock:
            self._closing = True
            self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _take(self) -> list[_Operation]:
        """Wait for operations, and take all that are there; none: there will be no more."""
        batch: list[_Operation] = []
        operation = None if self._has_ended else self._queue.get()
        while operation is not None:
            batch.append(operation)
            if len(batch) == _BATCH_MAX:
                return batch
            try:
                operation = self._queue.get_nowait()
            except Empty:
                return batch
        self._has_ended = True
        return batch

    def _run(self) -> None:
        connection: apsw.Connection | None = None
        self._spare = SpareHandle()
        while batch := self._take():
            self._begun_s = self._clock.monotonic_s()
            try:
                if self.failure is not None:
                    raise StorageFailed(self.failure)
                # At the first write, and again if it failed then; reads go on in any case.
                connection = connection or self._connect()
                self._commit(connection, batch)
            except Exception as error:  # noqa: BLE001 - every waiting caller must get it
                self._give_up(connection, batch, error)
            self._begun_s = None
            batch[0].loop.call_soon_threadsafe(self._settle, batch)
        self._spare.close()
        if connection is not None:
            connection.close()

    def _settle(self, batch: list[_Operation]) -> None:
        # First: a caller that looks at the totals next must see its own commit.
        self._on_commit(self.totals, self.held_bytes)
        for operation in batch:
            operation.settle()
            if operation.size_bytes:
                self.has_written(operation.size_bytes)

    def _commit(self, connection: apsw.Connection, batch: list[_Operation]) -> None:
        begun_s = self._clock.monotonic_s()
        # Everything below is read under the write lock, so that no other process can make it
        # untrue.
        connection.execute("BEGIN IMMEDIATE")
        totals = read_totals(connection)
        before = totals.row()
        held_bytes = self.held_bytes
        if totals != self._measured:  # another process has stored or removed something since
            held_bytes = footprint.measure(connection, totals).held
        transaction = Transaction(
            connection=connection,
            now_ms=self._store_clock.now_ms(),
            wall_s=self._clock.wall_s(),
            totals=totals,
            quota_bytes=self._quota_bytes(),
            node_id=self._node_id,
            held_bytes=held_bytes,
            drift_s=self._drift_s,
        )
        try:
            for operation in batch:
                self._apply(transaction, operation)
            # Before the commit: no row may be durable whose file can lose its name at a power cut.
            for folder in transaction.folders:
                self._spare.sync_folder(folder)
            if transaction.totals.row() != before:
                write_totals(connection, transaction.totals)
            held_bytes = footprint.measure(connection, transaction.totals).held
            # Announced first, so that nobody believes an old value behind the commit: EntryChanges.
            if transaction.changes_entries and self._entry_changes is not None:
                self._entry_changes.announce(transaction)
            connection.execute("COMMIT")
        except BaseException:
            # Renames are not SQLite's to undo: files may lie there now without a row.
            self._unsettled |= {int(Path(folder).name, 16) for folder in transaction.folders}
            raise
        self._metrics.commit_seconds.observe(self._clock.monotonic_s() - begun_s)
        self.totals = self._measured = transaction.totals
        self.held_bytes = held_bytes

    def _apply(self, transaction: Transaction, operation: _Operation) -> None:
        totals, grown_bytes = transaction.totals.copy(), transaction.grown_bytes
        transaction.connection.execute("SAVEPOINT operation")
        try:
            operation.result = operation.work(transaction)
        except FederationError as error:
            operation.error = error
            # These are not SQLite's, so its rollback does not undo them.
            transaction.totals, transaction.grown_bytes = totals, grown_bytes
            transaction.connection.execute("ROLLBACK TO operation")
        transaction.connection.execute("RELEASE operation")

    def _give_up(
        self, connection: apsw.Connection | None, batch: list[_Operation], error: Exception
    ) -> None:
        """Undo the transaction, and give the reason to every operation in it."""
        reason = translate(error)
        if isinstance(reason, StorageFailed):
            self.fail(str(reason))
        for operation in batch:
            # One that was refused by itself keeps its own reason.
            operation.error = operation.error or reason
        try:
            if connection is not None and connection.in_transaction:
                connection.execute("ROLLBACK")
        except apsw.Error as rollback_error:
            self.fail(f"the catalogue's transaction cannot be undone: {rollback_error}")
