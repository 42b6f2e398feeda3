"""Receives one blob: bounded in memory, hashed on the way, invisible until it is durable.

Small blobs are collected in memory and become a catalogue row. Larger ones are written to incoming/
and made durable in an order that survives a power cut at any step: bytes, fdatasync, then under the
catalogue's write lock rename, fsync of the folder, row. One thread hashes a large piece while
another one writes it, unless readers follow the upload and wait for the hash. The disk starts to
write long before the fdatasync.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future

from federation.core.digest import Digest, Hasher, hash_bytes, new_hasher
from federation.core.errors import (
    DigestMismatch,
    FederationError,
    SourceUnavailable,
    StorageFull,
)
from federation.core.provenance import Provenance
from federation.core.store import Piece
from federation.storage.blob_files import CREATE, WriteBack, write_whole
from federation.storage.context import StorageContext
from federation.storage.directory import disk_errors_named
from federation.storage.ingest_steps import commit_whole
from federation.storage.publishing import place_file, place_inline

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_HASH_BESIDE_BYTES = 128 * 1024  # hashing less is cheaper than a hop to another thread


class GrowingFile:
    """See Growing in federation.core.store. Has its own descriptor, so a rename does not matter."""

    def __init__(self, core: StorageContext, fd: int) -> None:
        self._core = core
        self._fd: int | None = fd

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """See Growing."""
        return await self._core.reads.run(self._read, offset, size_bytes)

    def _read(self, offset: int, size_bytes: int) -> bytes:
        with disk_errors_named("reading what is received"):
            if self._fd is None:
                raise SourceUnavailable("ingest", "closed")
            return os.pread(self._fd, size_bytes, offset)

    async def close(self) -> None:
        """See Growing."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._core.reads.submit(os.close, fd)


