"""Receiving one blob from as many upstreams as it takes, each going on where the last one ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, FederationError, SourceUnavailable
from federation.core.store import Chunks
from federation.upstream.intake import Intake
from federation.upstream.race import Race
from federation.upstream.upstream import Upstream

_log = structlog.get_logger(__name__)

_ROUNDS_MAX = 20  # switches of upstream within one blob
_RATE_WINDOW_S = 10.0
_RATE_MIN_BYTES = 10 * 1024  # less in a window, and another upstream is tried


class Filling:
    """Fills the intakes of one pull; a second one only after wrong bytes."""

    def __init__(
        self,
        digest: Digest,
        upstreams: Sequence[Upstream],
        clock: Clock,
        on_sender: Callable[[], None],
        outcome: Callable[[FederationError], FederationError],
    ) -> None:
        """Take what is told of progress.

        on_sender: another upstream has begun to send.
        outcome: what the failure of the last upstream means to readers; trouble of this node's own
        is none of them.
        """
        self.senders: list[Upstream] = []  # of what fill() is at or was at last
        self._digest = digest
        self._upstreams = list(upstreams)
        self._clock = clock
        self._on_sender = on_sender
        self._outcome = outcome
        self._trouble: FederationError | None = None  # of this node's own storage

    def __repr__(self) -> str:
        return f"<Filling {self._digest} from {[upstream.name for upstream in self.senders]}>"

    async def fill(self, intake: Intake) -> None:
        """Receive the whole blob.

        Raises the outcome of the last upstream asked, SourceUnavailable after too many breaks, and
        what this node's own storage raised, as it is.
        """
        candidates = [u for u in self._upstreams if u.may_have(self._digest)]
        self.senders = []
        for _ in range(_ROUNDS_MAX):
            before = intake.ingest.received_bytes
            race = Race(self._digest, before, candidates, partial(self._take, intake))
            try:
                await race.run()
            except (BlobNotFound, SourceUnavailable) as error:
                if self._trouble is not None:
                    raise self._trouble from error
                self._note(race, error)
                got_on = intake.ingest.received_bytes > before
                candidates = _next_ones(candidates, race, got_on=got_on)
                if not candidates:
                    raise self._outcome(error) from error
                _log.info(
                    "pull_continues", digest=str(self._digest), at=intake.ingest.received_bytes
                )
                continue
            self._note(race, None)
            return
        raise SourceUnavailable("upstreams", f"{_ROUNDS_MAX} breaks in one blob")

    def note_wrong_bytes(self) -> None:
        """What came did not have the digest: hold it against all that sent some of it."""
        for upstream in self.senders:
            upstream.note_wrong_bytes(self._digest)

    def _note(self, race: Race, error: FederationError | None) -> None:
        for upstream, reason in race.lost:
            upstream.note(reason, [self._digest])
        if race.winner is not None:
            race.winner.note(error, [self._digest])

    async def _take(self, intake: Intake, upstream: Upstream, chunks: Chunks) -> None:
        """Store one upstream's bytes. Raises SourceUnavailable when they end early or trickle.

        When this ends, all that came is stored, so that the next one goes on behind it.
        """
        try:
            await self._receive(intake, upstream, chunks)
        except FederationError:
            await self._stored(intake.settle())
            raise
        await self._stored(intake.settle())

    async def _receive(self, intake: Intake, upstream: Upstream, chunks: Chunks) -> None:
        size = self._digest.size_bytes
        window_s, window_bytes = self._clock.monotonic_s(), intake.came_bytes
        async for chunk in chunks:
            if intake.came_bytes + len(chunk) > size:
                raise SourceUnavailable(upstream.name, "sent more bytes than the blob has")
            if upstream not in self.senders:
                self.senders.append(upstream)
                self._on_sender()
            await self._stored(intake.put(chunk))
            now_s = self._clock.monotonic_s()
            if now_s - window_s >= _RATE_WINDOW_S:
                self._check_rate(upstream, intake.came_bytes - window_bytes)
                window_s, window_bytes = now_s, intake.came_bytes
        if intake.came_bytes < size:
            raise SourceUnavailable(upstream.name, "ended before the blob did")

    async def _stored(self, storing: Awaitable[None]) -> None:
        """Wait for this node's own storage; its failures say nothing about an upstream."""
        try:
            await storing
        except FederationError as error:
            self._trouble = error
            raise

    def _check_rate(self, upstream: Upstream, got_bytes: int) -> None:
        others = [u for u in self._upstreams if u is not upstream and u.may_have(self._digest)]
        if got_bytes < _RATE_MIN_BYTES and others:
            raise SourceUnavailable(upstream.name, f"sent {got_bytes} bytes in 10 s")


def _next_ones(candidates: Sequence[Upstream], race: Race, *, got_on: bool) -> list[Upstream]:
    """Who is asked after a race that failed; who got on comes last, it may do so again."""
    failed = {id(upstream) for upstream, _ in race.lost}
    left = [u for u in candidates if id(u) not in failed]
    if race.winner is not None:
        left.remove(race.winner)
        if got_on:
            left.append(race.winner)
    return left
