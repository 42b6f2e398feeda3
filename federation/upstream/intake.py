"""What one pull receives, on its way into storage: the next bytes come while the last are written.

Pieces grow while the disk is busy, up to a bound, and shrink to single messages when it is not. So
an upstream is kept sending, and a message costs no hand-off to a thread of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from federation.core.store import CHUNK_BYTES, Ingest
from federation.upstream.recent import Budget, Recent


class Intake:
    """Feeds one ingest. Its pieces are in recent from when they begin to be stored."""

    def __init__(
        self,
        ingest: Ingest,
        recent: Recent,
        budget: Budget,
        on_piece: Callable[[], None],
        on_first_stored: Callable[[], Awaitable[None]],
        on_all_hashed: Callable[[], None],
    ) -> None:
        """Take what is told of progress.

        on_piece: there is more in recent. on_first_stored: the ingest can be read as a file; not
        called for a blob that comes as one piece.
        on_all_hashed: the ingest can say whether all that came is right; the rest is still stored.
        """
        self.ingest = ingest
        self.recent = recent
        self._budget = budget
        self._on_piece = on_piece
        self._on_first_stored = on_first_stored
        self._on_all_hashed = on_all_hashed
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._budgeted_bytes = 0  # of what is gathered
        self._taken = asyncio.Event()
        self._storing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Intake {self.recent!r}, {self._gathered_bytes} gathered>"

    @property
    def came_bytes(self) -> int:
        """How much put() was given."""
        return self.recent.end + self._gathered_bytes

    async def put(self, data: bytes) -> None:
        """Take the next bytes.

        Waits while a whole piece waits behind the one that is being stored, and, where the node's
        memory budget is used up, until this one is stored.

        Raises what storing earlier ones came to: see Ingest.append.
        """
        within_budget = self._budget.try_take(len(data))
        self._budgeted_bytes += len(data) if within_budget else 0
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._storing is None or self._storing.done():
            await self.settle()
            self._storing = asyncio.get_running_loop().create_task(self._store(), name="intake")
        if not within_budget:
            await self.settle()
        while self._gathered_bytes >= CHUNK_BYTES and not self._storing.done():
            await self._next_taken(self._storing)

    async def _next_taken(self, storing: asyncio.Task[None]) -> None:
        self._taken.clear()
        taken = asyncio.ensure_future(self._taken.wait())
        try:
            await asyncio.wait({taken, storing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            taken.cancel()

    async def settle(self) -> None:
        """Wait until all that came is stored. Raises what that came to."""
        if self._storing is not None:
            await asyncio.shield(self._storing)

    async def close(self) -> None:
        """Store nothing more, and forget what came. What a thread is at is waited for."""
        try:
            await self.stop()
        finally:
            self.recent.close()

    async def stop(self) -> None:
        """Store nothing more; recent keeps what was not stored."""
        self._gathered.clear()
        self._gathered_bytes = 0
        self._budget.give_back(self._budgeted_bytes)
        self._budgeted_bytes = 0
        try:
            if self._storing is not None:
                self._storing.cancel()
                await asyncio.gather(self._storing, return_exceptions=True)
        finally:
            await self.ingest.abort()  # though who waits is stopped, too

    async def _store(self) -> None:
        while self._gathered:
            piece = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
            self._gathered.clear()
            self._gathered_bytes = 0
            budgeted_bytes, self._budgeted_bytes = self._budgeted_bytes, 0
            self._taken.set()
            self.recent.add(piece)
            self._on_piece()
            try:
                await self._store_piece(piece)
            finally:
                self._budget.give_back(budgeted_bytes)

    async def _store_piece(self, piece: bytes) -> None:
        first = self.ingest.received_bytes == 0
        last = self.ingest.received_bytes + len(piece) == self.ingest.digest.size_bytes
        await self.ingest.append(piece, self._on_all_hashed if last else None)
        if first and not last:
            await self._on_first_stored()
        self.recent.wrote(self.ingest.received_bytes)