class LocalIngest:
    """See federation.core.store.Ingest. Reserves room for bytes when they arrive."""

    def __init__(
        self, core: StorageContext, digest: Digest, path: str, provenance: Provenance
    ) -> None:
        self._core = core
        self._digest = digest
        self._path = path
        self.provenance = provenance
        self._received_bytes = 0
        self._hashed_bytes = 0
        self._reserved_bytes = 0
        self._is_right: bool | None = None  # None: not compared with the digest yet
        self._hasher = new_hasher(digest.function)
        self._small = bytearray() if digest.size_bytes <= core.settings.inline_max else None
        self._lock = threading.Lock()  # held by the thread that uses the file
        self._fd: int | None = None
        self._seals_early = True  # append() makes the file durable with its last bytes
        self._sealed = False  # all bytes are durable
        self._placed = False  # the file has the blob's name
        self._write_back = WriteBack(core.writes)
        self._failure: Exception | None = None  # of an append: the file's content is unknown then
        self._committing = False
        self._ended = False

    def __repr__(self) -> str:
        return f"<LocalIngest {self._digest} {self._received_bytes} received>"

    @property
    def digest(self) -> Digest:
        """See Ingest."""
        return self._digest

    @property
    def received_bytes(self) -> int:
        """See Ingest."""
        return self._received_bytes

    async def append(self, data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
        """See Ingest."""
        end = self._received_bytes + len(data)
        if end > self._digest.size_bytes:
            raise DigestMismatch(self._digest, f"at least {end} bytes were sent")
        # After a failed write nobody knows what the file holds, so no client may resume it.
        if self._failure is not None:
            raise self._failure
        self._reserve(len(data))
        if self._small is not None:
            self._small += data
            self._received_bytes = self._hashed_bytes = end
            if on_hashed is not None:
                on_hashed()
            return
        await self._append_file(data, on_hashed)

    async def _append_file(self, data: Piece, on_hashed: Callable[[], None] | None) -> None:
        writing = asyncio.ensure_future(self._hash_and_write(data, on_hashed))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The threads continue. A client that resumes this upload must find those bytes counted.
            await asyncio.wait([writing])
            if not writing.cancelled():
                writing.exception()  # mark it as retrieved; later appends raise it
            raise

    def _reserve(self, size_bytes: int) -> None:
        """Reserve room until this ingest ends. Raises StorageFull and reserves nothing then."""
        if self._ended:
            return
        space, reserved_bytes = self._core.space, self._reserved_bytes + size_bytes
        try:
            space.reserve(size_bytes)
        except StorageFull:
            # A refused client starts again from the beginning. Requesting twice the bytes that came
            # gets it through after a few tries, and bytes merely announced evict nothing.
            self._core.note_refusal(min(2 * reserved_bytes, self._digest.size_bytes))
            raise
        self._reserved_bytes = reserved_bytes

    async def _hash_and_write(self, data: Piece, on_hashed: Callable[[], None] | None) -> None:
        """Hash and write data in threads, then count it. Raises StorageFull, SourceUnavailable.

        The thread that writes the last bytes also makes the file durable. If readers follow the
        upload (on_hashed), the commit does that instead, so that they do not wait for the disk.
        """
        is_last = self._received_bytes + len(data) == self._digest.size_bytes
        seals = is_last and self._seals_early
        try:
            if on_hashed is not None:
                await self._core.pool.run(self._hasher.update, data)
                self._hashed_bytes += len(data)
                on_hashed()
                await self._core.writes.run(self._write, data, None)
            elif len(data) < _HASH_BESIDE_BYTES:
                await self._core.writes.run(self._write, data, self._hasher, seals)
            else:
                hashing = self._core.pool.run(self._hasher.update, data)
                writing = self._core.writes.run(self._write, data, None, seals)
                # Both have ended before an error is raised: both threads use the same buffer.
                for outcome in await asyncio.gather(hashing, writing, return_exceptions=True):
                    if isinstance(outcome, BaseException):
                        raise outcome
        except Exception as error:
            self._failure = error
            raise
        if not self._ended:
            self._received_bytes += len(data)
            self._hashed_bytes = self._received_bytes

    def _write(self, data: Piece, hasher: Hasher | None, seals: bool = False) -> None:
        with self._lock, disk_errors_named("receiving a blob"):
            if self._ended or not data:
                return  # it was aborted while this waited for a thread, or there is nothing to do
            if hasher is not None:
                hasher.update(data)
            if self._fd is None:
                self._fd = os.open(self._path, CREATE, 0o600)
            write_whole(self._fd, data)
            self._write_back.wrote(self._fd, self._received_bytes + len(data))
        if seals:
            self._seal()

    def hash_with(self, hasher: Hasher) -> None:
        """Have this hasher take what comes, instead of one of the digest's function alone.

        It has to give the same hash. To be called before the first append; small blobs are hashed
        as they are anyway.
        """
        assert not self._received_bytes
        self._hasher = hasher

    def sync_at_commit(self) -> None:
        """Have commit() make the file durable, so that no append() waits for the disk.

        For bytes that are of use before, or without, being durable in this file.
        """
        self._seals_early = False

    async def open_growing(self) -> GrowingFile:
        """See Ingest."""
        opening = self._core.reads.submit(self._open_again)
        try:
            fd = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise
        return GrowingFile(self._core, fd)

    def _open_again(self) -> int:
        with self._lock, disk_errors_named("reading what is received"):
            # A sealed file is closed and still under this path until it gets its name.
            if self._fd is None and not self._sealed:
                raise SourceUnavailable("ingest", f"{self._digest} is not being received")
            return os.open(self._path, _READ)

    def verify(self) -> None:
        """See Ingest."""
        if self._hashed_bytes != self._digest.size_bytes:
            raise DigestMismatch(self._digest, f"{self._hashed_bytes} bytes were sent")
        if self._is_right is None:
            if self._small is not None:
                found = hash_bytes(self._digest.function, bytes(self._small))
            else:
                found = self._hasher.digest()
            self._is_right = found == self._digest.hash
        if not self._is_right:
            raise DigestMismatch(self._digest, "other bytes were sent")

    async def commit(self) -> bool:
        """See Ingest."""
        return await commit_whole(self, self._start_commit)

    def _start_commit(self) -> asyncio.Task[bool | FederationError]:
        self._committing = True
        return self._core.background.start(self._commit(), "commit")

    async def _commit(self) -> bool | FederationError:
        """Commit; see StartCommit."""
        try:
            if self._small is not None:
                return await self._commit_small(bytes(self._small))
            return await self._commit_file()
        except FederationError as error:
            return error
        finally:
            self._end()

    async def _commit_file(self) -> bool:
        if not self._sealed:
            await self._core.writes.run(self._seal)
        self._placed = await self._core.writer.submit(
            lambda transaction: place_file(
                transaction, self._core.directory, self._digest, self._path, self.provenance
            )
        )
        return self._placed

    async def _commit_small(self, data: bytes) -> bool:
        # The empty blob is held everywhere, and has no row.
        if not data:
            return False
        (outcome,) = await self._core.writer.submit(
            lambda transaction: place_inline(
                transaction, self._core.directory, [(self._digest, data)], self.provenance
            ),
            len(data),
        )
        if isinstance(outcome, StorageFull):
            raise outcome
        return outcome

    def _seal(self) -> None:
        """Make the bytes durable; runs in a thread.

        A failed fdatasync is never repeated, and the file is dropped: a second one would report
        success without writing the pages that the kernel dropped.
        """
        with self._lock, disk_errors_named("making a blob durable"):
            if self._ended:
                return
            assert self._fd is not None
            os.fdatasync(self._fd)
            fd, self._fd = self._fd, None
            os.close(fd)
            self._sealed = True

    async def abort(self) -> None:
        """See Ingest. A running commit is not interrupted."""
        if not self._committing:
            self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._core.space.release(self._reserved_bytes)
        if self._small is not None:
            self._small.clear()
        # A file that has the blob's name is the blob's.
        elif not self._placed:
            self._core.writes.submit(self._drop)

    def _drop(self) -> None:
        """Close and remove the received file."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            elif not self._sealed:
                return
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                return


def _close_opened(opening: Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())
