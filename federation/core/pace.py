"""How fast, and at which times of the day, background work may take bytes from a link."""

from __future__ import annotations

from federation.core.clock import Clock
from federation.core.token_bucket import TokenBucket
from federation.core.window import Window

_BURST_S = 0.25
_WAIT_MIN_S = 0.001
_LOOK_EVERY_S = 0.5  # a wait may be over sooner than it seemed
_LOOK_AT_WINDOW_S = 30.0  # the machine's clock may be set


class Pace:
    """Shared by all that belongs to one piece of work."""

    def __init__(self, clock: Clock, *, bytes_s: int = 0, window: Window | None = None) -> None:
        """bytes_s: on average; 0: no limit. window: None: at all times."""
        self._clock = clock
        self._bucket = TokenBucket(bytes_s, bytes_s * _BURST_S, clock.monotonic_s())
        self._window = window

    def __repr__(self) -> str:
        return f"<Pace {self._bucket.rate:g} bytes/s>"

    @property
    def opens_in_s(self) -> float:
        """For how long the window is still closed; 0: it is open."""
        return 0.0 if self._window is None else self._window.opens_in_s(self._clock.wall_s())

    def spend(self, size_bytes: int) -> None:
        """Count bytes that have come."""
        self._bucket.spend(size_bytes, self._clock.monotonic_s())

    async def wait_a_little(self) -> bool:
        """Wait for a part of what was taken too fast; return whether there was anything."""
        wait_s = self._bucket.debt_s(self._clock.monotonic_s())
        # A timer is no more exact than this, and a loop over shorter waits would spin.
        if wait_s < _WAIT_MIN_S:
            return False
        await self._clock.sleep(min(wait_s, _LOOK_EVERY_S))
        return True

    async def turn(self) -> None:
        """Wait until more may be asked for: the window is open and the rate is kept."""
        while (wait_s := self.opens_in_s) > 0:
            await self._clock.sleep(min(wait_s, _LOOK_AT_WINDOW_S))
        while await self.wait_a_little():
            pass
