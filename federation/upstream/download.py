"""The bytes of one blob, from as many upstreams as it takes.

Upstreams are asked in order, and one that is slow to open the blob is raced by the next (hedge.py).
Where the upstream that sends breaks off, stalls or trickles, another one continues at the offset
reached. After wrong bytes each upstream has to send the whole blob alone: see candidates.py.

A download is complete when all bytes are here, whatever the upstream reports behind the last one:
only the hash decides whether they are right.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from functools import partial
from typing import NamedTuple

import structlog

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, FederationError, SourceUnavailable, TooBusy
from federation.core.store import Chunks
from federation.remote.failures import FailureKind, RemoteFailed
from federation.upstream.candidates import Candidates, next_ones
from federation.upstream.hedge import Hedge
from federation.upstream.upstream import Upstream

_log = structlog.get_logger(__name__)

_BREAKS_MAX = 20  # in one blob
_PATIENCE_S = 60.0  # of one pull with upstreams that answer, but want to be asked later
_WAIT_MIN_S = 0.05
_RATE_WINDOW_S = 10.0
_RATE_MIN_BYTES = 10 * 1024  # with less in a window, another upstream is tried


class PullBroke(SourceUnavailable):
    """Upstreams did not send all of a blob. This node's own storage is not at fault."""


class NobodyLeft(Exception):
    """No upstream is left to ask. The message is how the last one failed."""


class StartOver(Exception):
    """The bytes received so far are useless, but another upstream may send the whole blob."""


class _Read(NamedTuple):
    """A blob that an upstream has opened. Closing the stack ends the call."""

    upstream: Upstream
    chunks: Chunks
    stack: AsyncExitStack


_Lost = list[tuple[Upstream, FederationError]]  # upstreams that did not open the blob, and why


