"""All that is held offered to a peer, in virtual time: how fast, beside what, and when it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from federation.config.peers import PeerConfig
from federation.core.digest import Digest, digest_of
from federation.core.errors import FederationError
from federation.core.index import Stamp
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.replication_log import PeerState
from federation.core.store import SMALL_BLOB_BYTES
from federation.remote.failures import FailureKind, failure
from federation.replication.assembly import make_session, walking
from federation.replication.fit import LOST_MIN, SAMPLE, Fit
from federation.replication.peer import FULL_S, TOO_SMALL
from federation.replication.peer_api import ObjectHistory, OpenAt
from federation.replication.peer_records import PeerRecordCache
from federation.replication.reconcile import PAGE_OBJECTS, PAGES_AT_ONCE
from federation.replication.send_memory import SendMemory
from federation.replication.session import PeerSession
from federation.replication.throttle import LoopThrottle
from federation.replication.worker import Replicator
from tests.replication.here import LIMITS, asset_of
from tests.replication.simulation import CALM, Node, SimulatedPeer, Wire
from tests.replication.virtual_time import run
from tests.support.memory_ledger import MemoryLedger, MemoryStorage

RTT_S = 0.08
FROM_PEER = Provenance(Source.PEER, ("c",), "c")
OBJECTS = 20_000


class SlowWire(Wire):
    """Each call takes the same time, there and back."""

    async def call(self, work: Any) -> Any:
        await asyncio.sleep(RTT_S / 2)
        self._check()
        result = work()
        await asyncio.sleep(RTT_S / 2)
        return result


class Target(SimulatedPeer):
    """Takes batches of a usual size; `send_s`: how long a large blob takes."""

    batch_bytes = 4_000_000
    send_s = 0.0
    is_full = False

    async def write_small(
        self, blobs: Sequence[tuple[Digest, bytes]], history: ObjectHistory
    ) -> list[FederationError | None]:
        if self.is_full:
            await self._call(lambda: None)
            raise failure("there", FailureKind.EXHAUSTED, "no room")
        return await super().write_small(blobs, history)

    async def send(
        self, digest: Digest, open_at: OpenAt, history: ObjectHistory, *, goes_on: bool = False
    ) -> None:
        await asyncio.sleep(self.send_s)
        await super().send(digest, open_at, history, goes_on=goes_on)


class SmallStorage(MemoryStorage):
    """Holds so many blobs, those that came last."""

    blobs_max = 300

    def take(self, digest: Digest, data: bytes, provenance: Provenance = FROM_CLIENT) -> bool:
        new = super().take(digest, data, provenance)
        while len(self.blobs) > self.blobs_max:
            self.remove(next(iter(self.blobs)))
        return new


class Pair:
    """A node that sends to another which is there and answers."""

    def __init__(self, there: MemoryStorage | None = None, check_every_s: float = 0.0) -> None:
        rng = random.Random(5)
        self.here, self.there = Node(0, CALM, rng), Node(1, CALM, rng)
        self.there.is_up = True
        if there is not None:
            self.there.storage = there
        self.wire = SlowWire(self.here, self.there, CALM, rng)
        self.target = Target(self.wire)
        self._rng = rng
        self._peer = PeerConfig(name="n1", url="http://127.0.0.1:1", check_every=check_every_s)
        self.ledger = MemoryLedger(self.here.storage)
        self.worker = Replicator(self.ledger, self._session, self.here.clock)

    def _session(self, peer: PeerConfig, records: PeerRecordCache) -> PeerSession:
        parts = self.here.storage, self.ledger, walking(LIMITS), self.here.clock, self._rng
        return make_session(peer, records, self.target, *parts, LoopThrottle(), SendMemory())

    def fill(self, count: int, size_bytes: int = 10) -> list[Digest]:
        blobs = [b"%0*d" % (size_bytes, at) for at in range(count)]
        digests = [digest_of(data) for data in blobs]
        for digest, data in zip(digests, blobs, strict=True):
            self.here.storage.take(digest, data)
        return digests

    @property
    def facts(self) -> dict[str, Any]:
        shown = self.worker.describe()["peers"]
        return shown[0] if shown else {"state": "none"}

    async def until(self, condition: Callable[[], Any], within_s: float = 10_000.0) -> float:
        """Return how long it took, in virtual seconds."""
        began_s = asyncio.get_running_loop().time()
        while not condition():
            took_s = asyncio.get_running_loop().time() - began_s
            assert took_s < within_s, self.facts
            await asyncio.sleep(0.1)
        return asyncio.get_running_loop().time() - began_s

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.worker.start([self._peer])
        try:
            yield
        finally:
            await self.worker.close()

    async def push(self, per_s: float) -> None:
        """Push small blobs one by one, for ever."""
        number = 0
        while True:
            number += 1
            data = b"live %d" % number
            self.here.storage.take(digest_of(data), data)
            await asyncio.sleep(1 / per_s)

    def lacks(self, digests: Collection[Digest]) -> int:
        return sum(digest not in self.there.storage.blobs for digest in digests)


def in_virtual_time(work: Callable[[], Any]) -> Any:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        return run(work())
    finally:
        structlog.configure(**before)


def test_a_resync_goes_on_at_a_thousand_a_second_beside_live_traffic() -> None:
    async def story() -> None:
        pair = Pair()
        digests = pair.fill(OBJECTS)
        async with pair.running(), asyncio.TaskGroup() as group:
            live = group.create_task(pair.push(per_s=20))
            took_s = await pair.until(lambda: pair.facts["state"] == "following")
            assert pair.lacks(digests) == 0
            assert took_s < OBJECTS / 1000
            # And live traffic does not wait for it.
            assert pair.facts["lag-objects"] <= 20 * 2
            live.cancel()

    in_virtual_time(story)


def test_objects_that_are_there_are_passed_faster_still() -> None:
    async def story() -> None:
        pair = Pair()
        for digest in pair.fill(OBJECTS):
            pair.there.storage.take(digest, pair.here.storage.blobs[digest])
        async with pair.running():
            took_s = await pair.until(lambda: pair.facts["state"] == "following")
            assert took_s < OBJECTS / 3000
            assert pair.wire.crossed.total() == 0

    in_virtual_time(story)


def test_a_resync_dates_the_same_value_by_the_later_push_and_sends_nothing_it_names() -> None:
    """Otherwise a purge from between the two pushes would remove one copy alone."""

    async def story() -> None:
        pair = Pair()
        earlier, later = asset_of("urn:a", digest_of(b"a")), asset_of("urn:b", digest_of(b"b"))
        here, there = pair.here.storage, pair.there.storage
        for storage in (here, there):
            storage.take(digest_of(b"a"), b"a")
            storage.take(digest_of(b"b"), b"b")
        here.put_one(earlier._replace(stamp=Stamp(70 << 16, "c")), FROM_PEER)
        there.put_one(earlier._replace(stamp=Stamp(90 << 16, "d")), FROM_PEER)
        here.put_one(later._replace(stamp=Stamp(90 << 16, "c")), FROM_PEER)
        there.put_one(later._replace(stamp=Stamp(70 << 16, "d")), FROM_PEER)
        async with pair.running():
            await pair.until(lambda: pair.facts["state"] == "following")
        assert there.entries[earlier.key].stamp == Stamp(90 << 16, "d")
        assert there.entries[later.key].stamp == Stamp(90 << 16, "c")
        assert not {digest_of(b"a"), digest_of(b"b")} & pair.wire.crossed.keys()

    in_virtual_time(story)


@pytest.mark.slow
def test_large_blobs_that_take_hours_are_in_nobodys_way() -> None:
    async def story() -> None:
        pair = Pair()
        pair.target.send_s = 3600.0
        digests = pair.fill(OBJECTS)
        large = [b"%d" % at + bytes(SMALL_BLOB_BYTES) for at in range(4)]
        for data in large:  # the newest, so that they come first
            pair.here.storage.take(digest_of(data), data)
        async with pair.running():
            took_s = await pair.until(lambda: pair.lacks(digests) == 0)
            assert took_s < OBJECTS / 1000
            assert pair.facts["state"] == "reconciling"
            await pair.until(lambda: pair.facts["state"] == "following", 20_000)
            assert pair.lacks([digest_of(data) for data in large]) == 0

    in_virtual_time(story)


def test_a_walk_goes_on_from_a_page_that_had_not_ended() -> None:
    async def story() -> None:
        pair = Pair()
        pair.target.send_s = 3600.0
        digests = pair.fill(3_000)
        large = b"large" + bytes(SMALL_BLOB_BYTES)
        pair.here.storage.take(digest_of(large), large)
        async with pair.running():
            await pair.until(lambda: pair.lacks(digests) == 0)
        (record,) = await pair.ledger.peers()
        assert record.state is PeerState.NEEDS_RESYNC
        pair.target.send_s = 0.0
        pair.ledger.close()
        again = Replicator(pair.ledger, pair._session, pair.here.clock)
        pair.worker = again
        async with pair.running():
            await pair.until(lambda: pair.facts["state"] == "following", 600)
            assert digest_of(large) in pair.there.storage.blobs

    in_virtual_time(story)


def test_a_resync_to_a_peer_that_evicts_what_it_gets_ends_and_says_so() -> None:
    async def story() -> None:
        pair = Pair(SmallStorage("n1.0"))
        pair.fill(OBJECTS)
        asset = asset_of("urn:a", digest_of(b"needed"))
        pair.here.storage.take(digest_of(b"needed"), b"needed")
        pair.here.storage.put_one(asset)
        async with pair.running():
            await pair.until(lambda: pair.facts["state"] == "following", 600)
            assert (
                pair.wire.crossed.total() < 0.3 * OBJECTS
            )  # 4,401 or 5,101, by the order of tasks
            assert pair.facts["reason"] == TOO_SMALL + "it evicts what it is sent"
            # What comes in goes on being sent.
            pair.here.storage.take(digest_of(b"new"), b"new")
            await pair.until(lambda: digest_of(b"new") in pair.there.storage.blobs, 60)

    in_virtual_time(story)


def test_checks_of_a_peer_that_is_too_small_send_little() -> None:
    async def story() -> None:
        pair = Pair(SmallStorage("n1.0"), check_every_s=600.0)
        pair.fill(OBJECTS)
        async with pair.running():
            await pair.until(lambda: pair.facts["state"] == "following", 600)
            before = pair.wire.crossed.total()
            await asyncio.sleep(3 * 600)
            assert pair.facts["reason"].startswith(TOO_SMALL)
            assert pair.wire.crossed.total() - before < 3 * 2 * PAGE_OBJECTS * PAGES_AT_ONCE

    in_virtual_time(story)


def test_a_resync_to_a_peer_that_stays_full_ends_and_what_is_new_waits() -> None:
    async def story() -> None:
        pair = Pair()
        digests = pair.fill(1_000)
        pair.target.is_full = True
        async with pair.running():
            await pair.until(lambda: pair.facts["state"] == "full", 60)
            await pair.until(lambda: pair.facts["lanes"]["always"]["state"] == "following")
            assert pair.facts["reason"] == TOO_SMALL + "it has no room"
            pair.here.storage.take(digest_of(b"new"), b"new")
            await asyncio.sleep(2 * FULL_S)
            assert pair.facts["lag-objects"] == 1
            pair.target.is_full = False
            await pair.until(lambda: digest_of(b"new") in pair.there.storage.blobs, 120)
            assert pair.lacks(digests) == len(digests)  # until a check, or an operator asks
            await pair.ledger.want("n1")
            await pair.until(lambda: pair.lacks(digests) == 0, 120)
            await pair.until(lambda: pair.facts["reason"] == "", 60)

    in_virtual_time(story)


def test_a_peer_that_lost_a_few_is_not_taken_for_one_that_evicts() -> None:
    fit, rng = Fit(), random.Random(1)
    for _ in range(200):
        fit.delivered([digest_of(rng.randbytes(8)) for _ in range(50)])
        sample = fit.sample()
        assert len(sample) in {0, SAMPLE}
        fit.answered(sample, set(sample[: SAMPLE // 4]))
        assert not fit.evicts
    for _ in range(3):
        fit.delivered([digest_of(rng.randbytes(8)) for _ in range(50)])
        sample = fit.sample()
        fit.answered(sample, set(sample))
    assert fit.evicts
    large = Fit()
    for at in range(3):
        blobs = [Digest(bytes([at]) * 32, 50 * 2**20 + each) for each in range(2)]
        large.delivered(blobs)
        sample = large.sample()
        large.answered(sample, set(sample))
    assert large.evicts
    few = Fit()
    few.delivered([digest_of(b"%d" % at) for at in range(SAMPLE)])
    assert few.sample() == []  # too few to tell anything
    assert LOST_MIN <= SAMPLE


def test_what_came_first_and_what_came_last_are_asked_about_alike() -> None:
    for keeps_first in (True, False):
        fit, sent, sample = Fit(), 0, []
        while not fit.evicts:
            blobs = [digest_of(b"%d" % at) for at in range(sent, sent + 100)]
            sent += 100
            fit.delivered(blobs)
            kept = range(1000) if keeps_first else range(sent - 1000, sent)
            held = {digest_of(b"%d" % at) for at in kept}
            sample = fit.sample()
            fit.answered(sample, {digest for digest in sample if digest not in held})
            assert sent < 2_500
        assert sent > 1_200
