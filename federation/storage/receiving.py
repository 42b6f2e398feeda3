"""Receives blobs: streams through LocalIngest, batches in one durable step."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable, Collection, Sequence

from federation.core.digest import HASH_BYTES, Digest, DigestFunction, hash_bytes
from federation.core.errors import (
    DigestMismatch,
    FederationError,
    SourceUnavailable,
    StorageFailed,
    StorageFull,
)
from federation.core.provenance import Provenance, Source
from federation.storage.batch_files import Incoming, Outcomes, store_files
from federation.storage.catalogue import blobs as catalogue
from federation.storage.context import StorageContext
from federation.storage.ingest import LocalIngest
from federation.storage.ingest_steps import take_all
from federation.storage.presence import Presence
from federation.storage.publishing import place_inline
from federation.storage.unsized_ingest import UnsizedIngest

HASH_INLINE_BYTES = 32 * 1024  # hashing less than this is cheaper than a hop to a thread


class BlobReceiver:
    """begin, write and write_small of local storage."""

    def __init__(self, core: StorageContext, presence: Presence) -> None:
        self._core = core
        self._presence = presence
        self._numbers = itertools.count()

    def begin(self, digest: Digest, origin: Provenance) -> LocalIngest:
        """See federation.core.store.LocalStore."""
        return LocalIngest(self._core, digest, self._path_for(digest), origin)

    def begin_unsized(
        self,
        function: DigestFunction,
        raw_hash: bytes | None,
        announced_bytes: int,
        origin: Provenance,
    ) -> LocalIngest:
        """See federation.core.store.LocalStore."""
        path = self._path_for(Digest(raw_hash or bytes(HASH_BYTES), announced_bytes, function))
        return UnsizedIngest(self._core, function, raw_hash, path, origin)

    def _path_for(self, digest: Digest) -> str:
        """Return a new path below incoming/ to receive a blob at.

        Raises StorageFailed, SourceUnavailable (the volume is in doubt), BlobTooLarge, StorageFull
        (the blob could never fit).
        """
        # Before anything is received: its client is told at once, and not after gigabytes.
        if self._core.writer.failure is not None:
            raise StorageFailed(self._core.writer.failure)
        self._core.directory.volume.check_writable()
        self._core.space.check_blob(digest)
        return f"{self._core.directory.incoming}/{self._core.run.id}-{next(self._numbers)}"

    def _reserve(self, size_bytes: int) -> None:
        try:
            self._core.space.reserve(size_bytes)
        except StorageFull:
            self._core.note_refusal(size_bytes)
            raise

    async def write(self, digest: Digest, chunks: AsyncIterable[bytes], origin: Provenance) -> bool:
        """See federation.core.store.Store."""
        if not await self.missing_of([digest], origin):
            return False
        return await take_all(self.begin(digest, origin), chunks)

    async def missing_of(self, digests: Collection[Digest], origin: Provenance) -> set[Digest]:
        """Return the missing digests, and record the upload of the others.

        A held blob that came from upstreams only becomes the uploader's (catalogue.blobs.renew).
        """
        if origin.source is Source.UPSTREAM:
            return await self._presence.find_missing(digests)
        missing, pulled = await self._presence.find_missing_and_pulled(digests)
        if pulled:
            await self._core.writer.submit(lambda tx: catalogue.renew_all(tx, pulled, origin))
        return missing

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], origin: Provenance
    ) -> list[FederationError | None]:
        """See federation.core.store.Store."""
        sizes = [len(data) for _, data in blobs]
        if sum(sizes) <= HASH_INLINE_BYTES:
            wrong = mismatches(blobs)
        else:
            wrong = await self._core.pool.run(mismatches, blobs)
        inline_max = self._core.settings.inline_max
        small: Sequence[tuple[Digest, bytes]] = blobs
        large: Sequence[tuple[Digest, bytes]] = ()
        are_all_small = not wrong and min(sizes, default=0) > 0 and max(sizes) <= inline_max
        # Hashes, since Python remembers the hash value of bytes and not that of a Digest.
        if not are_all_small or len({digest.hash for digest, _ in blobs}) < len(blobs):
            right = dict([one for at, one in enumerate(blobs) if at not in wrong])
            small = [one for one in right.items() if 0 < len(one[1]) <= inline_max]
            large = [one for one in right.items() if len(one[1]) > inline_max]
            sizes = [len(data) for _, data in small]
        refused = await self._store_inline(small, sum(sizes), origin)
        refused |= await self._store_files(large, origin)
        if not wrong and not refused:
            return [None] * len(blobs)
        return [wrong.get(at) or refused.get(digest) for at, (digest, _) in enumerate(blobs)]

    async def _store_inline(
        self, blobs: Sequence[tuple[Digest, bytes]], size_bytes: int, origin: Provenance
    ) -> dict[Digest, FederationError]:
        """Store inline blobs, of this size together; return the errors of those refused."""
        if not blobs:
            return {}
        try:
            self._core.directory.volume.check_writable()
            self._reserve(size_bytes)
        except (StorageFull, SourceUnavailable) as error:
            return dict.fromkeys((digest for digest, _ in blobs), error)
        try:
            outcomes = await self._core.writer.submit(
                lambda transaction: place_inline(transaction, self._core.directory, blobs, origin),
                size_bytes,
            )
        except FederationError as error:
            return dict.fromkeys((digest for digest, _ in blobs), error)
        finally:
            self._core.space.release(size_bytes)
        if outcomes.count(True) + outcomes.count(False) == len(outcomes):
            return {}
        full: dict[Digest, FederationError] = {
            digest: outcome
            for (digest, _), outcome in zip(blobs, outcomes, strict=True)
            if isinstance(outcome, StorageFull)
        }
        self._core.note_refusal(sum(digest.size_bytes for digest in full))
        return full

    async def _store_files(
        self, blobs: Sequence[tuple[Digest, bytes]], origin: Provenance
    ) -> dict[Digest, FederationError]:
        """Store blobs in files; return the errors of those that were refused."""
        if not blobs:
            return {}
        missing = await self.missing_of([digest for digest, _ in blobs], origin)
        return await self.store_missing([one for one in blobs if one[0] in missing], origin)

    async def store_missing(
        self, blobs: Sequence[tuple[Digest, bytes]], origin: Provenance
    ) -> dict[Digest, FederationError]:
        """Store missing blobs in files; return the errors of those that were refused."""
        size_bytes = sum(len(data) for _, data in blobs)
        if size_bytes:
            # Bytes that wait for the disk are bounded here: their callers' budgets end with the
            # calls.
            await self._core.writer.room_for(size_bytes)
        refused: dict[Digest, FederationError] = {}
        admitted: list[Incoming] = []
        for digest, data in blobs:
            try:
                path = self._path_for(digest)
                self._reserve(len(data))
                admitted.append(Incoming(digest, data, path))
            except FederationError as error:
                refused[digest] = error
        if admitted:
            # The work continues if the caller is cancelled, as in LocalIngest.commit.
            storing = self._core.background.start(
                store_files(self._core, admitted, origin), "store a batch"
            )
            # By the task and not by its caller, who may be cancelled long before.
            storing.add_done_callback(lambda _: self._core.writer.has_written(size_bytes))
            outcomes: Outcomes = await asyncio.shield(storing)
            for blob, outcome in zip(admitted, outcomes, strict=True):
                if outcome is not None:
                    refused[blob.digest] = outcome
                if isinstance(outcome, StorageFull):
                    self._core.note_refusal(blob.digest.size_bytes)
        elif size_bytes:
            self._core.writer.has_written(size_bytes)
        return refused


def mismatches(blobs: Sequence[tuple[Digest, bytes]]) -> dict[int, DigestMismatch]:
    """Hash a batch; return the errors of blobs that do not match their digest, by position."""
    wrong: dict[int, DigestMismatch] = {}
    for at, (digest, data) in enumerate(blobs):
        wanted, size_bytes, function = digest
        if len(data) != size_bytes:
            wrong[at] = DigestMismatch(digest, f"{len(data)} bytes were sent")
        elif hash_bytes(function, data) != wanted:
            wrong[at] = DigestMismatch(digest, "other bytes were sent")
    return wrong