class Download:
    """One attempt at a whole blob. Use once; wrong bytes need another download."""

    def __init__(self, digest: Digest, candidates: Candidates, clock: Clock) -> None:
        self._digest = digest
        self._candidates = candidates
        self._clock = clock
        # Fixed for this download: a doubt that ends half-way must not let a second sender in.
        self._alone = candidates.is_each_alone  # whether the first sender has to send everything
        self._failed: set[int] = set()  # ids of upstreams
        self._patient_until_s = clock.monotonic_s() + _PATIENCE_S
        self.received_bytes = 0
        self.senders: list[Upstream] = []  # in the order in which they began to send
        self.is_doubtful = False  # readers should get nothing before the whole blob is verified

    def __repr__(self) -> str:
        return f"<Download {self._digest} from {[upstream.name for upstream in self.senders]}>"

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the blob's bytes, not verified, from its first to its last. Close it when done.

        Raises:
            NobodyLeft: every upstream lacks the blob or has failed.
            StartOver: the only sender allowed broke off; another one may send the whole blob.
            TooBusy: this node has too many calls under way to ask, and no other upstream has it.
            PullBroke: the blob broke off too often.
        """
        # An upstream that only asked for patience may be the one that has the blob.
        asked = self._candidates.now() or await self._after_rest()
        breaks = 0
        while breaks < _BREAKS_MAX:
            offset = self.received_bytes
            read, lost = await self._open(asked)
            error = self._no_answer(lost)
            if read is not None:
                try:
                    async with read.stack, aclosing(self._receive(read)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                # A server may also lose a blob while it sends it: a purge cuts reads under way.
                except (BlobNotFound, SourceUnavailable) as failure:
                    error = failure
                else:
                    self._note(read.upstream, None)
                    return
                self._note(read.upstream, error)
            got_on = self.received_bytes > offset
            sender = read.upstream if read is not None else None
            left = next_ones(asked, [each for each, _ in lost], sender, got_on=got_on)
            asked = await self._next_asked(left)
            if not asked:
                # A caller that is told "try again" gets the blob later; after a miss it builds.
                raise self._own_limit(lost) or NobodyLeft(str(error)) from error
            if got_on:
                # Failures without a byte need no bound: next_ones() leaves such upstreams out.
                breaks += 1
                _log.info("pull_continues", digest=str(self._digest), at=self.received_bytes)
        raise PullBroke("upstreams", f"{_BREAKS_MAX} breaks in one blob")

    async def _open(self, asked: Sequence[Upstream]) -> tuple[_Read | None, _Lost]:
        """Return the first read that opens, and how the upstreams that answered before failed."""
        winner: _Read | None = None
        opened: list[_Read] = []
        lost: _Lost = []
        try:
            answers = Hedge(asked, partial(self._open_at, opened)).answers()
            async with aclosing(answers):
                async for upstream, answer in answers:
                    if isinstance(answer, _Read):
                        winner = answer
                        break
                    lost.append((upstream, answer))
        # The caller does not get the winner then, so it is closed like the others.
        except BaseException:
            winner = None
            raise
        finally:
            for read in opened:  # two may open at the same moment
                if read is not winner:
                    await read.stack.aclose()
        for upstream, error in lost:
            self._note(upstream, error)
        return winner, lost

    async def _open_at(self, opened: list[_Read], upstream: Upstream) -> _Read | FederationError:
        stack = AsyncExitStack()
        reading = upstream.store.open_read(self._digest, offset=self.received_bytes)
        try:
            chunks = await stack.enter_async_context(reading)
        except FederationError as error:
            return error
        read = _Read(upstream, chunks, stack)
        opened.append(read)
        return read

    async def _receive(self, read: _Read) -> AsyncGenerator[bytes, None]:
        """Yield the bytes that one upstream sends, up to the blob's end.

        Raises SourceUnavailable when the bytes end early or trickle.
        """
        upstream, size_bytes = read.upstream, self._digest.size_bytes
        window_s, window_bytes = self._clock.monotonic_s(), self.received_bytes
        async for data in read.chunks:
            # An upstream may send more than the digest says. The hash must not see that.
            chunk = data[: size_bytes - self.received_bytes]
            self.received_bytes += len(chunk)
            # Entered at the first byte and not when it opens: only senders can be blamed for bytes.
            if upstream not in self.senders:
                self._begin_to_receive(upstream)
            yield chunk
            if self.received_bytes == size_bytes:
                with suppress(SourceUnavailable):
                    await anext(read.chunks, None)  # lets the call end by itself if it does so soon
                return
            now_s = self._clock.monotonic_s()
            # A sender that trickles never runs into the time limit for silence.
            if now_s - window_s >= _RATE_WINDOW_S:
                self._check_rate(upstream, self.received_bytes - window_bytes)
                window_s, window_bytes = now_s, self.received_bytes
        raise SourceUnavailable(upstream.name, "ended before the blob did")

    def _begin_to_receive(self, upstream: Upstream) -> None:
        self.senders.append(upstream)
        upstream.note_sends()
        self.is_doubtful = self._alone and self._candidates.is_doubtful(upstream)

    def _check_rate(self, upstream: Upstream, got_bytes: int) -> None:
        others = [each for each in self._candidates.now() if each is not upstream]
        # Slow is better than nothing, where there is nobody else.
        if got_bytes < _RATE_MIN_BYTES and others:
            raise SourceUnavailable(upstream.name, f"sent {got_bytes} bytes in 10 s")

    async def _next_asked(self, left: list[Upstream]) -> list[Upstream]:
        """Return the upstreams to ask after a failure. Raises StartOver."""
        if not self.senders or not self._alone:
            return left or await self._after_rest()
        # The only one allowed may continue its own bytes after a break.
        (sender,) = self.senders
        if sender in left:
            return [sender]
        self._candidates.broke(sender)
        if self._candidates.now():
            raise StartOver
        return []

    async def _after_rest(self) -> list[Upstream]:
        """Wait for upstreams that asked for patience, and return those that can be asked then."""
        while (wait_s := self._candidates.wait_s(self._failed)) is not None:
            if self._clock.monotonic_s() + wait_s >= self._patient_until_s:
                break
            # A rest that is as good as over must not make this loop spin.
            await self._clock.sleep(max(wait_s, _WAIT_MIN_S))
            able = [each for each in self._candidates.now() if id(each) not in self._failed]
            if able:
                return able
        return []

    def _note(self, upstream: Upstream, error: FederationError | None) -> None:
        """Record how asking an upstream ended; None: it sent all of the rest."""
        upstream.note(error, [self._digest])
        patient = isinstance(error, RemoteFailed) and error.asks_for_patience
        # One that asked for patience has not failed: _after_rest() waits for it.
        if error is not None and not patient:
            self._failed.add(id(upstream))

    def _no_answer(self, lost: _Lost) -> FederationError:
        """Return why no upstream opened the blob: one that did not answer may have it."""
        silent = [error for _, error in lost if not isinstance(error, BlobNotFound)]
        if silent:
            return SourceUnavailable("upstreams", str(silent[-1]))
        return BlobNotFound(self._digest)

    @staticmethod
    def _own_limit(lost: _Lost) -> TooBusy | None:
        """Return the error if a limit of this node kept it from asking: that is no miss."""
        for _, error in lost:
            if isinstance(error, RemoteFailed) and error.kind is FailureKind.BUSY:
                return TooBusy(str(error))
        return None
