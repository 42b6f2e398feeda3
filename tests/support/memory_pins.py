"""Records of pins in memory: they keep nothing."""

from __future__ import annotations

from collections.abc import Sequence

from federation.core.pins import Pin, PinPage


class MemoryPins:
    """See federation.core.pins.Pins."""

    def __init__(self) -> None:
        self._newest = 0
        self.records: dict[str, tuple[int, Pin]] = {}

    def store(self, pin: Pin) -> None:
        self._newest += 1
        self.records[pin.target.name] = self._newest, pin

    async def apply(self, pins: Sequence[Pin]) -> int:
        newer = 0
        for pin in pins:
            old = self.records.get(pin.target.name)
            if old is None or old[1].stamp < pin.stamp:
                self.store(pin)
                newer += 1
        return newer

    async def page(self, after: int, limit: int) -> PinPage:
        rows = sorted((row for row in self.records.values() if row[0] > after), key=lambda r: r[0])
        rows = rows[:limit]
        return PinPage([pin for _, pin in rows], rows[-1][0] if rows else after)
