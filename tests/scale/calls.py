"""Calls that clients cause a node to make to its database, at random moments."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from federation.core.digest import HASH_BYTES, Digest
from federation.core.index import EntryKey, EntryKind
from federation.core.uses import Use
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue.blobs import SiteBlobs
from federation.storage.shared.catalogue.entries import SiteIndex
from federation.storage.shared.catalogue.rows import NewBlob

_BLOB_BYTES = 1024


class CallRates(NamedTuple):
    """Calls a second of one node that reach the database; writes are of one small blob each."""

    writes: float = 0.0
    finds: float = 0.0
    reads: float = 0.0
    entries: float = 0.0
    find_keys: int = 100  # of a FindMissing, less those found a moment ago


class SiteCaller:
    """Makes the calls of one node, on a real or a simulated catalogue."""

    def __init__(self, blobs: SiteBlobs, index: SiteIndex, rng: random.Random) -> None:
        self._blobs = blobs
        self._index = index
        self._rng = rng
        self.waits_s: list[float] = []  # of each write until it was durable

    async def serve(self, rates: CallRates, seconds: float) -> None:
        """Make calls at these rates for so long, and wait until all have ended."""
        keys = [key_of(self._digest()) for _ in range(rates.find_keys)]
        entry = EntryKey(EntryKind.ACTION_RESULT, "", self._rng.randbytes(HASH_BYTES))

        async def read() -> None:
            await self._blobs.look_up(keys[:1], Use.CLIENT, with_bytes=True)

        await asyncio.gather(
            self._repeat(self._write, rates.writes, seconds),
            self._repeat(lambda: self._blobs.find(keys, Use.CLIENT), rates.finds, seconds),
            self._repeat(read, rates.reads, seconds),
            self._repeat(lambda: self._index.get([entry]), rates.entries, seconds),
        )

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await self._blobs.insert([NewBlob(self._digest(), bytes(_BLOB_BYTES))])
        self.waits_s.append(loop.time() - begun_s)

    async def _repeat(
        self, call: Callable[[], Awaitable[object]], a_second: float, seconds: float
    ) -> None:
        """Call at random moments, without waiting for the end of one before the next."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + seconds
        under_way = []
        while a_second and (pause_s := self._rng.expovariate(a_second)) < until_s - loop.time():
            await asyncio.sleep(pause_s)
            under_way.append(asyncio.ensure_future(call()))
        await asyncio.gather(*under_way)

    def _digest(self) -> Digest:
        return Digest(self._rng.randbytes(HASH_BYTES), _BLOB_BYTES)
