"""Brings one large blob from the bucket into the cache, while any number of readers follow.

Each part is verified before readers see it. Where the hashes of the parts do not prove the whole
(part_hashes.py), the last one also waits until all were hashed for the digest. So no read of wrong
bytes ever ends well, and no reader waits for the whole blob. Parts are stored behind that: readers
that keep up are given them from memory meanwhile, so they wait neither for the disk nor for a
thread; others read the growing file.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection

import structlog

from federation.core.digest import Digest
from federation.core.errors import (
    BlobDamaged,
    DigestMismatch,
    FederationError,
    SourceUnavailable,
)
from federation.core.store import Growing
from federation.storage.ingest import LocalIngest
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.naming import PART_BYTES, part_count
from federation.storage.shared.part_hashes import PartProof, prove_whole
from federation.storage.shared.parts import PartDamaged, fetch_part
from federation.storage.shared.site_context import SiteContext

_log = structlog.get_logger(__name__)
_AHEAD_PARTS = 4  # fetched at once
_BEHIND_PARTS = 2  # wait to be stored, besides the one that is being stored and the newest one


class CacheTrouble(Exception):
    """The cache could not take the blob; its readers go on without the cache."""


class BucketFill:
    """The one copy of a blob under way. Readers call wait_beyond() and read()."""

    def __init__(self, core: SiteContext, digest: Digest, at: BlobAt, ingest: LocalIngest) -> None:
        """ingest: one of the cache that was given nothing yet."""
        self._core = core
        self._digest = digest
        self._at = at
        self._ingest = ingest
        self._proof: PartProof | None = None  # None: the whole has to be hashed
        if prove_whole(at.parts, digest.size_bytes):
            self._proof = PartProof(digest)
            ingest.hash_with(self._proof)
        self._growing: Growing | None = None
        self._held: deque[memoryview] = deque()  # parts that came and are not stored yet
        self._stored_bytes = 0  # where the first of them begins
        self._moved = asyncio.Event()  # another one after each move
        self.available_bytes = 0
        self.readers = 0
        self.error: Exception | None = None

    def __repr__(self) -> str:
        return f"<BucketFill {self._digest} {self.available_bytes}, {self.readers} readers>"

    @property
    def is_wanted(self) -> bool:
        """Whether to go on: somebody reads it, or more than half of it is here."""
        return self.readers > 0 or self.available_bytes > self._digest.size_bytes // 2

    async def run(self) -> None:
        """Fetch and store everything; failures are kept in `error`."""
        try:
            await self._receive()
            await self._keep()
        except (FederationError, CacheTrouble) as error:
            self._move(error=error)
        finally:
            if self.available_bytes < self._digest.size_bytes:  # nobody may wait for more
                self._move(error=SourceUnavailable("node", "the transfer was given up"))
            await self._ingest.abort()

    async def _keep(self) -> None:
        """Make what was received a blob of the cache. Readers have it all by now."""
        try:
            await self._ingest.commit()
        except FederationError as error:
            _log.warning("cache_write_failed", digest=str(self._digest), reason=str(error))

    async def wait_beyond(self, offset: int) -> None:
        """Wait until the byte at offset can be read. Raises what ended the fill before that."""
        while self.available_bytes <= offset:
            if self.error is not None:
                raise self.error
            await self._moved.wait()

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """Return up to size_bytes that are available at offset. Raises as wait_beyond does."""
        await self.wait_beyond(offset)
        end = min(offset + size_bytes, self.available_bytes)
        if offset >= self._stored_bytes:
            return self._from_memory(offset, end)
        assert self._growing is not None
        try:
            return await self._growing.read(offset, min(end, self._stored_bytes) - offset)
        except SourceUnavailable as error:
            raise CacheTrouble(str(error)) from error

    async def close(self) -> None:
        """Let go of the growing file; to be called when no reader is left and run() has ended."""
        if self._growing is not None:
            await self._growing.close()

    def _from_memory(self, offset: int, end: int) -> bytes:
        """Return a copy: a slow reader's slice must not keep the whole part in memory."""
        behind, from_byte = divmod(offset - self._stored_bytes, PART_BYTES)
        if behind >= len(self._held):
            raise CacheTrouble("a part that was shown could not be stored")
        return bytes(self._held[behind][from_byte : from_byte + end - offset])

    async def _receive(self) -> None:
        """Raises SourceUnavailable, BlobDamaged, CacheTrouble."""
        count = part_count(self._digest.size_bytes)
        came: asyncio.Queue[memoryview] = asyncio.Queue(_BEHIND_PARTS)
        work = [
            asyncio.ensure_future(self._fetch_all(count, came)),
            asyncio.ensure_future(self._store_all(count, came)),
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_EXCEPTION)
            for task in work:
                if task.done():
                    task.result()
        except (PartDamaged, DigestMismatch) as damage:
            await self._core.set_aside(self._digest, self._at, str(damage))
            raise BlobDamaged(self._digest, str(damage)) from damage
        finally:
            for task in work:  # once: a second time would end their cleaning up
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            while self._held:
                self._let_go()

    async def _fetch_all(self, count: int, came: asyncio.Queue[memoryview]) -> None:
        """Fetch the parts, several at once, and show them in order; see _show_last() for the last.

        Raises SourceUnavailable, PartDamaged, CacheTrouble.
        """
        ahead: deque[asyncio.Task[memoryview]] = deque()
        begun = 0
        try:
            for part in range(count):
                if not self.is_wanted:
                    raise CacheTrouble("nobody reads it any more")
                while begun < min(count, part + _AHEAD_PARTS):
                    ahead.append(asyncio.ensure_future(self._fetch(begun)))
                    begun += 1
                data = await ahead[0]
                ahead.popleft()
                self._held.append(data)
                if self._proof is not None:
                    self._proof.verified(data)
                if self._proof is not None or part < count - 1:
                    self._move(added_bytes=len(data))
                await came.put(data)
        finally:
            await self._drop(ahead)

    async def _fetch(self, part: int) -> memoryview:
        """Fetch a part into one of the places for parts in memory; see _let_go()."""
        await self._core.fetching.acquire()
        try:
            return await fetch_part(self._core.bucket, self._digest, self._at, part)
        except BaseException:
            self._core.fetching.release()
            raise

    async def _drop(self, ahead: Collection[asyncio.Task[memoryview]]) -> None:
        for task in ahead:
            task.cancel()
        for outcome in await asyncio.gather(*ahead, return_exceptions=True):
            if isinstance(outcome, memoryview):
                self._core.fetching.release()

    async def _store_all(self, count: int, came: asyncio.Queue[memoryview]) -> None:
        """Store the parts in order. Raises CacheTrouble, DigestMismatch."""
        try:
            for part in range(count):
                shows_last = self._proof is None and part == count - 1
                data = await came.get()
                await self._ingest.append(data, self._show_last if shows_last else None)
                if self._growing is None:
                    self._growing = await self._ingest.open_growing()
                self._stored_bytes += self._let_go()
        except DigestMismatch:
            raise
        except FederationError as error:
            raise CacheTrouble(str(error)) from error

    def _show_last(self) -> None:
        """Show the last part, if the whole that was hashed is right. Raises DigestMismatch."""
        self._ingest.verify()
        self._move(added_bytes=self._digest.size_bytes - self.available_bytes)

    def _let_go(self) -> int:
        """Drop the first part that is held, and give its place back. Return the part's size."""
        size_bytes = len(self._held.popleft())
        self._core.fetching.release()
        return size_bytes

    def _move(self, *, added_bytes: int = 0, error: Exception | None = None) -> None:
        """Show more bytes, or why there will be none, to those who wait."""
        self.available_bytes += added_bytes
        self.error = self.error or error
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
