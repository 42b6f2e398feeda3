"""What is counted of one peer since this process began, and how fast it gets things."""

from __future__ import annotations

from collections import Counter

from federation.core.clock import Clock

FORGETS_AFTER = 3  # finds, until a peer is called forgetful

_HALF_LIFE_S = 10.0


class Rate:
    """A number a second, in which what is long past counts ever less."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sum = 0.0
        self._at_s = clock.monotonic_s()

    def add(self, amount: float) -> None:
        """Count something that happened now."""
        self._sum = self._faded() + amount

    def per_s(self) -> float:
        """Return the rate of late."""
        return self._faded() * 0.6931 / _HALF_LIFE_S

    def _faded(self) -> float:
        now_s = self._clock.monotonic_s()
        self._sum *= 0.5 ** ((now_s - self._at_s) / _HALF_LIFE_S)
        self._at_s = now_s
        return self._sum


class PeerCounters:
    """Counts of one peer."""

    def __init__(self, clock: Clock) -> None:
        self.sent_objects = 0
        self.sent_bytes = 0
        self.present_objects = 0
        self.superseded = 0
        self.parked = 0
        self.skipped: Counter[str] = Counter()  # by reason
        self.forgotten = 0  # objects that it said it had taken, and did not have
        self.unsupported: Counter[str] = Counter()  # entries by the service that it has not
        self.objects = Rate(clock)  # brought to an end
        self.bytes = Rate(clock)  # likewise

    @property
    def forgets(self) -> bool:
        """Whether it loses what it took."""
        return self.forgotten >= FORGETS_AFTER

    def sent(self, objects: int, size_bytes: int) -> None:
        """Count objects that moved."""
        self.sent_objects += objects
        self.sent_bytes += size_bytes
