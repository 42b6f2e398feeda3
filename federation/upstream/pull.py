"""One absent blob on its way from upstreams into local storage, with readers following it.

The pull belongs to the node: however many ask, an upstream is read once. `Pull.run` is the only
loop: it takes chunks of a download, puts them into the buffer that readers wait on, verifies the
whole and commits it. A commit of the same blob by anybody else ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import (
    BlobDamaged,
    BlobNotFound,
    DigestMismatch,
    FederationError,
    SourceUnavailable,
)
from federation.core.hops import NOWHERE, Hops
from federation.core.memory_budget import MemoryBudget
from federation.core.pace import Pace
from federation.core.provenance import Provenance, Source
from federation.core.purges import Purged, nothing_purged
from federation.core.store import CHUNK_BYTES, Ingest, LocalStore, NextBytes
from federation.upstream.candidates import Candidates
from federation.upstream.download import Download, NobodyLeft, PullBroke, StartOver
from federation.upstream.pull_buffer import PullBuffer, Range


class Pull:
    """A task runs run(); readers join(), follow() and leave()."""

    def __init__(
        self,
        digest: Digest,
        candidates: Candidates,
        local: LocalStore,
        clock: Clock,
        budget: MemoryBudget,
        passed: Hops = NOWHERE,
        pace: Pace | None = None,
        purged: Purged = nothing_purged,
    ) -> None:
        """passed: the nodes that the request which began the pull has passed.

        purged: tells whether the blob was purged here.

        pace: kept as long as nobody joins the request which began the pull.
        """
        self.digest = digest
        self.passed = passed
        self.buffer = PullBuffer(digest, budget)
        self.task: asyncio.Task[None] | None = None  # runs run(); set by the code that starts it
        self._candidates = candidates
        self._local = local
        self._purged = purged
        self._clock = clock
        self._download: Download | None = None
        self._pace = pace
        self._readers = 0
        self._saved = 0  # reads not yet counted, because no upstream sends yet

    def __repr__(self) -> str:
        return f"<Pull {self.digest} {self.buffer!r}, {self._readers} readers>"

    # -- readers ---------------------------------------------------------------------------

    def join(self, *, saves_read: bool = False) -> None:
        """Add a reader; saves_read: without this pull it would have asked upstreams itself."""
        # The first to join is the paced work itself. Anybody else may be a client in a hurry.
        if self._readers:
            self._pace = None
        self._readers += 1
        self._saved += saves_read
        self._count_saved()

    async def leave(self) -> None:
        """Remove a reader. The last one to leave stops a pull that is not past half."""
        self._readers -= 1
        if self._readers:
            return
        # The pull kept the file open for its readers, and this was the last of them.
        if self.task is None or self.task.done():
            await self.buffer.close()
        # One that has ended releases what it holds itself; cancelling it would leave that behind.
        elif not self.buffer.has_ended() and self._is_below_half():
            # A reader that comes now starts another pull.
            self.buffer.fail(PullBroke("pull", "stopped, because its readers left"))
            self.task.cancel()

    def _is_below_half(self) -> bool:
        return self.buffer.received_bytes * 2 < self.digest.size_bytes

    async def follow(
        self, reader: Range, next_bytes: NextBytes | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes as they come; once the blob is committed, the rest from storage.

        next_bytes: see Readable.open_read. Raises the error that ended the pull.
        """
        offset, end = reader
        while offset < end:
            await self.buffer.wait_beyond(offset, reader)
            # Storage reads ahead, and verifies. The last chunk in memory is not worth a look-up.
            if self.buffer.committed and (
                end - offset > CHUNK_BYTES or not self.buffer.is_readable
            ):
                async with self._local.open_read(
                    self.digest, offset=offset, limit=end - offset, next_bytes=next_bytes
                ) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            there = min(end, self.buffer.available_to(reader)) - offset
            wanted = CHUNK_BYTES if next_bytes is None else next_bytes()
            size = min(max(wanted, 1), CHUNK_BYTES, there)
            data = await self.buffer.read(offset, size, shared=self._readers > 1)
            if data is None:
                await self.buffer.wait_stored()
                continue
            offset += len(data)
            handed_on = [data]
            del data  # a reader that waits for the rest must not keep these bytes in memory
            yield handed_on.pop()

    # -- the node's side -------------------------------------------------------------------

    async def run(self) -> None:
        """Pull until the blob is here or no upstream can send it. Only CancelledError is raised."""
        buffer = self.buffer
        try:
            await self._pull()
        except FederationError as error:
            buffer.fail(error)
        finally:
            if not buffer.committed and buffer.error is None:
                buffer.fail(PullBroke("pull", "it was stopped"))  # this node is shutting down
            try:
                # What could not be stored is right all the same: readers wait for no disk.
                if self._readers and buffer.verified and not buffer.committed:
                    await buffer.stop()  # readers get the bytes that were not stored from memory
                else:
                    await buffer.release_memory()
            finally:
                if not self._readers:  # the last one may have left meanwhile
                    await buffer.close()

    async def _pull(self) -> None:
        while True:
            # A new one for each attempt: what an ingest has hashed cannot be taken back.
            ingest = self._local.begin(self.digest, provenance=Provenance(Source.UPSTREAM))
            self.buffer.restart(ingest)
            download = self._download = Download(self.digest, self._candidates, self._clock)
            try:
                await self._receive(download, ingest)
            except NobodyLeft as error:
                raise self._meaning(error) from error
            except (DigestMismatch, StartOver) as error:
                await self._start_over(download, error)
                continue
            # Before the commit: a full disk here says nothing about what upstreams sent.
            self._candidates.came_right()
            self.buffer.mark_verified()
            await ingest.commit()
            self.buffer.mark_committed()
            return

    async def _check_purged(self) -> None:
        """Raise BlobNotFound if the blob was purged: an upstream does not bring it back."""
        if await self._purged([self.digest]):
            raise BlobNotFound(self.digest)

    async def _receive(self, download: Download, ingest: Ingest) -> None:
        """Store all chunks of the download, and verify the blob. Raises DigestMismatch."""
        async with aclosing(download.chunks()) as chunks:
            async for chunk in chunks:
                self._count_saved()
                # Before put(), which may show the bytes at once.
                self.buffer.is_doubtful = download.is_doubtful
                if self.buffer.received_bytes + len(chunk) >= self.digest.size_bytes:
                    await self._check_purged()  # readers are shown the end as soon as it is hashed
                await self.buffer.put(chunk)
                await self._hold_back(len(chunk))
        await self.buffer.flush()
        if len(download.senders) == 1:  # of a mixture no upstream is the origin
            ingest.provenance = ingest.provenance._replace(origin=download.senders[0].name)
        # Apart from the commit: wrong bytes are an upstream's fault, a failed commit is not.
        ingest.verify()

    async def _hold_back(self, size_bytes: int) -> None:
        """Wait before more is taken, where there is a pace to keep."""
        if self._pace is not None:
            self._pace.spend(size_bytes)
            # Looked at again and again, as a reader that joins takes the pace away.
            while self._pace is not None and await self._pace.wait_a_little():
                pass

    async def _start_over(self, download: Download, error: DigestMismatch | StartOver) -> None:
        """Drop the received bytes for another attempt.

        Raises BlobDamaged or PullBroke if readers were given some of them.
        """
        if isinstance(error, DigestMismatch):
            self._candidates.came_wrong(download.senders)
            if self.buffer.was_read:
                raise BlobDamaged(self.digest, "an upstream sent other bytes") from error
        elif self.buffer.was_read:
            raise PullBroke("upstreams", "the only one that may go on broke off") from error
        await self.buffer.close()

    def _meaning(self, error: NobodyLeft) -> FederationError:
        """Return the readers' error: a miss, unless bytes were handed out already."""
        if self.buffer.was_read:
            return PullBroke("upstreams", str(error))
        return BlobNotFound(self.digest)

    def _count_saved(self) -> None:
        if self._saved and self._download is not None and self._download.senders:
            self._download.senders[-1].note_saved(self._saved)
            self._saved = 0

    # -- a commit by anybody else ----------------------------------------------------------

    async def came_here(self) -> None:
        """End the pull: another write has brought the blob here. Readers go on from storage.

        Readers that were given an upstream's bytes go on only if those are the same; otherwise
        their reads fail.
        """
        # While another call compares, this one has nothing to add.
        if self.buffer.has_ended() or self.buffer.is_held:
            return
        if self.buffer.was_read:
            try:
                with self.buffer.hold() as end:
                    same = await self._is_same(end)
            except FederationError:
                return  # go on as if it had not come
            if self.buffer.has_ended():
                return
            if not same:
                self.buffer.fail(BlobDamaged(self.digest, "an upstream sent other bytes"))
        # A failed pull stays failed: its readers have that error already.
        if self.buffer.error is None:
            self.buffer.mark_committed(from_elsewhere=True)
        if self.task is not None:
            self.task.cancel()

    async def _is_same(self, end: int) -> bool:
        """Whether the bytes received up to end are the same as those in storage.

        Raises SourceUnavailable if the received bytes are gone, and what open_read raises.
        """
        at = 0
        async with self._local.open_read(self.digest, limit=end) as chunks:
            async for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    part = await self.buffer.read(at, len(view), shared=self._readers > 1)
                    if not part:
                        raise SourceUnavailable("pull", "the received bytes are gone")
                    if part != view[: len(part)]:
                        return False
                    at, view = at + len(part), view[len(part) :]
        return True
