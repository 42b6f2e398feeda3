"""One absent blob on its way from upstreams into local storage, with readers following it.

The pull belongs to the node: however many ask, an upstream is read once. Readers follow what comes
at offsets of their own, from memory while they keep up, else from the growing file. The last part
of what each wants is withheld until the whole has been verified, so no read of wrong bytes ever
ends well. That it becomes durable is not waited for by readers. An upstream that fails midway is
continued at the same offset by the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import (
    BlobDamaged,
    BlobNotFound,
    DigestMismatch,
    FederationError,
)
from federation.core.hops import NOWHERE, Hops
from federation.core.store import Growing, Ingest, Readable
from federation.upstream.arrivals import is_same
from federation.upstream.candidates import Candidates
from federation.upstream.filling import Filling, PullBroke, StartOver
from federation.upstream.intake import Intake
from federation.upstream.recent import Budget, Recent
from federation.upstream.steps import Steps

WITHHELD_BYTES = 64 * 1024


class Range(NamedTuple):
    """What one reader wants of a blob, in bytes: start..end without the end."""

    start: int
    end: int


class Pull:
    """Started with start(); readers join() and leave()."""

    def __init__(
        self,
        digest: Digest,
        candidates: Candidates,
        begin: Callable[[], Ingest],
        clock: Clock,
        budget: Budget,
        passed: Hops = NOWHERE,
    ) -> None:
        """passed: the nodes that the request has passed which asked first."""
        self.digest = digest
        self.passed = passed
        self.verified = False
        self.committed = False
        self.error: FederationError | None = None
        self._candidates = candidates
        self._filling = Filling(digest, candidates, clock, self._count_saved, self._outcome)
        self._begin = begin
        self._budget = budget
        self._intake: Intake | None = None
        self._growing: Growing | None = None
        self._steps = Steps(lambda: self._intake.recent.end if self._intake is not None else 0)
        self._handed_out = False
        self._here = False  # committed by somebody else
        self._shown_max: int | None = None  # while what was shown is compared
        self._readers = 0
        self._saved = 0  # reads not yet counted, because nobody sends
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Pull {self.digest} {self.received_bytes} received, {self._readers} readers>"

    @property
    def received_bytes(self) -> int:
        """How much has come."""
        return self._intake.came_bytes if self._intake is not None else 0

    def available_to(self, reader: Range) -> int:
        """How far a reader may have bytes: not to its end before the whole blob is verified.

        Also where it ends within the blob: a read that ends well has given right bytes.
        """
        if self.verified or self.committed:
            return self.digest.size_bytes
        if self._filling.is_doubtful:
            return reader.start
        withheld = min(WITHHELD_BYTES, reader.end - reader.start)
        shown = self._steps.shown_bytes if self._shown_max is None else self._shown_max
        return min(shown, reader.end - withheld)

    @property
    def is_readable(self) -> bool:
        """Whether read() still gives bytes."""
        return self._growing is not None and not self._here

    # -- readers ---------------------------------------------------------------------------

    def join(self, *, saves_read: bool = False) -> None:
        """One more reader; saves_read: without this pull it would have read by itself."""
        self._readers += 1
        self._saved += saves_read
        self._count_saved()

    async def leave(self) -> None:
        """One less. The last one to go stops a pull that is not past half."""
        self._readers -= 1
        if self._readers:
            return
        if self._task is None or self._task.done():
            await self._let_go()
        elif self.error is None and self.received_bytes * 2 < self.digest.size_bytes:
            self.error = PullBroke("pull", "stopped, because its readers left")
            self._task.cancel()  # whoever comes now starts another

    async def wait_begun(self) -> None:
        """Wait until bytes come. Raises what ended the pull, if that was a failure."""
        while not self.committed and self.error is None and not self.received_bytes:
            await self._steps.wait()
        if self.error is not None:
            raise self.error

    async def wait_beyond(self, offset: int, reader: Range) -> None:
        """Wait until a reader may have something behind offset, or the pull has ended.

        Raises what ended the pull, if that was a failure. One to keep what has been verified is
        none for who only reads.
        """
        while not self.committed and self.error is None and self.available_to(reader) <= offset:
            await self._steps.wait()
        if self.error is not None and not (self.verified and offset < self.digest.size_bytes):
            raise self.error

    async def wait_stored(self) -> None:
        """Wait until it can be read from storage. Raises what ended the pull before."""
        while not self.committed:
            if self.error is not None:
                raise self.error
            await self._steps.wait()

    async def read(self, offset: int, size_bytes: int) -> bytes | None:
        """Return bytes below available_to, at most so many; None: from storage only, and soon.

        Raises SourceUnavailable.
        """
        self._handed_out = True
        if self._intake is not None:
            shared = self._readers > 1
            data = self._intake.recent.read(offset, size_bytes, shared=shared)
            if data is not None:
                return data
        return await self._growing.read(offset, size_bytes) if self._growing is not None else None

    # -- the node's side -------------------------------------------------------------------

    def started(self, task: asyncio.Task[None]) -> None:
        """The task that runs run()."""
        self._task = task

    def is_here(self) -> None:
        """Somebody else brought the blob here in the meantime: there is nothing to pull."""
        self.committed = self._here = True
        self._steps.show()

    async def came_here(self, local: Readable) -> None:
        """Somebody else brought the blob here while this runs: readers go on from there.

        Where some were given bytes of upstreams, only if those are the same; if they are not,
        these readers are told.
        """
        if self._has_ended() or self._shown_max is not None:
            return
        if self._handed_out:
            self._shown_max = self._steps.shown_bytes
            try:
                same = await is_same(local, self.digest, self._shown_max, self.read)
            except FederationError:
                return  # as if it had not come
            finally:
                self._shown_max = None
            if self._has_ended():
                return
            if not same:
                self.error = BlobDamaged(self.digest, "an upstream sent other bytes")
        if self.error is None:
            self.is_here()
        if self._task is not None:
            self._task.cancel()

    def _has_ended(self) -> bool:
        return self.verified or self.committed or self.error is not None

    async def run(self) -> None:
        """Pull until the blob is here or nobody can give it. Never raises but CancelledError."""
        try:
            await self._pull()
        except FederationError as error:
            self.error = error
        except asyncio.CancelledError:
            if not self.committed:
                self.error = self.error or PullBroke("pull", "this node is shutting down")
            raise
        finally:
            self._steps.show()
            if self._readers and self.verified and not self.committed and self._intake is not None:
                await self._intake.stop()  # what was not stored is read from memory
            else:
                await self._drop_intake()
            if not self._readers:  # none left meanwhile, for whom this would have been done
                await self._let_go()

    async def _pull(self) -> None:
        while True:
            ingest = self._begin()
            self._intake = Intake(
                ingest,
                Recent(self._budget),
                self._budget,
                self._piece_came,
                self._first_stored,
                partial(self._all_hashed, ingest),
            )
            self._steps.show()  # nothing, again, after wrong bytes
            try:
                await self._fill(ingest, self._intake)
                ingest.verify()
            except (DigestMismatch, StartOver) as error:
                await self._start_over(error)
                continue
            self.verified = True
            self._candidates.came_right()
            self._steps.show()
            await ingest.commit()
            self.committed = True
            return

    def _piece_came(self) -> None:
        # The last one is shown when it has been verified: mostly at once, and as one message.
        if self.received_bytes < self.digest.size_bytes:
            self._steps.more_came()
        else:
            self._steps.show_soon()

    def _all_hashed(self, ingest: Ingest) -> None:
        """Show what is right before it is stored: readers have it from memory."""
        with suppress(DigestMismatch):  # _pull() asks again, once all is stored
            ingest.verify()
            self.verified = True
            self._steps.show()

    async def _first_stored(self) -> None:
        if self._growing is None and self._intake is not None:
            self._growing = await self._intake.ingest.open_growing()

    async def _fill(self, ingest: Ingest, intake: Intake) -> None:
        """Receive the whole blob, and say whose gift it is, where it is that of one."""
        await self._filling.fill(intake)
        if len(self._filling.senders) == 1:
            (sender,) = self._filling.senders
            ingest.provenance = ingest.provenance._replace(origin=sender.name)

    def _outcome(self, error: FederationError) -> FederationError:
        """What readers hear: an upstream's silence is a miss, unless bytes went out already."""
        if self._handed_out:
            return PullBroke("upstreams", str(error))
        return BlobNotFound(self.digest)

    async def _start_over(self, error: DigestMismatch | StartOver) -> None:
        """Try again from nothing, unless somebody has been given some of what came."""
        if isinstance(error, DigestMismatch):
            self._candidates.came_wrong(self._filling.senders)
            if self._handed_out:
                raise BlobDamaged(self.digest, "an upstream sent other bytes") from error
        elif self._handed_out:
            raise PullBroke("upstreams", "the only one that may go on broke off") from error
        await self._let_go()

    async def _drop_intake(self) -> None:
        """Let go of what is received. A commit that runs goes on, and the file stays readable."""
        if self._intake is not None:
            await self._intake.close()

    def _count_saved(self) -> None:
        senders = self._filling.senders
        if senders and self._saved:
            senders[-1].note_saved(self._saved)
            self._saved = 0

    async def _let_go(self) -> None:
        try:
            await self._drop_intake()
        finally:
            growing, self._growing = self._growing, None
            if growing is not None:
                await growing.close()
