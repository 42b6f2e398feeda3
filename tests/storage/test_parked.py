"""What is parked is bounded (P7)."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from federation.core.digest import digest_of
from federation.core.replication_log import Parked
from federation.storage.catalogue import parked
from tests.storage.conftest import opened, short


def row(peer: str, n: int) -> Parked:
    return Parked(peer, n, digest_of(b"%d" % n), None, f"label {n}", "no", float(n))


async def test_p7_of_each_peer_only_the_newest_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "KEPT_MAX", 3)
    async with opened(tmp_path, short()) as storage:
        await storage.ledger.park([row("paris", 1)])
        with capture_logs() as events:
            await storage.ledger.park([row("tokyo", n) for n in range(3)])
            await storage.ledger.park([row("tokyo", 0)])  # again: no new row
            assert not [each for each in events if each["event"] == "parked_forgotten"]
            await storage.ledger.park([row("tokyo", 3), row("tokyo", 4)])
        (told,) = [each for each in events if each["event"] == "parked_forgotten"]
        assert told["count"] == 2
        assert [each.seq for each in await storage.ledger.parked("tokyo")] == [2, 3, 4]
        assert await storage.ledger.parked_counts() == {"paris": 1, "tokyo": 3}
