"""When an upload is answered that waits for peers: only once they have every row up to its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.core.clock import SystemClock
from federation.core.replication_log import Lane, PeerRecord, PeerState
from federation.storage.acknowledgements import Acknowledgements
from federation.storage.shared_memory import Epoch

RECORDS = [
    PeerRecord("tokyo", cursor=5, state=PeerState.FOLLOWING, reason=""),
    PeerRecord("tokyo", lane=Lane.WINDOW, cursor=9, state=PeerState.FOLLOWING, reason=""),
    PeerRecord("paris", cursor=9),  # does not follow
]


@pytest.fixture
async def known(tmp_path: Path) -> AsyncIterator[Acknowledgements]:
    epoch = Epoch(tmp_path / "epoch")

    async def read() -> list[PeerRecord]:
        return RECORDS

    acknowledgements = Acknowledgements(epoch, read, SystemClock())
    yield acknowledgements
    await acknowledgements.close()
    epoch.close()


async def has(known: Acknowledgements, seq: int, *peers: str, needed: int = 1) -> bool:
    return await known.wait(seq, peers, needed, timeout_s=0)


async def test_rows_up_to_the_upload_s_own_have_to_be_there(known: Acknowledgements) -> None:
    assert await has(known, 5, "tokyo")
    assert not await has(known, 6, "tokyo")
    known.note("tokyo", Lane.ALWAYS, 7)
    assert await has(known, 7, "tokyo")
    assert not await has(known, 8, "tokyo")


async def test_what_passed_the_windows_lane_does_not_count(known: Acknowledgements) -> None:
    known.note("tokyo", Lane.WINDOW, 9)
    assert await has(known, 5, "tokyo")
    assert not await has(known, 9, "tokyo")


async def test_as_many_peers_as_needed_have_them(known: Acknowledgements) -> None:
    assert not await has(known, 5, "tokyo", "paris", needed=2)
    known.note("paris", Lane.ALWAYS, 5)
    assert await has(known, 5, "tokyo", "paris", needed=2)
    assert not await has(known, 6, "tokyo", "paris", needed=2)


async def test_a_peer_that_is_compared_anew_has_nothing_for_certain(
    known: Acknowledgements,
) -> None:
    assert await has(known, 5, "tokyo")
    known.note_unknown("tokyo")
    assert not await has(known, 1, "tokyo")
    known.note("tokyo", Lane.ALWAYS, 6)
    assert await has(known, 6, "tokyo")
