"""The gate that every call to one peer passes; calls wait there while the peer is left alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog

from federation.core.clock import Clock
from federation.core.tasks import sleep_unless
from federation.remote.failures import (
    Denied,
    FailureKind,
    RemoteFailed,
    RequestRefused,
    Unsupported,
)
from federation.replication.backoff import Backoff, State
from federation.replication.throttle import LoopThrottle

_log = structlog.get_logger(__name__)
_AWAY = {FailureKind.UNAVAILABLE, FailureKind.TIMEOUT, FailureKind.STALLED}
_HEARD_EVERY_S = 1.0


class Turn:
    """One call that has passed the gate."""

    def __init__(self, gate: Gate, generation: int, *, writes: bool) -> None:
        self._gate = gate
        self._generation = generation
        self._writes = writes
        self.is_settled = False

    def succeeded(self) -> None:
        """Report that the peer works. A long call may report it before its end."""
        self.is_settled = True
        self._gate.succeeded(wrote=self._writes)

    def failed(self, error: RemoteFailed) -> None:
        """Report that the call failed; the gate closes for a while."""
        self.is_settled = True
        self._gate.failed(error, self._generation, wrote=self._writes)

    def left(self) -> None:
        """Let another call try if this one ended without an outcome."""
        if not self.is_settled:
            self._gate.gave_up()


class Gate:
    """Lets calls to one peer pass, or wait while it is left alone."""

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
        self._heard_s = -_HEARD_EVERY_S  # when a call of the peer last ended a delay
        self.last_success_s = 0.0  # wall clock; of anything answered
        self._full_since_s: float | None = None  # monotonic; when it first had no room

    def __repr__(self) -> str:
        return f"<Gate {self._backoff!r}>"

    def at_failure(self, work: Callable[[], None]) -> None:
        """Call work at each failure of the peer: it may have lost objects when it answers again."""
        self._on_failure.append(work)

    @property
    def is_open(self) -> bool:
        """Whether calls pass without waiting."""
        return self._backoff.state is State.OPEN

    @property
    def failures(self) -> int:
        """How many calls failed in a row."""
        return self._backoff.failures

    @property
    def wait_s(self) -> float:
        """Seconds until the next attempt."""
        return self._backoff.wait_s(self._clock.monotonic_s())

    @property
    def full_for_s(self) -> float:
        """For how many seconds it has had no room; 0: it has room, or is unreachable."""
        since_s = self._full_since_s
        return 0.0 if since_s is None else self._clock.monotonic_s() - since_s

    @asynccontextmanager
    async def turn(self, *, writes: bool) -> AsyncIterator[Turn]:
        """Wait until a call may be made; the caller reports its outcome on the Turn.

        A RemoteFailed that is raised within closes the gate.
        """
        # Counted while they wait, so that an answered question leaves the next attempt to one of
        # them.
        self._writes_wait += writes
        try:
            while not self._backoff.may_pass(self._clock.monotonic_s(), writes=writes):
                await self._wait()
        finally:
            self._writes_wait -= writes
        # The generation as of now: a failure of this call says nothing about what comes after
        # another one.
        turn = Turn(self, self._backoff.generation, writes=writes)
        try:
            yield turn
        except RemoteFailed as error:
            if not error.is_local_limit and not turn.is_settled:
                turn.failed(error)
            raise
        finally:
            # A cancellation or a limit of this node is no answer of the peer: another call tries.
            turn.left()

    def succeeded(self, *, wrote: bool) -> None:
        """See Turn.succeeded."""
        self.last_success_s = self._clock.wall_s()
        # An answered question says nothing about room.
        if wrote:
            self._full_since_s = None
        before = self._backoff.state
        if self._backoff.succeeded(wrote=wrote, writes_wait=self._writes_wait > 0):
            _log.info("peer_answers_again", peer=self._peer)
        if self._backoff.state is not before:
            self._notify_all()

    def failed(self, error: RemoteFailed, generation: int, *, wrote: bool) -> None:
        """See Turn.failed."""
        # This node has closed the connection, as the peer was removed or changed.
        if error.kind is FailureKind.CLOSED:
            return
        self.last_error, self.last_error_s = error, self._clock.wall_s()
        # A peer that fails in another way may have got room meanwhile; the time begins anew.
        if error.kind is not FailureKind.EXHAUSTED:
            self._full_since_s = None
        elif wrote and self._full_since_s is None:
            self._full_since_s = self._clock.monotonic_s()
        for work in self._on_failure:
            work()
        # One line for each time that the peer fails, not for each attempt.
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
        """End a delay early, at most once a second, because the peer itself has made a call.

        The delay of a peer that answers but has no room, or denies us, is not shortened.
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
        # A new event for those who wait from now on: nobody has to clear it, and nobody misses it.
        self._changed = asyncio.Event()

    async def _wait(self) -> None:
        """Wait for the end of the delay or the outcome of another call, whichever comes first."""
        changed = self._changed
        delay_s = self.wait_s
        if not delay_s:
            # Otherwise the delay is over: return, and ask may_pass again.
            if self._backoff.state is State.TRYING:
                await changed.wait()
            return
        await sleep_unless(changed, delay_s, self._clock)


_BUSY_S = 0.2  # between attempts while a limit of this node is reached

_T = TypeVar("_T")


class AnsweredCall:
    """Questions to one peer, repeated until it answers."""

    def __init__(self, gate: Gate, clock: Clock) -> None:
        self._gate = gate
        self._clock = clock

    def __repr__(self) -> str:
        return f"<AnsweredCall {self._gate!r}>"

    async def answer(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """Return the answer to a question.

        Raises RemoteFailed when no attempt can succeed: see raise_if_permanent.
        """
        while True:
            try:
                async with self._gate.turn(writes=False) as turn:
                    # One turn to encode the question, and one for what the caller does with the
                    # answer.
                    await self._gate.throttle.turn()
                    answer = await question()
                    turn.succeeded()
                    await self._gate.throttle.turn()
                    return answer
            except RemoteFailed as error:
                await self.raise_if_permanent(error)

    async def raise_if_permanent(self, error: RemoteFailed) -> None:
        """Raise an error that waiting cannot remedy. The gate knows of all others already."""
        if error.kind in {FailureKind.CLOSED, FailureKind.HOPS}:
            raise error
        # It closes no gate, so without a pause the caller would try again at once.
        if error.is_local_limit:
            await self._clock.sleep(_BUSY_S)


async def refusal(
    answered_call: AnsweredCall, telling: Callable[[], Awaitable[None]]
) -> RemoteFailed | None:
    """Tell a peer of records; return the error of one that answers and takes none of them.

    Raises as AnsweredCall.answer.
    """

    async def attempt() -> RemoteFailed | None:
        try:
            await telling()
        # Caught within the turn: a peer that takes no such records works otherwise, and its gate
        # stays open.
        except (Unsupported, RequestRefused, Denied) as error:
            return error
        return None

    return await answered_call.answer(attempt)
