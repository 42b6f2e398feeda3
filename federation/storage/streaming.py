"""Streams one blob from local storage (Store.open_read)."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

import apsw

from federation.core import uses
from federation.core.digest import Digest, Hasher, new_hasher
from federation.core.errors import (
    BlobDamaged,
    BlobNotFound,
    FederationError,
    OffsetOutside,
    SourceUnavailable,
)
from federation.core.store import CHUNK_BYTES, Chunks, FilePart, NextBytes
from federation.core.uses import Use
from federation.storage import blob_files
from federation.storage.blob_files import Damage, OpenBlob, Unreadable
from federation.storage.catalogue import blobs
from federation.storage.catalogue.blobs import BlobRow, key_of
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.context import StorageContext
from federation.storage.page_cache import FileChunks, is_cached
from federation.storage.purge_watch import PurgeWatch
from federation.storage.read_cache import CachedBlob
from federation.storage.small_reads import recall
from federation.storage.verification import check_inline, needs_verifying

_T = TypeVar("_T")
_VERIFY_FIRST_BYTES = 4 * 1024 * 1024  # a larger blob read whole is verified while it streams


class Reading:
    """An async context manager that yields a blob's chunks. Entering finds and opens the blob."""

    def __init__(
        self,
        core: StorageContext,
        digest: Digest,
        offset: int,
        limit: int | None,
        next_bytes: NextBytes | None,
    ) -> None:
        self._core = core
        self._digest = digest
        self._key = key_of(digest)
        self._offset = offset
        self._end = digest.size_bytes if limit is None else offset + limit
        self._end = min(self._end, digest.size_bytes)
        self._next_bytes = next_bytes
        self._is_small = digest.size_bytes <= core.settings.inline_max
        self._row: BlobRow | None = None
        self._blob: OpenBlob | None = None
        self._data: bytes | None = None
        self._hasher: Hasher | None = None
        self._first: bytes | None = None  # the chunk that was read together with opening the file
        self._job: Future[bytes] | None = None
        self._touched_ms = 0
        self._use = uses.current()
        self._purge_watch = PurgeWatch(core, digest)
        self._verified = False  # set in a thread; the event loop passes it on to Touches

    def __repr__(self) -> str:
        return f"<Reading {self._digest} {self._offset}..{self._end}>"

    async def __aenter__(self) -> Chunks:
        """Find the blob and read its first chunk, so that an unreadable blob counts as missing.

        Raises BlobNotFound (missing or damaged), OffsetOutside, SourceUnavailable, TooBusy.
        """
        if not 0 <= self._offset <= self._digest.size_bytes:
            raise OffsetOutside(self._digest, self._offset)
        if self._digest.is_empty:
            self._data = b""
            return self._slices()
        (hot,) = recall(self._core, [self._digest], self._use)
        if hot is not None:
            self._data = hot.data
            return self._slices()
        epoch = self._core.read_cache.epoch
        try:
            if not self._is_small or not self._core.resident.look(self._open_at_once):
                await self._core.reads.run_or_undo(self._open, self._close, self._step())
        except UNREADABLE as error:
            raise self._core.catalogue_unreadable(error) from error
        except Damage as damage:
            await self._report(damage)
            raise BlobNotFound(self._digest) from damage
        self._took(epoch)
        self._note_verified()
        if self._data is None:
            return FileChunks(self._chunks(), self.next_part)
        return self._slices()

    def _took(self, epoch: int) -> None:
        """Lease what was found in this epoch, and remember it if it is small."""
        used_ms = self._touch()
        if self._data is not None and self._use is Use.CLIENT:
            self._core.read_cache.keep([(self._digest, CachedBlob(self._data, used_ms))], epoch)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, once no read runs in a thread any more."""
        if self._job is not None and not self._job.done():
            self._job.add_done_callback(lambda _: self._close())
        elif self._blob is not None and blob_files.is_linked(self._blob.fd):
            self._close()
        elif self._blob is not None:
            self._core.reads.submit(self._close)  # of an evicted file it frees the blocks: slow

    def _close(self) -> None:
        blob, self._blob = self._blob, None
        if blob is not None:
            os.close(blob.fd)

    def _open(self, first_bytes: int) -> None:
        """Look the blob up, open its file and read the first chunk; runs in a thread.

        One hop to a thread does it all. Raises BlobNotFound, Damage, SourceUnavailable, TooBusy.
        """
        row = self._find(self._core.reads.connection())
        if self._data is not None:
            return
        self._blob = self._open_file()
        if self._end - self._offset > CHUNK_BYTES:
            blob_files.read_onwards(self._blob.fd)
        if needs_verifying(self._core, row, self._blob.ctime_ns):
            self._verify_or_plan()
        if first_bytes:
            try:
                self._first = self._read(self._offset, first_bytes)
            except (Damage, FederationError):
                self._close()
                raise

    def _open_at_once(self, connection: apsw.Connection) -> bool:
        """Take a small blob's bytes on the event loop.

        Raises BlobNotFound, Damage, BlockingIOError (it is a file).
        """
        self._find(connection)
        if self._data is None:
            raise BlockingIOError(errno.EAGAIN, "a file")
        return True

    def _find(self, connection: apsw.Connection) -> BlobRow:
        """Return the blob's row, having taken its bytes if they are inline.

        Raises BlobNotFound, Damage.
        """
        found = blobs.read_rows(connection, [self._key]).get(self._key)
        if found is None or found[0].size_bytes != self._digest.size_bytes:
            raise BlobNotFound(self._digest)
        self._row, data = found
        if data is not None:
            check_inline(self._digest, data)
            self._data = data
        return self._row

    def _open_file(self) -> OpenBlob:
        path = self._core.directory.blob_path(self._digest)
        return self._core.directory.volume.open_blob(path, self._digest.size_bytes)

    def _open_again(self) -> OpenBlob:
        """Open the file again: a read error may concern the old descriptor only.

        Raises Damage, TooBusy, SourceUnavailable (also if the file was replaced).
        """
        assert self._blob is not None
        again = self._open_file()
        # The verification that was done, or goes on, is of the file as it was.
        if again.ctime_ns != self._blob.ctime_ns:
            os.close(again.fd)
            raise SourceUnavailable("disk", f"{self._digest} was replaced while it was read")
        os.close(self._blob.fd)
        self._blob = again
        return again

    def _verify_or_plan(self) -> None:
        assert self._blob is not None
        whole = self._offset == 0 and self._end == self._digest.size_bytes
        # Its last chunk is held back until the hash is right, so the first need not wait for it.
        if whole and self._digest.size_bytes > _VERIFY_FIRST_BYTES:
            self._hasher = new_hasher(self._digest.function)
            return
        try:
            self._again_if_unreadable(lambda fd: blob_files.verify_file(fd, self._digest))
        except (Damage, FederationError):
            self._close()
            raise
        self._verified = True

    def _again_if_unreadable(self, read: Callable[[int], _T]) -> _T:
        """Read; if the file is unreadable, try once more through a new descriptor.

        Raises Damage, SourceUnavailable, TooBusy.
        """
        assert self._blob is not None
        try:
            return read(self._blob.fd)
        except Unreadable:
            again = self._open_again()
        try:
            return read(again.fd)
        except Unreadable:
            self._core.directory.volume.check()
            raise

    def _note_verified(self) -> None:
        if self._verified and self._blob is not None:
            self._verified = False
            self._core.touches.verified(self._key, self._core.now_ms(), self._blob.ctime_ns)

    async def _slices(self) -> AsyncIterator[bytes]:
        assert self._data is not None
        while self._offset < self._end:
            step = self._step()
            yield self._data[self._offset : self._offset + step]
            self._offset += step

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the file's bytes, directly from the page cache or else through a thread."""
        data, self._first = self._first, None
        while data is not None:
            self._offset += len(data)
            self._note_verified()
            if self._purge_watch.is_due:
                await self._purge_watch.check()
            self._job = self._ahead()
            self._renew()
            handed_on = [data]
            del data  # else a stalled reader keeps the chunk here and its copy in the transport
            yield handed_on.pop()
            data = self._cached() or await self._from_thread()

    def next_part(self, most_bytes: int) -> FilePart | None:
        """See InFile."""
        left_bytes = self._end - self._offset
        # What still has to be hashed must pass through this process.
        if self._blob is None or self._job is not None or self._hasher is not None:
            return None
        if self._purge_watch.is_due:
            return None
        size_bytes = min(most_bytes, left_bytes)
        if not is_cached(self._blob.fd, self._offset, size_bytes):
            return None
        self._renew()
        part = FilePart(self._blob.fd, self._offset, size_bytes)
        self._offset += size_bytes
        return part

    def _renew(self) -> None:
        """Renew the lease for a slow reader."""
        if self._core.now_ms() - self._touched_ms > self._core.timing.granularity_ms:
            self._touch()

    def _ahead(self) -> Future[bytes] | None:
        """Start reading the next chunk if it has to be hashed, which takes a while."""
        if self._hasher is None or self._offset >= self._end:
            return None
        return self._core.reads.submit(self._read, self._offset, self._step())

    def _cached(self) -> bytes | None:
        """Return the next chunk if it is in the page cache and needs no hashing; else None.

        Nothing is read ahead here, so a slow reader keeps no chunk in memory.
        """
        if self._job is not None or self._blob is None or self._offset >= self._end:
            return None
        return blob_files.read_cached(self._blob.fd, self._step(), self._offset)

    async def _from_thread(self) -> bytes | None:
        """Return the next chunk, None at the end. Raises BlobDamaged, SourceUnavailable."""
        if self._offset >= self._end:
            return None
        if self._job is None:
            self._job = self._core.reads.submit(self._read, self._offset, self._step())
        try:
            return await asyncio.wrap_future(self._job)
        except Damage as damage:
            await self._report(damage)
            raise BlobDamaged(self._digest, str(damage)) from damage

    def _step(self) -> int:
        wanted = CHUNK_BYTES if self._next_bytes is None else self._next_bytes()
        return min(max(wanted, 1), CHUNK_BYTES, self._end - self._offset)

    def _read(self, offset: int, size_bytes: int) -> bytes:
        """Read a chunk; runs in a thread. Returns the last one only if the whole blob matches.

        Raises Damage, SourceUnavailable, TooBusy.
        """
        data = self._again_if_unreadable(lambda fd: blob_files.read_exactly(fd, size_bytes, offset))
        after = offset + size_bytes
        if self._hasher is not None:
            self._hasher.update(data)
            if after == self._digest.size_bytes:
                if self._hasher.digest() != self._digest.hash:
                    raise Damage("does not match its digest")
                self._verified = True
        return data

    def _touch(self) -> int:
        """Lease the blob; return its last use (store ms) that is written or will be soon."""
        self._touched_ms = self._core.now_ms()
        assert self._row is not None
        old = self._touched_ms - self._core.timing.granularity_ms
        if self._row.renewed_ms(self._use) < old or self._row.marked_ms:
            self._core.lease([self._key], self._touched_ms, self._use)
            return self._touched_ms
        return self._row.used_ms

    async def _report(self, damage: Damage) -> None:
        """Quarantine the blob. Raises SourceUnavailable if the blob may be right and stays."""
        if self._row is not None:
            await self._core.set_aside(self._digest, self._row.seq, damage)
