"""Streams one blob of a shared site: from the cache, else the catalogue, else the bucket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, suppress
from types import TracebackType

from federation.core import uses
from federation.core.digest import Digest
from federation.core.errors import (
    BlobDamaged,
    BlobNotFound,
    OffsetOutside,
    SourceUnavailable,
    TooBusy,
)
from federation.core.store import CHUNK_BYTES, Chunks, NextBytes
from federation.core.uses import Use
from federation.storage.blob_files import Damage
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.fill import BucketFill, CacheTrouble
from federation.storage.shared.fills import Fills
from federation.storage.shared.naming import PART_BYTES
from federation.storage.shared.part_hashes import prove_whole
from federation.storage.shared.parts import PartDamaged, WholeHash, fetch_part
from federation.storage.shared.site_context import SiteContext
from federation.storage.verification import check_inline


class SiteReading:
    """An async context manager that yields a blob's chunks. Entering finds and opens the blob."""

    def __init__(
        self,
        core: SiteContext,
        fills: Fills,
        digest: Digest,
        offset: int,
        limit: int | None,
        next_bytes: NextBytes | None,
    ) -> None:
        self._core = core
        self._fills = fills
        self._digest = digest
        self._offset = offset
        self._limit = limit
        end = digest.size_bytes if limit is None else offset + limit
        self._end = min(end, digest.size_bytes)
        self._next_bytes = next_bytes
        self._asked = 0  # what next_bytes said for a chunk that the cache did not have
        self._use = uses.current()
        self._purge_seq = core.catalogue.watch.row.purge_seq
        self._cached: AbstractAsyncContextManager[Chunks] | None = None  # entered
        self._open = AsyncExitStack()  # for what does not come from the cache

    def __repr__(self) -> str:
        return f"<SiteReading {self._digest} {self._offset}..{self._end}>"

    async def __aenter__(self) -> Chunks:
        """Find the blob, and wait for its first bytes.

        Raises BlobNotFound (missing or damaged), OffsetOutside, SourceUnavailable, TooBusy.
        """
        if not 0 <= self._offset <= self._digest.size_bytes:
            raise OffsetOutside(self._digest, self._offset)
        cached = await self._from_cache()
        if cached is not None:
            return cached
        try:
            return await self._from_site()
        except BaseException:
            await self._open.aclose()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._cached is not None:
            await self._cached.__aexit__(kind, error, trace)
        else:
            await self._open.aclose()

    async def _from_cache(self) -> Chunks | None:
        if not self._core.purged.is_current:
            return None
        opening = self._core.cache.open_read(
            self._digest, offset=self._offset, limit=self._limit, next_bytes=self._ask
        )
        try:
            chunks = await opening.__aenter__()
        except (BlobNotFound, SourceUnavailable):
            return None  # the cache's trouble is in health(); the site has the blob or not
        self._cached = opening
        if self._use is Use.CLIENT and not self._digest.is_empty:
            self._core.uses.note(self._digest)
        return chunks

    async def _from_site(self) -> Chunks:
        core, key = self._core, key_of(self._digest)
        at = (await core.catalogue.blobs.look_up([key], self._use, with_bytes=True)).get(key)
        if at is None or at.size_bytes != self._digest.size_bytes:
            raise BlobNotFound(self._digest)
        if at.attempt is None:
            return self._slices(await self._inline(at))
        if self._offset >= self._end:
            return self._slices(b"")
        try:
            return await self._from_bucket(at)
        except BlobDamaged as damage:
            raise BlobNotFound(self._digest) from damage

    async def _from_bucket(self, at: BlobAt) -> Chunks:
        """Raises BlobDamaged, SourceUnavailable, TooBusy."""
        fill = await self._open.enter_async_context(
            self._fills.following(self._digest, at, self._offset)
        )
        if fill is not None:
            with suppress(CacheTrouble):
                await fill.wait_beyond(self._offset)
                return self._closing(self._follow(fill, at))
        await self._take_place()
        return self._closing(self._direct(at, await self._part(at)))

    def _closing(self, chunks: AsyncGenerator[bytes, None]) -> Chunks:
        self._open.push_async_callback(chunks.aclose)
        return chunks

    async def _inline(self, at: BlobAt) -> bytes:
        """Return the bytes that the catalogue has. Raises BlobNotFound."""
        data = at.data or b""
        try:
            check_inline(self._digest, data)
        except Damage as damage:
            await self._core.set_aside(self._digest, at, str(damage))
            raise BlobNotFound(self._digest) from damage
        self._core.keep_small([(self._digest, data)])
        return data

    async def _slices(self, data: bytes) -> AsyncIterator[bytes]:
        while self._offset < self._end:
            step = self._step()
            yield data[self._offset : self._offset + step]
            self._offset += step

    async def _follow(self, fill: BucketFill, at: BlobAt) -> AsyncGenerator[bytes, None]:
        """Yield what the fill has; go on without it where the cache fails it."""
        while self._offset < self._end:
            try:
                data = await fill.read(self._offset, self._step())
            except CacheTrouble:
                break
            self._offset += len(data)
            await self._check_purged()
            yield data
        if self._offset < self._end:
            await self._take_place()
            async with aclosing(self._direct(at, None)) as rest:
                async for data in rest:
                    yield data

    async def _take_place(self) -> None:
        """Take one of the places of readers that hold a part in memory. Raises TooBusy."""
        if self._core.direct.locked():
            raise TooBusy("too many large blobs are being read past the cache; try again")
        await self._open.enter_async_context(self._core.direct)

    async def _direct(self, at: BlobAt, part: memoryview | None) -> AsyncGenerator[bytes, None]:
        """Yield the rest part by part; part: the one at the offset, if it was fetched already.

        Whoever reads the whole of a blob that its parts do not prove gets the last part after the
        whole was compared, too.
        """
        is_whole = self._offset == 0 and self._end == self._digest.size_bytes
        hashes_whole = is_whole and not prove_whole(at.parts, self._digest.size_bytes)
        whole = WholeHash(self._digest) if hashes_whole else None
        while self._offset < self._end:
            data = await self._part(at) if part is None else part
            part = None
            start = self._offset - self._offset % PART_BYTES
            if whole is not None:
                await self._compare(whole, data, at)
            while self._offset < min(self._end, start + len(data)):
                from_byte = self._offset - start
                chunk = bytes(data[from_byte : from_byte + self._step()])
                self._offset += len(chunk)
                await self._check_purged()
                yield chunk

    async def _compare(self, whole: WholeHash, data: memoryview, at: BlobAt) -> None:
        """Raises BlobDamaged: the whole is not what the digest names."""
        try:
            await whole.take(data)
        except PartDamaged as damage:
            raise await self._damaged(at, str(damage)) from damage

    async def _check_purged(self) -> None:
        """Raise BlobNotFound if the blob was purged since this reading began."""
        purge_seq = self._core.catalogue.watch.row.purge_seq
        if purge_seq == self._purge_seq:
            return
        self._purge_seq = purge_seq
        if await self._core.catalogue.purges.blobs_among([self._digest]):
            raise BlobNotFound(self._digest)

    async def _part(self, at: BlobAt) -> memoryview:
        """Fetch the part at the offset. Raises SourceUnavailable, BlobDamaged."""
        try:
            return await fetch_part(self._core.bucket, self._digest, at, self._offset // PART_BYTES)
        except PartDamaged as damage:
            raise await self._damaged(at, str(damage)) from damage

    async def _damaged(self, at: BlobAt, reason: str) -> BlobDamaged:
        """Set the blob aside; return what tells its reader. Raises as SiteContext.set_aside."""
        await self._core.set_aside(self._digest, at, reason)
        return BlobDamaged(self._digest, reason)

    def _ask(self) -> int:
        self._asked = CHUNK_BYTES if self._next_bytes is None else self._next_bytes()
        return self._asked

    def _step(self) -> int:
        wanted, self._asked = self._asked or self._ask(), 0
        return min(max(wanted, 1), CHUNK_BYTES, self._end - self._offset)
