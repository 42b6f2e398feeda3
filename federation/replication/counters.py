"""Counters of one peer since the process began, and recent rates."""

from __future__ import annotations

from collections import Counter

from federation.core.clock import Clock

FORGETS_AFTER = 3  # objects; then status says that the peer forgets

_HALF_LIFE_S = 10.0


class Rate:
    """An exponentially decaying rate per second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sum = 0.0
        self._at_s = clock.monotonic_s()

    def add(self, amount: float) -> None:
        """Count an amount that happened now."""
        self._sum = self._faded() + amount

    def per_s(self) -> float:
        """Return the recent rate."""
        # ln 2: under a steady rate r the decaying sum settles at r * half-life / ln 2.
        return self._faded() * 0.6931 / _HALF_LIFE_S

    def _faded(self) -> float:
        now_s = self._clock.monotonic_s()
        self._sum *= 0.5 ** ((now_s - self._at_s) / _HALF_LIFE_S)
        self._at_s = now_s
        return self._sum


class PeerCounters:
    """Counters of one peer."""

    def __init__(self, clock: Clock) -> None:
        self.sent_objects = 0
        self.sent_bytes = 0
        self.present_objects = 0
        self.present_bytes = 0
        self.superseded = 0
        self.parked = 0
        self.skipped: Counter[str] = Counter()  # by reason
        self.forgotten = 0  # objects that it took and did not hold later
        self.unsupported: Counter[str] = Counter()  # entries by the service that it has not
        self.objects = Rate(clock)  # brought to an end
        self.bytes = Rate(clock)  # likewise

    @property
    def forgets(self) -> bool:
        """Whether it often loses what it took."""
        return self.forgotten >= FORGETS_AFTER

    def sent(self, objects: int, size_bytes: int) -> None:
        """Count objects that were sent."""
        self.sent_objects += objects
        self.sent_bytes += size_bytes
