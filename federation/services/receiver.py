"""Bytes of one upload on their way into the store.

Small messages are gathered, and the next ones are received while the last are hashed and written.
What runs in the store is a task that is never cancelled: a client that leaves in mid-append must
not leave an ingest of which nobody knows how much it took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from federation.core.digest import Digest
from federation.core.errors import FederationError, StorageFull
from federation.core.memory_budget import MemoryBudget
from federation.core.store import Ingest, Piece
from federation.services.cpu_pool import Compute
from federation.services.under_way import Part
from federation.wire.zstd import Decoder

GATHER_BYTES = 2**20


class UploadReceiver:
    """Feeds one ingest."""

    def __init__(
        self,
        ingest: Ingest,
        decoder: Decoder | None,
        budget: MemoryBudget,
        compute: Compute,
        under_way: Part,
        make_room: Callable[[], Awaitable[bool]],
    ) -> None:
        """Take the parts.

        decoder: that of a zstd upload. under_way: its account of the caller's bytes; closed here.
        make_room: drops a parked upload; False: there is none.
        """
        self._ingest = ingest
        self._decoder = decoder
        self._budget = budget
        self._compute = compute
        self._under_way = under_way
        self._make_room = make_room
        self._gathered: list[Piece] = []
        self._gathered_bytes = 0
        self._budgeted_bytes = 0
        self._running: asyncio.Task[Any] | None = None
        self._committing = False

    @property
    def digest(self) -> Digest:
        """What is received; see Ingest."""
        return self._ingest.digest

    async def put(self, data: Piece) -> None:
        """Take the next bytes. Raises errors of earlier ones: see Ingest.append."""
        within_budget = self._budget.try_acquire(len(data))
        if within_budget:
            self._budgeted_bytes += len(data)
        if data:
            self._gathered.append(data)
            self._gathered_bytes += len(data)
        # Without budget nothing is gathered: the message goes on at once.
        if self._gathered_bytes >= GATHER_BYTES or not within_budget:
            await self._flush()

    async def finish(self) -> bool:
        """Commit. Raises InvalidRequest for zstd data cut short; see Ingest.commit."""
        await self._flush()
        await self._settle()
        if self._decoder is not None:
            self._decoder.finish()
        # Before the commit runs: abort() must leave the account to it.
        self._committing = True
        self._run(self._commit())
        return bool(await self._settle())

    async def park(self) -> bool:
        """Write buffered bytes, so that a later stream can resume. False: it cannot."""
        try:
            await self._flush()
            await self._settle()
        except FederationError:
            return False
        self._under_way.pause()
        return True

    def go_on(self) -> None:
        """Another stream resumes it after park()."""
        self._under_way.resume()

    async def abort(self) -> None:
        """Drop everything. Errors of a running append or commit are ignored."""
        # An append that waits for room ends by this; a commit that runs closes it by itself.
        if not self._committing:
            self._under_way.close()
        if self._running is not None:
            await asyncio.wait([self._running])
            # Fetched, or asyncio would log it as an error that nobody looked at.
            self._running.exception()
            self._running = None
        self._gathered.clear()
        self._budget.release(self._budgeted_bytes)
        self._budgeted_bytes = 0
        await self._ingest.abort()

    async def _flush(self) -> None:
        await self._settle()
        if self._gathered:
            data = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
            self._gathered.clear()
            self._gathered_bytes = 0
            budgeted_bytes, self._budgeted_bytes = self._budgeted_bytes, 0
            self._run(self._append(data, budgeted_bytes))

    async def _append(self, data: Piece, budgeted_bytes: int) -> None:
        try:
            if self._decoder is None:
                await self._store(data)
                return
            self._decoder.push(data)
            # Piece by piece: one message may unpack to gigabytes.
            while piece := await self._compute.run(len(data), self._decoder.pull):
                await self._store(piece)
        finally:
            self._budget.release(budgeted_bytes)

    async def _store(self, piece: Piece) -> None:
        await self._under_way.acquire(len(piece))
        while True:
            try:
                await self._ingest.append(piece)
            except StorageFull:
                if not await self._make_room():
                    # Its room is free before the next upload asks: of many that cannot all have
                    # room, some get it.
                    await self._ingest.abort()
                    raise
            else:
                return

    async def _commit(self) -> bool:
        try:
            return await self._ingest.commit()
        finally:
            self._under_way.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        self._running = asyncio.get_running_loop().create_task(work, name="ingest")

    async def _settle(self) -> Any:
        """Wait for the running step, and return its result or raise its error. Safe to cancel."""
        if self._running is None:
            return None
        # A stream that ends must not cancel the step: see the module.
        result = await asyncio.shield(self._running)
        self._running = None
        return result
