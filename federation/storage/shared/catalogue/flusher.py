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
        row = await self._connections.ask_one("SELECT flushed, token FROM federation_flush()")
        self._last = Flushed(*row)
        return self._last

    async def close(self) -> None:
        """Drop what is under way."""
        under_way = [each for each in (self._running, self._next) if each is not None]
        for each in under_way:
            each.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
