"""Bytes of one upload on their way into the store.

Small messages are gathered, and the next ones are received while the last are hashed and written.
What runs in the store is a task that is never cancelled: a client that leaves in mid-append must
not leave an ingest of which nobody knows how much it took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from federation.core.errors import FederationError
from federation.core.memory_budget import MemoryBudget
from federation.core.store import Ingest
from federation.services.cpu_pool import Compute
from federation.wire.zstd import Decoder

GATHER_BYTES = 2**20


class UploadReceiver:
    """Feeds one ingest. decoder is that of a zstd upload."""

    def __init__(
        self, ingest: Ingest, decoder: Decoder | None, budget: MemoryBudget, compute: Compute
    ) -> None:
        self._ingest = ingest
        self._decoder = decoder
        self._budget = budget
        self._compute = compute
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._budgeted_bytes = 0
        self._running: asyncio.Task[Any] | None = None

    async def put(self, data: bytes) -> None:
        """Take the next bytes. Raises what an earlier put's bytes came to: see Ingest.append."""
        within_budget = self._budget.try_take(len(data))
        if within_budget:
            self._budgeted_bytes += len(data)
        if data:
            self._gathered.append(data)
            self._gathered_bytes += len(data)
        if self._gathered_bytes >= GATHER_BYTES or not within_budget:
            await self._flush()

    async def finish(self) -> bool:
        """Commit. Raises InvalidRequest for zstd data cut short; see Ingest.commit."""
        await self._flush()
        await self._settle()
        if self._decoder is not None:
            self._decoder.finish()
        self._run(self._ingest.commit())
        return bool(await self._settle())

    async def park(self) -> bool:
        """Write what is gathered, so that a later stream can go on. False: it cannot."""
        try:
            await self._flush()
            await self._settle()
        except FederationError:
            return False
        return True

    async def abort(self) -> None:
        """Drop everything. Does not raise what a running append or commit ran into."""
        if self._running is not None:
            await asyncio.wait([self._running])
            self._running.exception()
            self._running = None
        self._gathered.clear()
        self._budget.give_back(self._budgeted_bytes)
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

    async def _append(self, data: bytes, budgeted_bytes: int) -> None:
        try:
            if self._decoder is None:
                await self._ingest.append(data)
                return
            self._decoder.push(data)
            while piece := await self._compute.run(len(data), self._decoder.pull):
                await self._ingest.append(piece)
        finally:
            self._budget.give_back(budgeted_bytes)

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        self._running = asyncio.get_running_loop().create_task(work, name="ingest")

    async def _settle(self) -> Any:
        """Wait for what runs, and return or raise what it came to. Safe to cancel."""
        if self._running is None:
            return None
        result = await asyncio.shield(self._running)
        self._running = None
        return result
