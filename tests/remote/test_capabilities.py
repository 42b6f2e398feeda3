"""What a remote can do is asked once, and everything works where it does not say."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.clock import ManualClock
from federation.core.digest import DigestFunction, digest_of
from federation.remote.capabilities import (
    BATCH_LEAST_BYTES,
    BATCH_MOST_BYTES,
    UNSTATED,
    read_capabilities,
)
from federation.remote.failures import RemoteFailed
from federation.wire.node_identity import LOG_HEADER, NODE_HEADER, LogPosition
from tests.remote import fake_server
from tests.remote.blobs import noise, read, until
from tests.remote.fake_server import FakeServer, Proxy, fails, good_capabilities
from tests.remote.served import Here, connected

GET = "GetCapabilities"


async def test_it_is_asked_once_for_many_calls(fake: FakeServer, here: Here) -> None:
    digest = fake.holds(noise(100))
    await asyncio.gather(*(here.store.find_missing([digest]) for _ in range(20)))
    await read(here.store, digest)
    assert len(fake.calls(GET)) == 1
    assert here.remote.describe()["capabilities"]["stated"] is True


async def test_it_is_asked_again_after_a_while(fake: FakeServer) -> None:
    clock = ManualClock()
    async with connected(fake.address, clock) as here:
        await here.remote.capabilities()
        clock.advance(599)
        await here.remote.capabilities()
        assert len(fake.calls(GET)) == 1
        fake.capabilities = good_capabilities(batch_bytes=100_000)
        clock.advance(2)
        await here.remote.capabilities()  # in the background: the old answer serves meanwhile
        await until(lambda: len(fake.calls(GET)) == 2, "it is asked again")
        known = here.remote.describe
        await until(lambda: known()["capabilities"]["batch_bytes"] == 100_000, "it is learned")
        assert len(fake.calls(GET)) == 2


async def test_what_is_known_stays_while_a_renewal_fails_for_a_moment(fake: FakeServer) -> None:
    clock = ManualClock()
    fake.capabilities = good_capabilities(batch_bytes=100_000)
    async with connected(fake.address, clock) as here:
        await here.remote.capabilities()
        fake.does[GET] = fails(grpc.StatusCode.RESOURCE_EXHAUSTED)
        clock.advance(601)
        await here.remote.capabilities()
        known = here.remote.describe
        await until(lambda: known()["last_failure"] is not None, "the renewal has failed")
        assert known()["capabilities"]["batch_bytes"] == 100_000
        del fake.does[GET]
        fake.capabilities = good_capabilities(batch_bytes=200_000)
        clock.advance(6)
        await here.remote.capabilities()
        await until(lambda: known()["capabilities"]["batch_bytes"] == 200_000, "it is renewed")


async def test_a_greeting_asks_at_once_and_says_when_there_is_no_answer(fake: FakeServer) -> None:
    async with connected(fake.address) as here:
        fake.does[GET] = fails(grpc.StatusCode.UNAVAILABLE)
        assert await here.remote.capabilities() == UNSTATED
        with pytest.raises(RemoteFailed):
            await here.remote.greet()
        del fake.does[GET]
        fake.announces = [(NODE_HEADER, "there"), (LOG_HEADER, "epoch.7")]
        await here.remote.greet()
        assert here.remote.known.stated
        assert here.remote.node_id == "there"
        fake.does[GET] = fails(grpc.StatusCode.UNIMPLEMENTED)
        await here.remote.greet()
        assert here.remote.known == UNSTATED


async def test_it_is_asked_again_after_a_reconnect(fake: FakeServer) -> None:
    async with Proxy(fake.address) as proxy, connected(proxy.address) as here:
        assert (await here.remote.capabilities()).zstd is False
        fake.capabilities = good_capabilities(zstd=True)
        proxy.cut()
        connection = here.remote.describe
        await until(lambda: connection()["connection"] != "ready", "the cut is noticed")
        assert (await here.remote.capabilities()).zstd is True
        assert len(fake.calls(GET)) == 2


async def test_r20_who_answers_is_known_and_noticed_when_it_is_another(fake: FakeServer) -> None:
    async with Proxy(fake.address) as proxy, connected(proxy.address) as here:
        await here.remote.capabilities()
        assert (here.remote.node_id, here.remote.log_seen) == ("", None)
        state = here.remote.describe
        for node_id, log in (("b", LogPosition("e1", 7)), ("c", LogPosition("e2", 3))):
            fake.announces = [(NODE_HEADER, node_id), (LOG_HEADER, str(log))]
            proxy.cut()
            await until(lambda: state()["connection"] != "ready", "the cut is noticed")
            await here.remote.capabilities()
            assert (here.remote.node_id, here.remote.log_seen) == (node_id, log)
        fake.does[GET] = fails(grpc.StatusCode.UNAVAILABLE)
        proxy.cut()
        await until(lambda: state()["connection"] != "ready", "the cut is noticed")
        await here.remote.capabilities()
        assert here.remote.node_id == "c"  # silence says nothing about who it is


async def test_whoever_was_away_is_asked_by_the_calls_that_get_through(
    fake: FakeServer,
) -> None:
    fake.announces = [(NODE_HEADER, "b")]
    await fake.stop()
    async with connected(fake.address) as here:
        for _ in range(3):
            with pytest.raises(RemoteFailed):
                await here.store.find_missing([digest_of(b"x")])
        await fake.start()

        async def gets_through() -> bool:
            with contextlib.suppress(RemoteFailed):
                await here.store.find_missing([digest_of(b"x")])
                return True
            return False

        async with asyncio.timeout(60):
            # gRPC connects when it likes: between the question that comes first and the call, too.
            while not (await gets_through() and here.remote.node_id == "b"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.PERMISSION_DENIED,
    ],
)
async def test_u20_without_an_answer_the_defaults_serve(
    fake: FakeServer, here: Here, code: grpc.StatusCode
) -> None:
    fake.does[GET] = fails(code)
    data = noise(5000)
    digest = digest_of(data)
    assert await here.store.write_small([(digest, data)]) == [None]
    assert await here.store.find_missing([digest]) == set()
    assert await read(here.store, digest) == data
    assert await here.store.read_small([digest]) == [data]
    assert await here.remote.capabilities() == UNSTATED
    assert len(fake.calls(GET)) == 1


async def test_u20_a_slow_answer_is_waited_for_once_and_used_when_it_comes(
    fake: FakeServer,
) -> None:
    gate = asyncio.Event()

    async def slow(_request: bytes, _context: fake_server.Context) -> bytes:
        await gate.wait()
        return good_capabilities(zstd=True).SerializeToString()

    fake.does[GET] = slow
    digest = digest_of(b"asked")
    async with connected(fake.address) as here:
        async with asyncio.timeout(60):
            assert await here.store.find_missing([digest]) == {digest}
        async with asyncio.timeout(1.5):  # less than the first call waited
            assert await here.store.find_missing([digest]) == {digest}
        assert await here.remote.capabilities() == UNSTATED
        gate.set()
        known = here.remote.describe
        await until(lambda: known()["capabilities"]["zstd"], "it is learned")
        assert len(fake.calls(GET)) == 1


async def test_u20_an_answer_that_is_no_message_is_no_answer(fake: FakeServer, here: Here) -> None:
    fake.does[GET] = fake_server.answers(b"\xff\xff")
    assert await here.remote.capabilities() == UNSTATED


@pytest.mark.parametrize(
    ("stated", "used"),
    [
        (0, BATCH_MOST_BYTES),
        (-1, BATCH_MOST_BYTES),
        (1, BATCH_LEAST_BYTES),
        (1_000_000, 1_000_000),
        (2**63 - 1, BATCH_MOST_BYTES),
    ],
)
def test_u20_a_batch_limit_is_brought_into_range(stated: int, used: int) -> None:
    message = good_capabilities(batch_bytes=stated)
    assert read_capabilities(message.SerializeToString()).batch_bytes == used


def test_what_is_not_stated_is_not_assumed() -> None:
    known = read_capabilities(b"")
    assert known.functions is None
    assert known.hashes_with(DigestFunction.BLAKE3)
    assert known.blob_max_bytes is None
    message = reapi.ServerCapabilities(
        cache_capabilities=reapi.CacheCapabilities(digest_functions=["SHA256", "SHA1"])
    )
    known = read_capabilities(message.SerializeToString())
    assert known.hashes_with(DigestFunction.SHA256)
    assert not known.hashes_with(DigestFunction.BLAKE3)
