"""Peers of our own compared by short names, and others, or older ones, by FindMissing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation._proto.federation.v1 import holdings_pb2
from federation.core.digest import EMPTY, Digest, digest_of
from federation.core.store import SMALL_BLOB_BYTES
from federation.remote.failures import FailureKind, RemoteFailed
from federation.replication.peer import PeerRunner
from federation.replication.reconcile import Reconcile
from federation.replication.remote_peer import RemotePeer
from federation.replication.schedule import Position, Purpose
from federation.wire import node_identity
from federation.wire.holdings import encode_answer, name_of, split_names
from federation.wire.node_identity import LogPosition, NodeIdentity
from tests.remote.fake_server import Context, FakeServer, fails
from tests.replication.here import asset_of, peer, remote_peer, replicating
from tests.replication.test_reconcile import OBJECTS, Pair, Target, in_virtual_time
from tests.support.process import serve
from tests.support.process_client import Client

BLOBS = [b"blob %d" % at for at in range(10)]
DIGESTS = [digest_of(data) for data in BLOBS]


@asynccontextmanager
async def asking(fake: FakeServer, *, is_ours: bool = True) -> AsyncIterator[RemotePeer]:
    """A client for a fake peer that holds all of BLOBS but the first three."""
    if is_ours:
        fake.announces = node_identity.headers(NodeIdentity("theirs", LogPosition("e", 1)))
    for data in BLOBS[3:]:
        fake.holds(data)
    async with remote_peer(fake, None) as target:
        yield target


def answers(fake: FakeServer) -> None:
    async def answer(request: bytes, _context: Context) -> bytes:
        names = split_names(holdings_pb2.FindLackingRequest.FromString(request).names)
        held = {name_of(digest) for digest in fake.blobs}
        return encode_answer([name not in held for name in names])

    fake.does["FindLacking"] = answer


async def test_a_node_of_ours_is_asked_by_short_names_and_nothing_else() -> None:
    async with FakeServer() as fake, asking(fake) as target:
        answers(fake)
        assert await target.find_absent([*DIGESTS, EMPTY]) == set(DIGESTS[:3])
        (asked,) = fake.calls("FindLacking")
        assert len(asked.request) == len(DIGESTS) * 17 + 3
        assert asked.metadata["federation-replicates"] == "1"
        assert fake.calls("FindMissingBlobs") == []


async def test_another_server_is_never_asked_so() -> None:
    async with FakeServer() as fake, asking(fake, is_ours=False) as target:
        assert await target.find_absent(DIGESTS) == set(DIGESTS[:3])
        assert fake.calls("FindLacking") == []


async def test_an_older_node_is_asked_by_find_missing_and_not_tried_again_at_once() -> None:
    async with FakeServer() as fake, asking(fake) as target:
        for _ in range(3):
            assert await target.find_absent(DIGESTS) == set(DIGESTS[:3])
        assert len(fake.calls("FindLacking")) == 1
        assert len(fake.calls("FindMissingBlobs")) == 3


async def test_a_proxy_that_lets_known_methods_pass_alone_is_no_obstacle() -> None:
    async with FakeServer() as fake, asking(fake) as target:
        fake.does["FindLacking"] = fails(grpc.StatusCode.PERMISSION_DENIED)
        assert await target.find_absent(DIGESTS) == set(DIGESTS[:3])


@pytest.mark.parametrize("bitmap", [b"", b"\x00" * 3, b"\x00\xff"])
async def test_an_answer_of_another_length_is_no_answer(bitmap: bytes) -> None:
    async def answer(_request: bytes, _context: Context) -> bytes:
        return holdings_pb2.FindLackingResponse(lacking=bitmap).SerializeToString()

    async with FakeServer() as fake, asking(fake) as target:
        fake.does["FindLacking"] = answer
        with pytest.raises(RemoteFailed) as caught:
            await target.find_absent(DIGESTS)
        assert caught.value.kind is FailureKind.MALFORMED


async def test_a_check_of_a_real_node_compares_names_and_sends_what_is_lost(
    tmp_path: Path,
) -> None:
    with serve(tmp_path / "there", name="there") as there:
        async with replicating(tmp_path / "here", peer(there.address, check_every="5s")) as here:
            digests = await here.push(*BLOBS)
            large = await here.write(bytes(SMALL_BLOB_BYTES + 1))
            await here.caught_up()
            asked = here.calls("FindMissingBlobs")
            await here.until(lambda: here.calls("FindLacking") >= 1, 60)
            assert here.calls("FindMissingBlobs") == asked
            with Client(there.address) as client:
                assert client.find_missing([*digests, large]) == set()
            (file,) = [p for p in (tmp_path / "there" / "blobs").glob("*/*") if p.is_file()]
            file.unlink()
            await here.until(file.exists, 60)  # nobody but the check has asked about it
            with Client(there.address) as client:
                await here.until(lambda: not client.find_missing([large]))
                assert client.read(large) == bytes(SMALL_BLOB_BYTES + 1)


class Believing(Target):
    """Answers by short names as it is told; counts its questions."""

    seems_absent: Collection[Digest] = ()
    summaries = questions = 0

    async def find_absent(self, digests: Collection[Digest]) -> set[Digest]:
        self.summaries += 1
        found = await super().find_missing(digests)
        return found.union(self.seems_absent).intersection(digests)

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        self.questions += 1
        return await super().find_missing(digests)


def believing(count: int = OBJECTS) -> tuple[Pair, Believing, list[Digest]]:
    pair = Pair()
    pair.target = target = Believing(pair.wire)
    digests = pair.fill(count)
    for digest in digests:
        pair.there.storage.take(digest, pair.here.storage.blobs[digest])
    return pair, target, digests


def runner_of(pair: Pair) -> PeerRunner:
    (running,) = pair.worker._running.values()
    return running.runner


async def check(pair: Pair) -> float:
    """Run a check without rests; return how long it took, in virtual seconds."""
    runner = runner_of(pair)
    walk = Reconcile(runner.session, "always", lambda: True, lambda _: None)  # type: ignore[arg-type]
    began_s = asyncio.get_running_loop().time()
    await walk.run(Position(Purpose.CHECK))
    return asyncio.get_running_loop().time() - began_s


def story(work: Any) -> None:
    in_virtual_time(work)


def test_a_check_goes_on_at_thousands_a_second_beside_live_traffic() -> None:
    async def plot() -> None:
        pair, target, _ = believing()
        async with pair.running(), asyncio.TaskGroup() as group:
            await pair.until(lambda: pair.facts["state"] == "following")
            live = group.create_task(pair.push(per_s=20))
            before = target.summaries
            took_s = await check(pair)
            assert took_s < OBJECTS / 10_000
            assert target.summaries - before == OBJECTS / 2000
            live.cancel()

    story(plot)


def test_what_only_seems_to_be_absent_is_asked_about_and_not_sent() -> None:
    async def plot() -> None:
        pair, target, digests = believing(3000)
        async with pair.running():
            await pair.until(lambda: pair.facts["state"] == "following")
            target.seems_absent = digests[::10]
            before = target.questions
            await check(pair)
            assert target.questions > before
            assert pair.wire.crossed.total() == 0
            assert pair.facts["forgotten"] == 0

    story(plot)


def test_what_seems_to_be_held_is_not_taken_for_promised() -> None:
    async def plot() -> None:
        pair, _, digests = believing(100)
        async with pair.running():
            await pair.until(lambda: pair.facts["state"] == "following")
            await asyncio.sleep(120)  # what the resync was promised is asked about again
            await check(pair)
            pair.there.storage.remove(digests[0])
            pair.here.storage.put_one(asset_of("urn:a", digests[0]))
            await pair.until(lambda: pair.there.storage.entries, 60)
            assert pair.lacks(digests) == 0

    story(plot)
