"""Two nodes of a shared site as one store: written through one, asked through the other."""

from __future__ import annotations

from collections.abc import AsyncIterable, Collection, Sequence
from contextlib import AbstractAsyncContextManager

from federation.core.digest import Digest, DigestFunction
from federation.core.errors import FederationError
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.store import Chunks, DigestCodec, HeldWatch, Ingest, LocalStore, NextBytes
from federation.storage.shared.storage import SharedStorage


class TwoNodes:
    """See LocalStore and WatchesHeld."""

    def __init__(self, written: SharedStorage, asked: SharedStorage) -> None:
        self.written: LocalStore = written
        self.asked = asked

    def __repr__(self) -> str:
        return f"<TwoNodes {self.written!r} {self.asked!r}>"

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        return await self.asked.find_missing(digests)

    async def find_missing_named(self, names: Sequence[bytes], spelling: DigestCodec) -> set[bytes]:
        return await self.asked.find_missing_named(names, spelling)

    def find_missing_at_once(
        self, names: Sequence[bytes], spelling: DigestCodec
    ) -> set[bytes] | None:
        return self.asked.find_missing_at_once(names, spelling)

    def read_at_once(self, digest: Digest) -> bytes | None:
        return self.asked.read_at_once(digest)

    def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AbstractAsyncContextManager[Chunks]:
        return self.asked.open_read(digest, offset=offset, limit=limit, next_bytes=next_bytes)

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        return await self.asked.read_small(digests)

    async def size_of(self, function: DigestFunction, raw_hash: bytes) -> int | None:
        return await self.asked.size_of(function, raw_hash)

    def watch(self) -> HeldWatch:
        return self.asked.watch()

    def commits(self) -> int:
        return self.asked.commits()

    async def write(
        self, digest: Digest, chunks: AsyncIterable[bytes], *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        return await self.written.write(digest, chunks, provenance=provenance)

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], *, provenance: Provenance = FROM_CLIENT
    ) -> list[FederationError | None]:
        return await self.written.write_small(blobs, provenance=provenance)

    async def write_one(
        self, digest: Digest, data: bytes, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        return await self.written.write_one(digest, data, provenance=provenance)

    async def accept_held(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> bool:
        return await self.written.accept_held(digest, provenance=provenance)

    def begin(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> Ingest:
        return self.written.begin(digest, provenance=provenance)

    def begin_unsized(
        self,
        function: DigestFunction,
        raw_hash: bytes | None = None,
        *,
        announced_bytes: int = 0,
        provenance: Provenance = FROM_CLIENT,
    ) -> Ingest:
        return self.written.begin_unsized(
            function, raw_hash, announced_bytes=announced_bytes, provenance=provenance
        )
