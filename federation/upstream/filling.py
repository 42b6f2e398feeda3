"""Receiving one blob from as many upstreams as it takes, each going on where the last one ended.

Where that has led to wrong bytes before, each has to give the whole blob alone: see candidates.py.
A blob is complete when all its bytes are here, whatever the upstream says behind them: what they
are worth, their hash says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import structlog

from federation.core.clock import Clock
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, FederationError, SourceUnavailable, TooBusy
from federation.core.store import Chunks
from federation.remote import FailureKind, RemoteFailed
from federation.upstream.candidates import Candidates, next_ones
from federation.upstream.intake import Intake
from federation.upstream.race import Race
from federation.upstream.upstream import Upstream

_log = structlog.get_logger(__name__)

_BREAKS_MAX = 20  # within one blob
_PATIENCE_S = 60.0  # of one pull with upstreams that are there, and want to be asked later
_WAIT_LEAST_S = 0.05
_RATE_WINDOW_S = 10.0
_RATE_MIN_BYTES = 10 * 1024  # less in a window, and another upstream is tried


class PullBroke(SourceUnavailable):
    """Upstreams did not give all of a blob: no trouble of this node's own."""


class StartOver(Exception):
    """What came is of no use, and somebody else may give the whole blob."""


class Filling:
    """Fills the intakes of one pull; a second one only after what came was of no use."""

    def __init__(
        self,
        digest: Digest,
        candidates: Candidates,
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
        self._candidates = candidates
        self._clock = clock
        self._on_sender = on_sender
        self._outcome = outcome
        self._trouble: FederationError | None = None  # of this node's own storage
        self._failed: set[int] = set()  # ids of upstreams
        self._patient_until_s = 0.0
        self._alone = False  # whether the one that has begun has to go on
        self.is_doubtful = False  # nobody should be given what comes before all of it is verified

    def __repr__(self) -> str:
        return f"<Filling {self._digest} from {[upstream.name for upstream in self.senders]}>"

    async def fill(self, intake: Intake) -> None:
        """Receive the whole blob.

        Raises the outcome of the last upstream asked, PullBroke after too many breaks,
        StartOver, and what this node's own storage raised, as it is.
        """
        self.senders = []
        self.is_doubtful = False
        self._alone = self._candidates.is_each_alone
        self._failed = set()
        self._patient_until_s = self._clock.monotonic_s() + _PATIENCE_S
        asked = self._candidates.now() or await self._after_a_rest()
        for _ in range(_BREAKS_MAX):
            while True:
                before = intake.ingest.received_bytes
                race = Race(self._digest, before, asked, partial(self._take, intake))
                try:
                    await race.run()
                except (BlobNotFound, SourceUnavailable) as error:
                    if self._trouble is not None:
                        raise self._trouble from error
                    self._note(race, error)
                    got_on = intake.ingest.received_bytes > before
                    asked = await self._next_asked(asked, race, got_on=got_on)
                    if not asked:
                        raise self._ours(race) or self._outcome(error) from error
                    if got_on:
                        break
                else:
                    self._note(race, None)
                    return
            _log.info("pull_continues", digest=str(self._digest), at=intake.ingest.received_bytes)
        raise PullBroke("upstreams", f"{_BREAKS_MAX} breaks in one blob")

    async def _next_asked(
        self, asked: list[Upstream], race: Race, *, got_on: bool
    ) -> list[Upstream]:
        """Return who is asked after a race that failed. Raises StartOver."""
        lost = [upstream for upstream, _ in race.lost]
        left = next_ones(asked, lost, race.winner, got_on=got_on)
        if self.senders and self._alone:
            return self._able_to_go_on(left)
        return left or await self._after_a_rest()

    async def _after_a_rest(self) -> list[Upstream]:
        """Wait for those that only asked for patience, where nobody else is left, and return who
        is to be asked then.
        """
        while (wait_s := self._candidates.wait_s(self._failed)) is not None:
            if self._clock.monotonic_s() + wait_s >= self._patient_until_s:
                break
            await self._clock.sleep(max(wait_s, _WAIT_LEAST_S))
            able = [each for each in self._candidates.now() if id(each) not in self._failed]
            if able:
                return able
        return []

    @staticmethod
    def _ours(race: Race) -> TooBusy | None:
        """Return why this node did not ask, where it was its own bound: that is no miss."""
        for _, error in race.lost:
            if isinstance(error, RemoteFailed) and error.kind is FailureKind.BUSY:
                return TooBusy(str(error))
        return None

    def _able_to_go_on(self, left: list[Upstream]) -> list[Upstream]:
        """Return who may be asked for the rest. Raises StartOver where others may for the whole."""
        (sender,) = self.senders
        if sender in left:
            return [sender]
        self._candidates.broke(sender)
        if self._candidates.now():
            raise StartOver
        return []

    def _note(self, race: Race, error: FederationError | None) -> None:
        for upstream, reason in race.lost:
            upstream.note(reason, [self._digest])
            self._note_failed(upstream, reason)
        if race.winner is not None:
            race.winner.note(error, [self._digest])
            self._note_failed(race.winner, error)

    def _note_failed(self, upstream: Upstream, error: FederationError | None) -> None:
        patient = isinstance(error, RemoteFailed) and error.asks_for_patience
        if error is not None and not patient:
            self._failed.add(id(upstream))

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
        with suppress(SourceUnavailable):
            await anext(chunks, None)  # lets the call end by itself, where it does so soon

    async def _receive(self, intake: Intake, upstream: Upstream, chunks: Chunks) -> None:
        size = self._digest.size_bytes
        window_s, window_bytes = self._clock.monotonic_s(), intake.came_bytes
        async for data in chunks:
            chunk = data[: size - intake.came_bytes]
            if upstream not in self.senders:
                self.senders.append(upstream)
                upstream.note_sends()
                self.is_doubtful = self._alone and self._candidates.is_doubtful(upstream)
                self._on_sender()
            await self._stored(intake.put(chunk))
            if intake.came_bytes == size:
                return
            now_s = self._clock.monotonic_s()
            if now_s - window_s >= _RATE_WINDOW_S:
                self._check_rate(upstream, intake.came_bytes - window_bytes)
                window_s, window_bytes = now_s, intake.came_bytes
        raise SourceUnavailable(upstream.name, "ended before the blob did")

    async def _stored(self, storing: Awaitable[None]) -> None:
        """Wait for this node's own storage; its failures say nothing about an upstream."""
        try:
            await storing
        except FederationError as error:
            self._trouble = error
            raise

    def _check_rate(self, upstream: Upstream, got_bytes: int) -> None:
        others = [each for each in self._candidates.now() if each is not upstream]
        if got_bytes < _RATE_MIN_BYTES and others:
            raise SourceUnavailable(upstream.name, f"sent {got_bytes} bytes in 10 s")
