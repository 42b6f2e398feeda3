"""One absent blob on its way from upstreams into local storage, with readers following it.

The pull belongs to the node: however many ask, an upstream is read once. Readers follow the
growing file at offsets of their own; its last part is withheld until the whole has been verified
and is durable, so nobody is ever given a complete wrong blob. An upstream that fails midway is
continued at the same offset by the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from federation.clock import Clock
from federation.digest import Digest
from federation.errors import (
    BlobDamaged,
    BlobNotFound,
    DigestMismatch,
    FederationError,
    SourceUnavailable,
)
from federation.hops import NOWHERE, Hops
from federation.store import Chunks, Growing, Ingest
from federation.upstream.race import Race
from federation.upstream.source import Upstream
from federation.upstream.steps import Steps

_log = structlog.get_logger(__name__)

WITHHELD_BYTES = 64 * 1024
_ROUNDS_MAX = 20  # switches of upstream within one blob
_RATE_WINDOW_S = 10.0
_RATE_MIN_BYTES = 10 * 1024  # less in a window, and another upstream is tried


class Pull:
    """Started with start(); readers join() and leave()."""

    def __init__(
        self,
        digest: Digest,
        upstreams: Sequence[Upstream],
        begin: Callable[[], Ingest],
        clock: Clock,
        passed: Hops = NOWHERE,
    ) -> None:
        """passed: the nodes that the request has passed which asked first."""
        self.digest = digest
        self.passed = passed
        self.committed = False
        self.error: FederationError | None = None
        self._upstreams = list(upstreams)
        self._begin = begin
        self._clock = clock
        self._ingest: Ingest | None = None
        self._growing: Growing | None = None
        self._steps = Steps(lambda: self.received_bytes)
        self._handed_out = False
        self._readers = 0
        self._saved = 0  # reads not yet counted, because nobody sends
        self._senders: list[Upstream] = []
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Pull {self.digest} {self.received_bytes} received, {self._readers} readers>"

    @property
    def received_bytes(self) -> int:
        """How much has come."""
        return self._ingest.received_bytes if self._ingest is not None else 0

    @property
    def available_bytes(self) -> int:
        """How much readers may have."""
        if self.committed:
            return self.digest.size_bytes
        if self._growing is None:  # it is only just being opened, or what came was dropped
            return 0
        withheld = min(WITHHELD_BYTES, self.digest.size_bytes)
        return min(self._steps.shown_bytes, self.digest.size_bytes - withheld)

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
        if self._task is not None and not self._task.done():
            if self.received_bytes * 2 < self.digest.size_bytes:
                self.error = SourceUnavailable("pull", "stopped, because its readers left")
                self._task.cancel()  # whoever comes now starts another
        else:
            await self._close_growing()

    async def wait_begun(self) -> None:
        """Wait until bytes come. Raises what ended the pull, if that was a failure."""
        while not self.committed and self.error is None and not self.received_bytes:
            await self._steps.wait()
        if self.error is not None:
            raise self.error

    async def wait_beyond(self, offset: int) -> None:
        """Wait until there is something to read behind offset, or the pull has ended.

        Raises what ended the pull, if that was a failure.
        """
        while not self.committed and self.error is None and self.available_bytes <= offset:
            await self._steps.wait()
        if self.error is not None:
            raise self.error

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """Return bytes below available_bytes. Raises SourceUnavailable."""
        if self._growing is None:
            raise SourceUnavailable("pull", "ended")
        self._handed_out = True
        return await self._growing.read(offset, size_bytes)

    # -- the node's side -------------------------------------------------------------------

    def started(self, task: asyncio.Task[None]) -> None:
        """The task that runs run()."""
        self._task = task

    def is_here(self) -> None:
        """Somebody else brought the blob here in the meantime: there is nothing to pull."""
        self.committed = True
        self._steps.show()

    async def run(self) -> None:
        """Pull until the blob is here or nobody can give it. Never raises but CancelledError."""
        try:
            await self._pull()
        except FederationError as error:
            self.error = error
        except asyncio.CancelledError:
            self.error = self.error or SourceUnavailable("pull", "this node is shutting down")
            raise
        finally:
            if self._ingest is not None:
                await self._ingest.abort()
            self._steps.show()
            if not self._readers:
                await self._close_growing()

    async def _pull(self) -> None:
        while True:
            self._ingest = self._begin()
            self._steps.show()  # nothing, again, after wrong bytes
            await self._fill(self._ingest)
            try:
                await self._ingest.commit()
            except DigestMismatch as error:
                await self._blame(error)
                continue
            self.committed = True
            return

    async def _fill(self, ingest: Ingest) -> None:
        """Receive the whole blob, from as many upstreams as it takes."""
        candidates = [u for u in self._upstreams if u.may_have(self.digest)]
        self._senders = []
        for _ in range(_ROUNDS_MAX):
            before = ingest.received_bytes
            race = Race(self.digest, before, candidates, self._take)
            try:
                await race.run()
            except (BlobNotFound, SourceUnavailable) as error:
                self._note(race, error)
                failed = {id(upstream) for upstream, _ in race.lost}
                candidates = [u for u in candidates if id(u) not in failed]
                if race.winner is not None:
                    candidates.remove(race.winner)
                    if ingest.received_bytes > before:  # it got on; it may do so again
                        candidates.append(race.winner)
                if not candidates:
                    raise self._outcome(error) from error
                _log.info("pull_continues", digest=str(self.digest), at=ingest.received_bytes)
                continue
            self._note(race, None)
            if len(self._senders) == 1:
                came = ingest.provenance._replace(origin=self._senders[0].name)
                ingest.provenance = came
            return
        raise SourceUnavailable("upstreams", f"{_ROUNDS_MAX} breaks in one blob")

    def _note(self, race: Race, error: FederationError | None) -> None:
        for upstream, reason in race.lost:
            upstream.note(reason, [self.digest])
        if race.winner is not None:
            race.winner.note(error, [self.digest])

    def _outcome(self, error: FederationError) -> FederationError:
        """What readers hear: an upstream's silence is a miss, unless bytes went out already."""
        if self._handed_out:
            return SourceUnavailable("upstreams", str(error))
        return BlobNotFound(self.digest)

    async def _take(self, upstream: Upstream, chunks: Chunks) -> None:
        """Store one upstream's bytes. Raises SourceUnavailable when they end early or trickle."""
        assert self._ingest is not None
        ingest, size = self._ingest, self.digest.size_bytes
        window_s, window_bytes = self._clock.monotonic_s(), ingest.received_bytes
        async for chunk in chunks:
            if ingest.received_bytes + len(chunk) > size:
                raise SourceUnavailable(upstream.name, "sent more bytes than the blob has")
            if upstream not in self._senders:
                self._senders.append(upstream)
                self._count_saved()
            await ingest.append(chunk)
            if self._growing is None:
                self._growing = await ingest.open_growing()
            if ingest.received_bytes == size:
                self._steps.show()
            else:
                self._steps.more_came()
            now_s = self._clock.monotonic_s()
            if now_s - window_s >= _RATE_WINDOW_S:
                self._check_rate(upstream, ingest.received_bytes - window_bytes)
                window_s, window_bytes = now_s, ingest.received_bytes
        if ingest.received_bytes < size:
            raise SourceUnavailable(upstream.name, "ended before the blob did")

    def _check_rate(self, upstream: Upstream, got_bytes: int) -> None:
        others = [u for u in self._upstreams if u is not upstream and u.may_have(self.digest)]
        if got_bytes < _RATE_MIN_BYTES and others:
            raise SourceUnavailable(upstream.name, f"sent {got_bytes} bytes in 10 s")

    async def _blame(self, error: DigestMismatch) -> None:
        """After wrong bytes: try the others, unless somebody has been given some of them."""
        for upstream in self._senders:
            upstream.note_wrong_bytes(self.digest)
        if self._handed_out:
            raise BlobDamaged(self.digest, "an upstream sent other bytes") from error
        await self._close_growing()

    def _count_saved(self) -> None:
        if self._senders and self._saved:
            self._senders[-1].note_saved(self._saved)
            self._saved = 0

    async def _close_growing(self) -> None:
        growing, self._growing = self._growing, None
        if growing is not None:
            await growing.close()
