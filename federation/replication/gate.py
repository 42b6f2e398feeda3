"""The gate that every call to one peer passes; calls wait there while the peer is left alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog

from federation.core.clock import Clock
from federation.remote.failures import FailureKind, RemoteFailed
from federation.replication.backoff import Backoff, State
from federation.replication.throttle import LoopThrottle

_log = structlog.get_logger(__name__)
_AWAY = {FailureKind.UNAVAILABLE, FailureKind.TIMEOUT, FailureKind.STALLED}
_HEARD_EVERY_S = 1.0


class Turn:
    """One call's way through the gate."""

    def __init__(self, gate: Gate, generation: int, *, writes: bool) -> None:
        self._gate = gate
        self._generation = generation
        self._writes = writes
        self.is_settled = False

    def succeeded(self) -> None:
        """Say that the peer answers as it should; a long call may say so before its end."""
        self.is_settled = True
        self._gate.succeeded(wrote=self._writes)

    def failed(self, error: RemoteFailed) -> None:
        """Say that the peer is to be left alone for a while."""
        self.is_settled = True
        self._gate.failed(error, self._generation, wrote=self._writes)

    def left(self) -> None:
        """Let another call try, if this one ended without an outcome."""
        if not self.is_settled:
            self._gate.gave_up()


class Gate:
    """One for each peer."""

    def __init__(
        self,
        peer: str,
        clock: Clock,
        first_s: float,
        jitter: random.Random,
        throttle: LoopThrottle | None = None,
    ) -> None:
        """throttle: shared by the gates of all peers; None: this is the only one."""
        self.throttle = throttle or LoopThrottle()
        self._peer = peer
        self._clock = clock
        self._backoff = Backoff(first_s, jitter)
        self._changed = asyncio.Event()
        self._writes_wait = 0
        self._on_failure: list[Callable[[], None]] = []
        self.last_error: RemoteFailed | None = None
        self.last_error_s = 0.0  # wall clock
        self._heard_s = -_HEARD_EVERY_S  # when a sign of life last ended a delay
        self.last_success_s = 0.0  # wall clock; of anything answered
        self._full_since_s: float | None = None  # monotonic; when it first had no room

    def __repr__(self) -> str:
        return f"<Gate {self._backoff!r}>"

    def at_failure(self, work: Callable[[], None]) -> None:
        """Have this called whenever the peer fails: who answers next may have lost things."""
        self._on_failure.append(work)

    @property
    def is_open(self) -> bool:
        """Whether nothing has to wait."""
        return self._backoff.state is State.OPEN

    @property
    def failures(self) -> int:
        """How often in a row it failed."""
        return self._backoff.failures

    @property
    def wait_s(self) -> float:
        """How long until the next try."""
        return self._backoff.wait_s(self._clock.monotonic_s())

    @property
    def full_for_s(self) -> float:
        """For how long it has had no room for anything; 0: it has, or is not reached."""
        since_s = self._full_since_s
        return 0.0 if since_s is None else self._clock.monotonic_s() - since_s

    @asynccontextmanager
    async def turn(self, *, writes: bool) -> AsyncIterator[Turn]:
        """Wait until a call may go out; the caller says how it went.

        A RemoteFailed that is raised within closes the gate.
        """
        self._writes_wait += writes
        try:
            while not self._backoff.may_pass(self._clock.monotonic_s(), writes=writes):
                await self._wait()
        finally:
            self._writes_wait -= writes
        turn = Turn(self, self._backoff.generation, writes=writes)
        try:
            yield turn
        except RemoteFailed as error:
            if not error.is_local_limit and not turn.is_settled:
                turn.failed(error)
            raise
        finally:
            turn.left()

    async def opened(self) -> None:
        """Wait until the gate is open, without trying."""
        while not self.is_open:
            changed = self._changed
            await changed.wait()

    def succeeded(self, *, wrote: bool) -> None:
        """See Turn.succeeded."""
        self.last_success_s = self._clock.wall_s()
        if wrote:
            self._full_since_s = None
        before = self._backoff.state
        if self._backoff.succeeded(wrote=wrote, writes_wait=self._writes_wait > 0):
            _log.info("peer_answers_again", peer=self._peer)
        if self._backoff.state is not before:
            self._notify_all()

    def failed(self, error: RemoteFailed, generation: int, *, wrote: bool) -> None:
        """See Turn.failed."""
        if error.kind is FailureKind.CLOSED:
            return
        self.last_error, self.last_error_s = error, self._clock.wall_s()
        if error.kind is not FailureKind.EXHAUSTED:
            self._full_since_s = None
        elif wrote and self._full_since_s is None:
            self._full_since_s = self._clock.monotonic_s()
        for work in self._on_failure:
            work()
        first = self._backoff.failures == 0
        if self._backoff.failed(error, self._clock.monotonic_s(), generation, wrote=wrote):
            if first:
                _log.warning("peer_fails", peer=self._peer, reason=error.reason)
            self._notify_all()

    def gave_up(self) -> None:
        """See Turn.left."""
        self._backoff.gave_up()
        self._notify_all()

    def heard_from(self) -> None:
        """End a delay early, at most once a second: a call of the peer's own has come in.

        Not the delay of one that answers, but has no room or does not let us in.
        """
        now_s = self._clock.monotonic_s()
        if self.is_open or self.last_error is None or self.last_error.kind not in _AWAY:
            return
        if now_s >= self._heard_s + _HEARD_EVERY_S:
            self._heard_s = now_s
            self._backoff.try_now()
            self._notify_all()

    def _notify_all(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self) -> None:
        """Wait for the end of the delay or for another's outcome, whatever comes first."""
        changed = self._changed
        delay_s = self.wait_s
        if not delay_s:
            if self._backoff.state is State.TRYING:
                await changed.wait()
            return
        waiting = asyncio.ensure_future(changed.wait())
        sleeping = asyncio.ensure_future(self._clock.sleep(delay_s))
        try:
            await asyncio.wait({waiting, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            sleeping.cancel()


_BUSY_S = 0.2  # between tries while a bound of our own is reached

_T = TypeVar("_T")


class AnsweredCall:
    """Asks one peer; waits as long as that takes."""

    def __init__(self, gate: Gate, clock: Clock) -> None:
        self._gate = gate
        self._clock = clock

    def __repr__(self) -> str:
        return f"<AnsweredCall {self._gate!r}>"

    async def answer(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """Return what the peer answers in the end. Raises RemoteFailed when it is not used now."""
        while True:
            try:
                async with self._gate.turn(writes=False) as turn:
                    await self._gate.throttle.turn()
                    answer = await question()
                    turn.succeeded()
                    await self._gate.throttle.turn()
                    return answer
            except RemoteFailed as error:
                await self.raise_if_permanent(error)

    async def raise_if_permanent(self, error: RemoteFailed) -> None:
        """Raise what waiting does not mend. The gate has been told of everything else."""
        if error.kind in {FailureKind.CLOSED, FailureKind.HOPS}:
            raise error
        if error.is_local_limit:
            await self._clock.sleep(_BUSY_S)
