"""Reads blobs of a site for a command: from its catalogue and its bucket, past every cache."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from federation.core.digest import Digest
from federation.core.errors import BlobDamaged, BlobNotFound, OffsetOutside
from federation.core.store import CHUNK_BYTES, Chunks, NextBytes
from federation.core.uses import Use
from federation.storage.blob_files import Damage
from federation.storage.catalogue.blobs import key_of
from federation.storage.shared.admin.joining import ObjectReader
from federation.storage.shared.catalogue.rows import BlobAt
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.verification import check_inline


class SiteReader:
    """See Readable. Leases nothing; a damaged blob counts as missing, and stays where it is."""

    def __init__(self, catalogue: SiteCatalogue, objects: ObjectReader) -> None:
        self._catalogue = catalogue
        self._objects = objects

    def __repr__(self) -> str:
        return f"<SiteReader of site {self._catalogue.site_id}>"

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """See Readable."""
        return await missing_at_site(self._catalogue, digests)

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """See Readable."""
        found = await _look_up(self._catalogue, digests, with_bytes=True)
        return [await self._verified(digest, found.get(key_of(digest))) for digest in digests]

    async def read(self, digest: Digest) -> bytes | None:
        """Return a blob's verified bytes; None: it is missing or damaged."""
        (data,) = await self.read_small([digest])
        return data

    async def _verified(self, digest: Digest, at: BlobAt | None) -> bytes | None:
        if digest.is_empty:
            return b""
        if at is None or problem_of(digest, at):
            return None
        try:
            if at.attempt is None:
                check_inline(digest, at.data or b"")
                return at.data
            return b"".join([part async for part in self._objects.parts(digest, at)])
        except (Damage, BlobDamaged):
            return None

    def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AbstractAsyncContextManager[Chunks]:
        """See Readable. Holds the whole blob in memory."""
        del next_bytes
        return self._open(digest, offset, limit)

    @asynccontextmanager
    async def _open(self, digest: Digest, offset: int, limit: int | None) -> AsyncIterator[Chunks]:
        data = await self.read(digest)
        if data is None:
            raise BlobNotFound(digest)
        if not 0 <= offset <= len(data):
            raise OffsetOutside(digest, offset)
        end = len(data) if limit is None else min(len(data), offset + limit)

        async def chunks() -> Chunks:
            for at in range(offset, end, CHUNK_BYTES):
                yield data[at : min(end, at + CHUNK_BYTES)]

        yield chunks()


async def missing_at_site(catalogue: SiteCatalogue, digests: Collection[Digest]) -> set[Digest]:
    """Return which of these blobs count as missing. Raises SourceUnavailable."""
    wanted = [digest for digest in digests if not digest.is_empty]
    found = await _look_up(catalogue, wanted, with_bytes=False)
    return {digest for digest in wanted if problem_of(digest, found.get(key_of(digest)))}


async def _look_up(
    catalogue: SiteCatalogue, digests: Sequence[Digest], *, with_bytes: bool
) -> dict[bytes, BlobAt]:
    keys = [key_of(digest) for digest in digests]
    return await catalogue.blobs.look_up(keys, Use.PEEK, with_bytes=with_bytes)


def problem_of(digest: Digest, at: BlobAt | None) -> str:
    """Return why a blob counts as missing; empty: it does not."""
    if at is None:
        return "it is not held"
    if at.size_bytes != digest.size_bytes:
        return f"the blob held under this hash has {at.size_bytes} bytes"
    return ""
