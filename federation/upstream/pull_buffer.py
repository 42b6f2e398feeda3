"""The received bytes of one pull: stored in pieces, and followed by any number of readers.

The next bytes are received while the last are written. Pieces grow while the disk is busy, up to a
bound, and shrink to single messages when it is not. So the upstream never has to wait for long, and
not every message costs a hand-off to a thread.

Readers follow at offsets of their own. Readers that keep up get the pieces from memory, others read
the growing file. The end of what each reader wants is withheld until the whole blob is verified, so
no read of wrong bytes ever ends well. No reader waits until the blob is durable.

Readers are woken in steps. A reader that is shown every piece as it comes sends each one on as a
message of its own. With many readers that keeps the node so busy that it takes the next piece late;
to the upstream the node then looks like a slow reader, so it sends smaller pieces: forty readers of
one blob took five times as long as from a file. Steps grow with the bytes received, so the
first bytes do not wait, and a timer shows the rest after a moment, however little it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

from federation.core.digest import Digest
from federation.core.errors import DigestMismatch, FederationError
from federation.core.memory_budget import MemoryBudget
from federation.core.store import CHUNK_BYTES, Growing, Ingest
from federation.upstream.recent_bytes import RecentBytes

# Any withheld byte keeps a read of wrong bytes from ending well; this many cost little at the end.
WITHHELD_BYTES = 64 * 1024

_STEP_PART = 8  # a step is at most this part of the bytes received
_MOMENT_S = 0.1


class Range(NamedTuple):
    """The bytes of a blob that one reader wants: start..end without the end."""

    start: int
    end: int


class PullBuffer:
    """Begun with restart(). The pull calls put() and flush(); readers wait for bytes and read them.

    error and committed are how the pull ended; verified means that all bytes are here and right.
    """

    def __init__(self, digest: Digest, budget: MemoryBudget) -> None:
        self.verified = False
        self.committed = False
        self.error: FederationError | None = None
        self.was_read = False  # whether a reader may have been given bytes
        self.is_doubtful = False  # readers get nothing before the blob is verified
        self._digest = digest
        self._budget = budget
        self._ingest: Ingest | None = None
        self._growing: Growing | None = None
        self._recent = RecentBytes(budget)
        self._gathered: list[bytes] = []  # the next piece, while the last one is stored
        self._gathered_bytes = 0
        self._budgeted_bytes = 0  # of what is gathered
        self._taken = asyncio.Event()
        self._storing: asyncio.Task[None] | None = None
        self._shown_bytes = 0
        self._held_bytes: int | None = None  # readers are shown no more than this
        self._from_elsewhere = False
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<PullBuffer {self._recent!r}, {self._gathered_bytes} gathered>"

    @property
    def received_bytes(self) -> int:
        """How many bytes put() was given since restart()."""
        return self._recent.end + self._gathered_bytes

    @property
    def stored_bytes(self) -> int:
        """How many of them are hashed and written."""
        return self._ingest.received_bytes if self._ingest is not None else 0

    def has_ended(self) -> bool:
        """Whether readers need nothing more from upstreams, or get nothing more."""
        return self.verified or self.committed or self.error is not None

    # -- the pull --------------------------------------------------------------------------

    def restart(self, ingest: Ingest) -> None:
        """Begin from nothing; after wrong bytes again, behind close()."""
        self._ingest = ingest
        self._recent = RecentBytes(self._budget)
        self._storing = None
        self.is_doubtful = False
        self._notify_all()

    async def put(self, data: bytes) -> None:
        """Take the next bytes.

        Waits while a whole piece waits behind the one that is being stored, and, where the node's
        memory budget is used up, until these bytes are stored.

        Raises the error of storing earlier bytes: see Ingest.append.
        """
        # Without room, a pull goes on one message at a time: slower, but waiting for no other.
        within_budget = self._budget.try_acquire(len(data))
        self._budgeted_bytes += len(data) if within_budget else 0
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._storing is None or self._storing.done():
            # Raises what storing the earlier pieces raised: nobody else awaits that task.
            await self.flush()
            self._storing = asyncio.get_running_loop().create_task(self._store(), name="store pull")
        if not within_budget:
            await self.flush()
        while self._gathered_bytes >= CHUNK_BYTES and not self._storing.done():
            await self._next_taken(self._storing)

    async def flush(self) -> None:
        """Wait until all received bytes are stored. Raises the error of storing them."""
        if self._storing is not None:
            # Who waits may be cancelled; a write to the file is ended by stop() alone.
            await asyncio.shield(self._storing)

    def mark_verified(self) -> None:
        """Show readers everything: all bytes are here and right."""
        self.verified = True
        self._notify_all()

    def mark_committed(self, *, from_elsewhere: bool = False) -> None:
        """The blob can be read from storage; from_elsewhere: another write brought it there."""
        self.committed = True
        self._from_elsewhere = from_elsewhere
        self._notify_all()

    def fail(self, error: FederationError) -> None:
        """End the pull with this error for all readers."""
        self.error = error
        self._notify_all()

    @contextmanager
    def hold(self) -> Iterator[int]:
        """Show readers nothing more for now. Yields how many bytes they may have been given."""
        self._held_bytes = self._shown_bytes
        try:
            yield self._held_bytes
        finally:
            self._held_bytes = None

    @property
    def is_held(self) -> bool:
        """Whether hold() is in force."""
        return self._held_bytes is not None

    async def stop(self) -> None:
        """Store nothing more. Readers still get the bytes that were not stored from memory."""
        self._gathered.clear()
        self._gathered_bytes = 0
        self._budget.release(self._budgeted_bytes)
        self._budgeted_bytes = 0
        try:
            if self._storing is not None:
                self._storing.cancel()
                await asyncio.gather(self._storing, return_exceptions=True)
        finally:
            if self._ingest is not None:
                await self._ingest.abort()  # also if the caller is cancelled

    async def release_memory(self) -> None:
        """Store nothing more, and drop the bytes in memory.

        A commit that runs goes on, and readers can still read the file.
        """
        try:
            await self.stop()
        finally:
            self._recent.close()

    async def close(self) -> None:
        """Release everything: there are no readers any more, or the bytes are wrong."""
        try:
            await self.release_memory()
        finally:
            growing, self._growing = self._growing, None
            if growing is not None:
                await growing.close()

    # -- readers ---------------------------------------------------------------------------

    @property
    def is_readable(self) -> bool:
        """Whether read() still gives bytes after the commit."""
        return self._growing is not None and not self._from_elsewhere

    def available_to(self, reader: Range) -> int:
        """Return the offset up to which a reader may have bytes.

        The last bytes of what it wants are withheld before the whole blob is verified, also where
        they are in the middle of the blob: a read that ends well has given right bytes.
        """
        if self.verified or self.committed:
            return self._digest.size_bytes
        if self.is_doubtful:
            return reader.start
        # Of the reader's range, and not of the blob: each read that ends well has to be right.
        withheld = min(WITHHELD_BYTES, reader.end - reader.start)
        shown = self._shown_bytes if self._held_bytes is None else self._held_bytes
        return min(shown, reader.end - withheld)

    async def wait_begun(self) -> None:
        """Wait until bytes come. Raises the pull's error."""
        while not self.committed and self.error is None and not self.received_bytes:
            await self._changed.wait()
        if self.error is not None:
            raise self.error

    async def wait_beyond(self, offset: int, reader: Range) -> None:
        """Wait until a reader may have bytes behind offset, or the pull has ended.

        Raises the pull's error, unless all bytes are verified: that they could not be stored does
        not concern a reader.
        """
        while not self.committed and self.error is None and self.available_to(reader) <= offset:
            await self._changed.wait()
        if self.error is not None and not (self.verified and offset < self._digest.size_bytes):
            raise self.error

    async def wait_stored(self) -> None:
        """Wait until the blob can be read from storage. Raises the pull's error."""
        while not self.committed:
            if self.error is not None:
                raise self.error
            await self._changed.wait()

    async def read(self, offset: int, size_bytes: int, *, shared: bool) -> bytes | None:
        """Return bytes below available_to, size_bytes at most; None: wait_stored() and read there.

        shared: other readers follow, too. Raises SourceUnavailable.
        """
        # Before the wait for the file: from now on the pull must not start over with other bytes.
        self.was_read = True
        data = self._recent.read(offset, size_bytes, shared=shared)
        if data is not None:
            return data
        return await self._growing.read(offset, size_bytes) if self._growing is not None else None

    # -- inside ----------------------------------------------------------------------------

    async def _next_taken(self, storing: asyncio.Task[None]) -> None:
        self._taken.clear()
        taken = asyncio.ensure_future(self._taken.wait())
        try:
            # Storing may also end by an error, and would then never take the next piece.
            await asyncio.wait({taken, storing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            taken.cancel()

    async def _store(self) -> None:
        ingest = self._ingest
        assert ingest is not None
        while self._gathered:
            # A single message is passed on as it is: joining would copy it.
            piece = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
            self._gathered.clear()
            self._gathered_bytes = 0
            budgeted_bytes, self._budgeted_bytes = self._budgeted_bytes, 0
            self._taken.set()
            # Before it is stored: readers that keep up wait for no disk.
            self._recent.add(piece)
            self._show_step()
            try:
                await self._store_piece(ingest, piece)
            finally:
                self._budget.release(budgeted_bytes)

    async def _store_piece(self, ingest: Ingest, piece: bytes) -> None:
        first = ingest.received_bytes == 0
        last = ingest.received_bytes + len(piece) == self._digest.size_bytes
        await ingest.append(piece, partial(self._all_hashed, ingest) if last else None)
        # A blob of one piece is in memory until it is committed, so nobody reads its file.
        if first and not last and self._growing is None:
            self._growing = await ingest.open_growing()
        self._recent.wrote(ingest.received_bytes)

    def _all_hashed(self, ingest: Ingest) -> None:
        """Show the last bytes before they are stored: readers have them from memory."""
        with suppress(DigestMismatch):  # the pull verifies again once everything is stored
            ingest.verify()
            self.mark_verified()

    def _show_step(self) -> None:
        came = self._recent.end
        is_step = came - self._shown_bytes >= min(CHUNK_BYTES, came // _STEP_PART)
        # The last bytes are shown once they are verified: mostly at once, and as one message.
        if is_step and came < self._digest.size_bytes:
            self._notify_all()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_MOMENT_S, self._notify_all)

    def _notify_all(self) -> None:
        """Show readers all received bytes, and wake them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._shown_bytes = self._recent.end
        # Never cleared: a reader that has not run yet would go on waiting.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
