"""How often a peer's worker begins again when this node's own storage fails it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from federation.core.clock import ManualClock
from federation.core.errors import StorageFailed
from federation.replication.peer import PeerRunner
from federation.replication.session import PeerSession


class _Over(BaseException):
    """Ends the story."""


class Troubled(PeerRunner):
    """Serves its peer for given numbers of seconds, each until a disk fails."""

    def __init__(self, *serves_s: float) -> None:
        self.clock = ManualClock()
        peer = SimpleNamespace(window="00:00-24:00")
        facts = SimpleNamespace(peer=peer, name="oslo", clock=self.clock)
        super().__init__(cast("PeerSession", facts))
        self._serves_s = list(serves_s)
        self._failed_s = self.clock.monotonic_s()
        self.waited_s: list[float] = []

    async def _serve(self) -> None:
        self.waited_s.append(self.clock.monotonic_s() - self._failed_s)
        if not self._serves_s:
            raise _Over
        self.clock.advance(self._serves_s.pop(0))
        self._failed_s = self.clock.monotonic_s()
        raise StorageFailed("the disk")


async def waits_of(*serves_s: float) -> list[float]:
    runner = Troubled(*serves_s)
    with pytest.raises(_Over):
        await runner.run()
    return runner.waited_s[1:]


async def test_it_waits_twice_as_long_after_each_failure() -> None:
    assert await waits_of(*[0.5] * 8) == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_after_it_has_served_well_it_waits_a_second_only() -> None:
    assert await waits_of(0, 0, 0, 3600, 0) == [1, 2, 4, 1, 2]
