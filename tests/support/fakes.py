"""In-memory stand-ins that keep the contracts of federation.core.store; tests/store/ proves it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from federation.core.clock import Clock, ManualClock
from federation.core.digest import Digest, DigestFunction, digest_of, hash_bytes
from federation.core.errors import (
    BlobNotFound,
    DigestMismatch,
    FederationError,
    OffsetOutside,
)
from federation.core.index import Entry, EntryKey
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.store import CHUNK_BYTES, Chunks, DigestCodec, NextBytes, Piece


class MemoryGrowing:
    def __init__(self, data: bytearray) -> None:
        self._data = data

    async def read(self, offset: int, size_bytes: int) -> bytes:
        return bytes(self._data[offset : offset + size_bytes])

    async def close(self) -> None:
        return None


class MemoryIngest:
    def __init__(
        self, store: MemoryStore, digest: Digest, provenance: Provenance = FROM_CLIENT
    ) -> None:
        self._store = store
        self.digest = digest
        self.provenance = provenance
        self._data = bytearray()

    @property
    def received_bytes(self) -> int:
        return len(self._data)

    async def append(self, data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
        if len(self._data) + len(data) > self.digest.size_bytes:
            raise DigestMismatch(self.digest, "more bytes were sent")
        self._data += data
        if on_hashed is not None:
            on_hashed()

    async def open_growing(self) -> MemoryGrowing:
        return MemoryGrowing(self._data)

    def verify(self) -> None:
        self._store.check(self.digest, bytes(self._data))

    async def commit(self) -> bool:
        return self._store.add(self.digest, bytes(self._data))

    async def abort(self) -> None:
        self._data = bytearray()


class MemoryUnsizedIngest(MemoryIngest):
    def __init__(
        self,
        store: MemoryStore,
        function: DigestFunction,
        raw_hash: bytes | None,
        provenance: Provenance = FROM_CLIENT,
    ) -> None:
        super().__init__(store, Digest(raw_hash or bytes(32), 2**40, function), provenance)
        self._raw_hash = raw_hash

    def verify(self) -> None:
        found = digest_of(bytes(self._data), self.digest.function)
        if self._raw_hash is not None and found.hash != self._raw_hash:
            raise DigestMismatch(self.digest, "other bytes were sent")
        self.digest = found

    async def commit(self) -> bool:
        self.verify()
        return await super().commit()


class MemoryWatch:
    """Is certain as long as the store's epoch stays."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._epoch = store.epoch

    def renew(self, digests: Callable[[], Collection[Digest]] | None) -> bool:
        if not self._store.is_certain or self._epoch != self._store.epoch:
            return False
        if digests is not None:
            self._store.leased.update(digests())
        return True


