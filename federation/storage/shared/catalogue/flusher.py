"""Makes transactions durable that were committed without waiting for the disk.

Whoever accepts objects holds a lock of the whole site until its commit, so that commit must not
wait for the disk. A second transaction then does, for all that were committed before it, and only
after that anybody is told that an object is stored. Many callers share one.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from uuid import UUID

from federation.core.errors import SourceUnavailable
from federation.storage.shared.catalogue.connections import SOURCE, DatabaseConnections
from federation.storage.shared.catalogue.database_connection import Row, Statement

# Without the row site, which a dump fills last, there is no number; and no row then.
_FLUSH = "SELECT flushed, token FROM federation_flush() WHERE flushed IS NOT NULL"
# The same if anything was logged since. OFFSET 0 keeps the condition in front of the function.
_FLUSH_NEW = """
SELECT f.flushed, f.token FROM site s
CROSS JOIN LATERAL (SELECT * FROM federation_flush() WHERE s.seq > $1 OFFSET 0) f
"""


class Flushed(NamedTuple):
    """What is durable: log rows up to seq, of this life of the database."""

    seq: int
    life: UUID


class CommitFlusher:
    """Flushes the database; at most one flush is under way, and one waits."""

    def __init__(self, connections: DatabaseConnections) -> None:
        self._connections = connections
        self._running: asyncio.Future[Flushed] | None = None
        self._next: asyncio.Future[Flushed] | None = None
        self._last: Flushed | None = None

    def __repr__(self) -> str:
        return f"<CommitFlusher {self._last}>"

    async def cover(self, seq: int | None, life: UUID) -> None:
        """Return once log rows up to seq are durable; they were read in this life of the database.

        Raises SourceUnavailable, also where the database was restarted meanwhile: then nobody knows
        which of them are left.
        """
        last = self._last
        if seq is None or (last is not None and last.life == life and last.seq >= seq):
            return
        await self.cover_all(life)

    async def cover_all(self, life: UUID) -> None:
        """Return once all that was committed before this call, in this life, is durable.

        Raises as cover() does.
        """
        if (await self.flush()).life != life:
            raise SourceUnavailable(SOURCE, "it was restarted before the objects were durable")

    async def flush(self) -> Flushed:
        """Make all durable that was committed before this call. Raises SourceUnavailable."""
        return await asyncio.shield(self._flush_after_now())

    def _flush_after_now(self) -> asyncio.Future[Flushed]:
        """Return the flush that begins next: the one under way may have begun too early."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._flush(self._running))
        return self._next

    async def _flush(self, before: asyncio.Future[Flushed] | None) -> Flushed:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        return self._note(await self._connections.ask_one(_FLUSH))

    async def flush_behind(self, statement: Statement) -> Row:
        """Run a statement with one row, and make durable what it has logged; return the row.

        It takes one journey to the database instead of two, but nobody shares the flush. That is
        left out where there is nothing new to flush; so cover() has the last word all the same.

        Raises SourceUnavailable, StorageFull.
        """
        last_seq = -1 if self._last is None else self._last.seq
        (row,), flushed = await self._connections.ask_both(
            statement, Statement(_FLUSH_NEW, [last_seq])
        )
        for each in flushed:
            self._note(each)
        return row

    def _note(self, row: Row) -> Flushed:
        flushed, last = Flushed(*row), self._last
        if last is None or last.life != flushed.life or last.seq < flushed.seq:
            self._last = flushed
        return flushed

    async def close(self) -> None:
        """Drop what is under way."""
        under_way = [each for each in (self._running, self._next) if each is not None]
        for each in under_way:
            each.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
