"""A link over which a single small blob takes longer than a call may, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from federation.core.digest import Digest, digest_of
from federation.core.errors import FederationError
from federation.remote.failures import FailureKind, failure
from federation.replication.blob_sender import Sender
from federation.replication.counters import PeerCounters
from federation.replication.gate import Gate
from federation.replication.outcomes import SENT, SendOutcome
from federation.replication.peer_api import ObjectHistory, OpenAt
from federation.replication.send_memory import SendMemory
from tests.replication.simulation import CALM, Node, SimulatedPeer, Wire
from tests.replication.virtual_time import run
from tests.support.memory_ledger import MemoryLedger

BYTES_PER_S, CALL_MAX_S = 10.0, 60.0
SLOW = b"a blob that takes longer than a call may " * 20
QUICK = [b"quick", b"quicker"]


class SlowTarget(SimulatedPeer):
    """Ends each batch at its time limit; streams may take as long as they need."""

    batches = streams = 0

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], history: ObjectHistory
    ) -> list[FederationError | None]:
        self.batches += 1
        took_s = sum(len(data) for _, data in blobs) / BYTES_PER_S
        await asyncio.sleep(min(took_s, CALL_MAX_S))
        if took_s > CALL_MAX_S:
            raise failure("there", FailureKind.TIMEOUT, "too slow")
        return await super().write_small(blobs, history)

    async def send(
        self, digest: Digest, open_at: OpenAt, history: ObjectHistory, *, goes_on: bool = False
    ) -> None:
        self.streams += 1
        await asyncio.sleep(digest.size_bytes / BYTES_PER_S)
        async with open_at(0) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        await super().write_small([(digest, data)], history)


async def sent(*blobs: bytes) -> tuple[SlowTarget, dict[Digest, SendOutcome]]:
    """Send these as one batch; return what became of them."""
    rng = random.Random(18)
    here, there = Node(0, CALM, rng), Node(1, CALM, rng)
    there.is_up = True
    for data in blobs:
        here.storage.take(digest_of(data), data)
    target = SlowTarget(Wire(here, there, CALM, rng))
    gate, counters = Gate("there", here.clock, 0.1, rng), PeerCounters(here.clock)
    ledger = MemoryLedger(here.storage)
    parts = here.storage, ledger, target, gate, counters
    sender = Sender("there", *parts, SendMemory(), here.clock)
    outcomes: dict[Digest, SendOutcome] = {}

    def settle(ended: Sequence[Digest], outcome: SendOutcome) -> None:
        outcomes.update(dict.fromkeys(ended, outcome))

    await sender.send_batch([digest_of(data) for data in blobs], ObjectHistory(), settle)
    assert set(there.storage.blobs) == set(outcomes)
    return target, outcomes


def test_r18_a_small_blob_that_takes_longer_than_a_call_may_goes_as_a_stream() -> None:
    async def scenario() -> tuple[SlowTarget, dict[Digest, SendOutcome]]:
        async with asyncio.timeout(10 * CALL_MAX_S):
            return await sent(SLOW)

    target, outcomes = run(scenario())
    assert (target.batches, target.streams) == (1, 1)
    assert list(outcomes.values()) == [SENT]


def test_r18_those_that_are_quick_enough_stay_in_batches() -> None:
    target, outcomes = run(sent(*QUICK))
    assert (target.batches, target.streams) == (1, 0)
    assert list(outcomes.values()) == [SENT] * len(QUICK)