class MemoryStore:
    """Holds blobs in a dict. `blobs` may be changed by tests; bump `epoch` after a removal.

    is_certain: whether nothing goes without a new epoch.
    """

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.epoch = 0
        self.is_certain = True
        self.leased: set[Digest] = set()

    def check(self, digest: Digest, data: bytes) -> None:
        if len(data) != digest.size_bytes or hash_bytes(digest.function, data) != digest.hash:
            raise DigestMismatch(digest, "other bytes were sent")

    def add(self, digest: Digest, data: bytes) -> bool:
        self.check(digest, data)
        new = digest not in self.blobs and not digest.is_empty
        if new:
            self.blobs[digest] = data
        return new

    def remove(self, digest: Digest) -> None:
        del self.blobs[digest]
        self.epoch += 1

    def _get(self, digest: Digest) -> bytes | None:
        return b"" if digest.is_empty else self.blobs.get(digest)

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        missing = {d for d in digests if self._get(d) is None}
        self.leased.update(set(digests) - missing)
        return missing

    async def write_one(
        self, digest: Digest, data: bytes, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        return self._get(digest) is None and self.add(digest, data)

    async def accept_held(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> bool:
        return not await self.find_missing([digest])

    def find_missing_at_once(
        self, names: Sequence[bytes], spelling: DigestCodec
    ) -> set[bytes] | None:
        return None

    def read_at_once(self, digest: Digest) -> bytes | None:
        return None

    async def find_missing_named(self, names: Sequence[bytes], spelling: DigestCodec) -> set[bytes]:
        digests = spelling.digests_of(names)
        missing = await self.find_missing(digests)
        return {name for name, digest in zip(names, digests, strict=True) if digest in missing}

    @asynccontextmanager
    async def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AsyncIterator[Chunks]:
        data = self._get(digest)
        if data is None:
            raise BlobNotFound(digest)
        if not 0 <= offset <= digest.size_bytes:
            raise OffsetOutside(digest, offset)
        end = len(data) if limit is None else min(len(data), offset + limit)

        async def chunks() -> AsyncIterator[bytes]:
            at = offset
            while at < end:
                step = min(next_bytes() if next_bytes else CHUNK_BYTES, CHUNK_BYTES, end - at)
                yield data[at : at + step]
                at += step

        yield chunks()

    async def write(
        self, digest: Digest, chunks: AsyncIterable[bytes], *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        if self._get(digest) is not None:
            return False
        ingest = self.begin(digest, provenance=provenance)
        async for chunk in chunks:
            await ingest.append(chunk)
        return await ingest.commit()

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        return [self._get(d) for d in digests]

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], *, provenance: Provenance = FROM_CLIENT
    ) -> list[FederationError | None]:
        outcome: list[FederationError | None] = []
        for digest, data in blobs:
            try:
                self.add(digest, data)
                outcome.append(None)
            except DigestMismatch as error:
                outcome.append(error)
        return outcome

    def begin(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> MemoryIngest:
        return MemoryIngest(self, digest, provenance)

    def begin_unsized(
        self,
        function: DigestFunction,
        raw_hash: bytes | None = None,
        *,
        announced_bytes: int = 0,
        provenance: Provenance = FROM_CLIENT,
    ) -> MemoryIngest:
        return MemoryUnsizedIngest(self, function, raw_hash, provenance)

    async def size_of(self, function: DigestFunction, raw_hash: bytes) -> int | None:
        if Digest(raw_hash, 0, function).is_empty:
            return 0
        found = (d for d in self.blobs if d.function == function and d.hash == raw_hash)
        return next((d.size_bytes for d in found), None)

    def commits(self) -> int:
        return len(self.blobs)

    def watch(self) -> MemoryWatch:
        return MemoryWatch(self)


class MemoryEntries(ABC):
    """What index entries in a dict have in common; put() is its own for each."""

    entries: dict[EntryKey, Entry]

    async def get(self, keys: Sequence[EntryKey]) -> list[Entry | None]:
        return [self.entries.get(key) for key in keys]

    async def get_like(self, keys: Sequence[EntryKey]) -> list[Entry]:
        found = [
            entry
            for key in keys
            for held, entry in self.entries.items()
            if held[:2] == key[:2] and held.name.startswith(key.name)
        ]
        return sorted(found, key=lambda entry: (entry.stamp, entry.stored_at_s), reverse=True)

    def recall(self, key: EntryKey) -> Entry | None:
        return self.entries.get(key)

    def lacks_at_once(self, keys: Sequence[EntryKey]) -> bool:
        return False

    async def put_over(
        self, entry: Entry, held: Entry | None, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        now = self.entries.get(entry.key)
        if (now and (now.value, now.stamp)) != (held and (held.value, held.stamp)):
            return False
        await self.put([entry], provenance=provenance)
        return True

    @abstractmethod
    async def put(
        self, entries: Sequence[Entry], *, provenance: Provenance = FROM_CLIENT
    ) -> None: ...


class MemoryIndex(MemoryEntries):
    def __init__(self, clock: Clock | None = None) -> None:
        self.entries: dict[EntryKey, Entry] = {}
        self._clock = clock or ManualClock()

    async def put(self, entries: Sequence[Entry], *, provenance: Provenance = FROM_CLIENT) -> None:
        for entry in entries:
            held = self.entries.get(entry.key)
            if (
                held
                and held.source is not Source.UPSTREAM is provenance.source
                and (held.expires_at_s is None or held.expires_at_s > self._clock.wall_s())
            ):
                continue
            self.entries[entry.key] = entry._replace(
                stored_at_s=self._clock.wall_s(),
                source=provenance.source,
                origin=provenance.origin,
            )
