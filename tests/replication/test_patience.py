"""How often a peer without room is tried, in virtual time: no machine is too slow for that."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

from structlog.testing import capture_logs

from federation.core.digest import Digest, digest_of
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.remote.failures import FailureKind, failure
from tests.replication.simulation import CALM, Node, Wire
from tests.replication.virtual_time import run
from tests.support.memory_ledger import MemoryStorage

FIRST_S, LONGEST_S, JITTER = 0.1, 60.0, 0.25  # of the delay between two tries, which doubles
_ON_THE_WAY_S = 0.1  # a question before the write, and both ways of each
SMALL = [b"blob %d" % at for at in range(20)]
LARGE = [b"%d, and large" % at * 2_000 for at in range(3)]  # these go by themselves


class FullStorage(MemoryStorage):
    """Takes nothing while it is full, and notes when somebody tried."""

    def __init__(self) -> None:
        super().__init__("there")
        self.is_full = True
        self.tries_s: list[float] = []

    def take(self, digest: Digest, data: bytes, provenance: Provenance = FROM_CLIENT) -> bool:
        if self.is_full:
            self.tries_s.append(asyncio.get_running_loop().time())
            raise failure("n1", FailureKind.EXHAUSTED, "no room")
        return super().take(digest, data, provenance)


async def full_for(minutes: float) -> FullStorage:
    """Replicate to a peer that has no room for so long, and then has."""
    rng = random.Random(10)
    here, there = Node(0, CALM, rng), Node(1, CALM, rng)
    there.storage = storage = FullStorage()
    here.wires[there.name] = Wire(here, there, CALM, rng)
    for node in (here, there):
        node.start()
    await asyncio.sleep(5)
    for blobs in (SMALL, LARGE):
        for data in blobs:
            here.storage.take(digest_of(data), data)
        await asyncio.sleep(60 * minutes / 2)
    facts = here.lag[there.name]
    held = len(SMALL) + len(LARGE)
    assert (facts["state"], facts["lag-objects"], facts["parked"]) == ("full", held, 0)
    storage.is_full = False
    await asyncio.sleep(LONGEST_S * (1 + JITTER) + 1)
    facts = here.lag[there.name]
    assert (facts["state"], facts["lag-objects"], facts["parked"]) == ("following", 0, 0)
    for node in (here, there):
        await node.stop()
    return storage


def test_r10_a_peer_without_room_is_tried_by_one_write_at_a_time_and_ever_more_rarely() -> None:
    """A check of everything held runs meanwhile, and its questions are answered all along."""
    with capture_logs() as logs:
        storage = run(full_for(minutes=30))
    gaps_s = [after - before for before, after in pairwise(storage.tries_s)]
    expected_s = [min(FIRST_S * 2**at, LONGEST_S) for at in range(len(gaps_s))]
    for gap_s, delay_s in zip(gaps_s, expected_s, strict=True):
        assert (1 - JITTER) * delay_s <= gap_s <= (1 + JITTER) * delay_s + _ON_THE_WAY_S, gaps_s
    assert len(gaps_s) > 30
    assert set(storage.blobs) >= {digest_of(data) for data in SMALL + LARGE}
    about = [each["event"] for each in logs if each["event"].startswith("peer_")]
    assert about == ["peer_fails", "peer_answers_again"]
