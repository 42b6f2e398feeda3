"""When a failing peer is tried again: later each time, by one call at a time.

A machine without I/O: callers say what happened and when.
"""

from __future__ import annotations

import enum
import random

from tenacity import RetryCallState, wait_exponential

from federation.remote.failures import FailureKind, RemoteFailed

_JITTER = 0.25  # a delay is multiplied by 1 - this to 1 + this

# A peer that is away is met within seconds of its return, at the price of one small call now and
# then. One that answers, but has no room or does not let us in, is left alone for longer; one that
# does not answer in time has taken its time already.
_LONGEST_S = {
    FailureKind.TIMEOUT: 1.0,
    FailureKind.STALLED: 1.0,
    FailureKind.UNAVAILABLE: 5.0,
    FailureKind.BUSY: 1.0,
    FailureKind.CROWDED: 1.0,
}
_LONGEST_OTHERS_S = 60.0


class State(enum.Enum):
    """Which calls may be made."""

    OPEN = "open"  # everything
    PAUSED = "paused"  # nothing until the delay is over
    TRYING = "trying"  # one call is under way, and its outcome decides


class Backoff:
    """The backoff of one peer. first_s: the first delay in seconds, which then doubles."""

    def __init__(self, first_s: float, jitter: random.Random) -> None:
        self._first_s = first_s
        self._jitter = jitter
        self.state = State.OPEN
        self.failures = 0  # in a row
        self.generation = 0  # failures of calls that began in an earlier one are not counted
        self.until_s = 0.0
        self._by_write = False  # whether only a write can show that the failure is over
        self._write_tries = False  # whether the current attempt is a write

    def __repr__(self) -> str:
        return f"<Backoff {self.state.value} after {self.failures} failures>"

    def may_pass(self, now_s: float, *, writes: bool = False) -> bool:
        """Whether a call may go out now; when so, it counts as gone out.

        Where a question opened the way and writes are what failed, one of them tries first.
        """
        delay_is_over = self.state is State.PAUSED and now_s >= self.until_s
        if delay_is_over or (self.state is State.OPEN and writes and self._by_write):
            self.state, self._write_tries = State.TRYING, writes
            return True
        return self.state is State.OPEN

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until the next attempt; 0 while another call's outcome is awaited."""
        return max(0.0, self.until_s - now_s) if self.state is State.PAUSED else 0.0

    def succeeded(self, *, wrote: bool, writes_wait: bool = False) -> bool:
        """Note an answer; return whether everything may go out again because of it.

        wrote: something was taken. What came of a failed write is not mended by a question that
        is answered: then one write may try, and where none waits, the next one decides.
        """
        # A peer with a full disk answers every question; counting those as recovery would begin the
        # delays of its failing writes anew each time.
        if wrote or not self._by_write:
            self.failures, self._by_write = 0, False
        if self.state is State.OPEN:
            return False
        if self._by_write and self.state is State.TRYING and self._write_tries:
            return False  # a question that was under way: the outcome of the write decides
        if self._by_write and writes_wait:
            # Close the way again without a delay: the next to pass is then one of the waiting
            # writes.
            if self.state is State.TRYING:
                self.state, self.until_s = State.PAUSED, 0.0
            return False
        self.state = State.OPEN
        return not self._by_write

    def failed(self, error: RemoteFailed, now_s: float, generation: int, *, wrote: bool) -> bool:
        """Record the failure of a call; return whether it changes the state."""
        # Hundreds of calls under way fail together when a peer goes away. Only the first counts, or
        # the delay would be at its longest after one fault.
        if generation != self.generation:
            return False
        self.generation += 1
        self.failures += 1
        self._by_write = self._by_write or wrote
        self.state = State.PAUSED
        self.until_s = now_s + self._delay_s(error)
        return True

    def gave_up(self) -> None:
        """Record that the attempt was cancelled here, without an outcome."""
        if self.state is State.TRYING:
            self.state = State.PAUSED

    def try_now(self) -> None:
        """End a delay early."""
        self.until_s = 0.0

    def _delay_s(self, error: RemoteFailed) -> float:
        longest_s = _LONGEST_S.get(error.kind, _LONGEST_OTHERS_S)
        # Only tenacity's formula is used. Its loop would retry each call by itself; here the gate
        # decides.
        attempt = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
        attempt.attempt_number = self.failures
        delay_s = wait_exponential(multiplier=self._first_s, max=longest_s)(attempt)
        delay_s *= self._jitter.uniform(1 - _JITTER, 1 + _JITTER)
        # What the peer itself asks for counts in full, without jitter.
        return max(delay_s, error.retry_after_s or 0.0)
