"""A circuit breaker for one server: after a run of failures only probes are sent to it.

A state machine without I/O: callers report outcomes and times. All callers of one server share it.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass


class BreakerState(enum.Enum):
    """Which calls the breaker lets through."""

    CLOSED = "up"  # everything
    OPEN = "down"  # nothing until the next probe is due
    PROBING = "probing"  # one probe is under way


@dataclass(slots=True)
class Breaker:
    """Opens after failures_max failures in a row; the delay between probes grows to a maximum.

    The maximum bounds how long a server that has come back stays unused. A failure that only an
    operator can mend (a refused certificate) opens the breaker at once, with a longer delay.
    """

    failures_max: int = 5
    first_delay_s: float = 0.5
    delay_max_s: float = 5.0
    operator_delay_s: float = 60.0
    probe_max_s: float = 30.0
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    next_probe_s: float = 0.0
    last_error: str = ""

    def allows(self) -> bool:
        """Whether an ordinary call may go out."""
        return self.state is BreakerState.CLOSED

    def probe_due(self, now_s: float) -> bool:
        """Whether to send a probe now. True counts as sending it."""
        if self.state is BreakerState.CLOSED or now_s < self.next_probe_s:
            return False
        self.state = BreakerState.PROBING
        self.next_probe_s = now_s + self.probe_max_s  # a probe that never ends is given up
        return True

    def succeeded(self) -> bool:
        """Record an answer, be it a miss. Returns whether that closed the breaker."""
        # An answer to a call from before counts like a probe's: it came just now.
        closed = self.state is not BreakerState.CLOSED
        self.state, self.failures, self.last_error = BreakerState.CLOSED, 0, ""
        return closed

    def failed(
        self, now_s: float, error: str, jitter: random.Random, *, needs_operator: bool = False
    ) -> bool:
        """Record that no answer came. Returns whether that opened the breaker."""
        was_closed = self.state is BreakerState.CLOSED
        if self.state is BreakerState.OPEN:
            return False  # the call began before the breaker opened
        self.failures += 1
        self.last_error = error
        # A failed probe opens it again at once, whatever the count.
        if was_closed and self.failures < self.failures_max and not needs_operator:
            return False
        rounds = max(0, self.failures - self.failures_max)
        # The exponent is bounded, since a server may be away for weeks.
        delay_s = min(self.delay_max_s, self.first_delay_s * 2 ** min(rounds, 20))
        if needs_operator:
            delay_s = self.operator_delay_s
        self.state = BreakerState.OPEN
        # Spread, so that the nodes behind one server do not probe it in step.
        self.next_probe_s = now_s + delay_s * jitter.uniform(0.5, 1.0)
        return was_closed
