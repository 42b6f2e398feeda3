"""What happens below the protocol: nobody there, silence, resets, restarts, GOAWAY."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from federation.core.digest import Digest, digest_of
from federation.remote.failures import FailureKind, RemoteFailed
from tests.remote import fake_server
from tests.remote.blobs import noise, read, read_until_failure, until
from tests.remote.fake_server import FakeServer, Proxy, RawServer, refusing_address
from tests.remote.served import Here, connected

pytestmark = pytest.mark.slow

ASKED = digest_of(b"asked")


async def fails_with(here: Here) -> RemoteFailed:
    with pytest.raises(RemoteFailed) as caught:
        await here.store.find_missing([ASKED])
    return caught.value


async def resume(here: Here, digest: Digest) -> tuple[bytes, int]:
    """Read a blob as pull-through does: go on at the offset where it broke; count the breaks."""
    got, breaks = bytearray(), 0
    kinds: set[FailureKind] = set()
    while len(got) < digest.size_bytes and breaks < 50:
        try:
            async with here.store.open_read(digest, offset=len(got)) as stream:
                async for chunk in stream:
                    got += chunk
        except RemoteFailed as error:
            kinds.add(error.kind)
            breaks += 1
            await asyncio.sleep(0.01)
    assert kinds <= {FailureKind.UNAVAILABLE}
    return bytes(got), breaks


async def test_nobody_there_is_silence_and_no_absence() -> None:
    async with connected(refusing_address()) as here:
        assert (await fails_with(here)).kind is FailureKind.UNAVAILABLE
        await read_until_failure(here.store, ASKED, FailureKind.UNAVAILABLE)
        with pytest.raises(RemoteFailed):
            await here.store.read_small([ASKED])
        with pytest.raises(RemoteFailed):
            await here.index.get_action_result(ASKED)


async def test_u21_a_name_that_cannot_be_resolved_is_silence() -> None:
    async with connected("no-such-host.invalid:1") as here:
        assert (await fails_with(here)).kind in {FailureKind.UNAVAILABLE, FailureKind.TIMEOUT}


async def test_u21_an_address_that_is_dead_is_left_for_the_next(fake: FakeServer) -> None:
    with socket.socket() as deaf:  # its queue is full, so that a SYN to it gets no answer
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        dead = f"127.0.0.1:{deaf.getsockname()[1]}"
        # gRPC itself would give an attempt to connect 20 s.
        async with connected("localhost:1", request_timeout_s=20) as here:
            here.remote._target = here.remote._target._replace(
                authority=f"ipv4:{dead},{fake.address}"
            )
            assert await here.store.find_missing([ASKED]) == {ASKED}
        for filler in fillers:
            filler.close()


async def test_u04_a_connection_that_is_taken_and_silent_ends_in_time() -> None:
    limits: dict[str, Any] = {"stall_s": 0.4, "request_timeout_s": 0.4}
    async with RawServer() as silent, connected(silent.address, **limits) as here:
        async with asyncio.timeout(60):
            assert (await fails_with(here)).kind is FailureKind.TIMEOUT
            await read_until_failure(here.store, ASKED, FailureKind.STALLED)
        assert silent.connections >= 1


async def test_something_that_speaks_another_protocol_is_silence() -> None:
    server = RawServer(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    async with server as other, connected(other.address, request_timeout_s=3) as here:
        assert (await fails_with(here)).kind in {FailureKind.UNAVAILABLE, FailureKind.TIMEOUT}


@pytest.mark.parametrize("cut_at", [30_000, 500_000, 900_000])
async def test_u02_a_reset_in_the_middle_goes_on_at_the_same_offset(
    fake: FakeServer, cut_at: int
) -> None:
    data = noise(1_000_000)
    digest = fake.holds(data)
    async with Proxy(fake.address) as proxy, connected(proxy.address) as here:
        assert await here.store.find_missing([digest]) == set()
        proxy.cut_after_bytes = cut_at
        got, breaks = await resume(here, digest)
        assert got == data
        assert proxy.cuts == 1
        assert breaks >= 1


async def test_u06_a_remote_that_flaps_answers_whenever_it_is_up(fake: FakeServer) -> None:
    data = noise(3_000_000)
    digest = fake.holds(data)

    async def paced(sent: bytes, _context: object) -> AsyncIterator[bytes]:
        for at in range(0, len(sent), 50_000):
            yield sent[at : at + 50_000]
            await asyncio.sleep(0.005)

    fake.streams = paced
    async with Proxy(fake.address) as proxy, connected(proxy.address) as here:

        async def flap() -> None:
            for _ in range(6):
                await asyncio.sleep(0.1)
                proxy.refuses = True
                proxy.cut()
                await asyncio.sleep(0.1)
                proxy.refuses = False

        flapping = asyncio.ensure_future(flap())
        got, breaks = await resume_patiently(here, digest)
        await flapping
        assert got == data
        assert breaks >= 1


async def resume_patiently(here: Here, digest: Digest) -> tuple[bytes, int]:
    got, breaks = bytearray(), 0
    async with asyncio.timeout(60):
        while len(got) < digest.size_bytes:
            try:
                async with here.store.open_read(digest, offset=len(got)) as stream:
                    async for chunk in stream:
                        got += chunk
            except RemoteFailed:
                breaks += 1
                await asyncio.sleep(0.05)
    return bytes(got), breaks


async def test_a_remote_is_back_within_seconds_of_its_return(fake: FakeServer) -> None:
    async with connected(fake.address) as here:
        assert await here.store.find_missing([ASKED]) == {ASKED}
        await fake.stop()
        for _ in range(30):
            assert (await fails_with(here)).kind is FailureKind.UNAVAILABLE
            await asyncio.sleep(0.05)
        await fake.start()
        async with asyncio.timeout(60):
            await until_answered(here)


async def until_answered(here: Here) -> None:
    while True:
        try:
            assert await here.store.find_missing([ASKED]) == {ASKED}
        except RemoteFailed:
            await asyncio.sleep(0.05)
        else:
            return


async def test_u22_a_limit_on_a_connection_s_age_costs_nothing_between_calls() -> None:
    options = [
        ("grpc.max_connection_age_ms", 200),
        ("grpc.max_connection_age_grace_ms", 10_000),
    ]
    async with FakeServer(options=options) as fake, Proxy(fake.address) as proxy:
        async with connected(proxy.address, retry_limit=2) as here:
            for _ in range(50):
                assert await here.store.find_missing([ASKED]) == {ASKED}
                await asyncio.sleep(0.02)
        assert proxy.connections >= 3


async def test_u22_goaway_in_the_middle_of_a_stream_goes_on_at_the_same_offset() -> None:
    options = [("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 1)]
    async with FakeServer(options=options) as fake:
        data = noise(2_000_000)
        digest = fake.holds(data)

        async def paced(sent: bytes, _context: object) -> AsyncIterator[bytes]:
            for at in range(0, len(sent), 50_000):
                yield sent[at : at + 50_000]
                await asyncio.sleep(0.02)

        fake.streams = paced
        async with connected(fake.address) as here:
            got, breaks = await resume_patiently(here, digest)
            assert got == data
            assert breaks >= 1


async def test_u23_a_network_that_dies_without_a_word_is_noticed(fake: FakeServer) -> None:
    data = noise(5_000_000)
    digest = fake.holds(data)
    async with Proxy(fake.address) as proxy, connected(proxy.address, stall_s=0.5) as here:
        async with here.store.open_read(digest) as stream:
            await anext(stream)
            proxy.freeze()
            with pytest.raises(RemoteFailed) as caught:
                async for _ in stream:
                    pass
            assert caught.value.kind is FailureKind.STALLED
        proxy.thaw()
        assert await read(here.store, digest) == data


async def test_a_status_with_a_stream_still_open_is_not_waited_on(fake: FakeServer) -> None:
    digest = fake.holds(noise(1000))
    fake.streams = fake_server.hangs_after(1000)  # all bytes, and no end
    async with connected(fake.address, stall_s=0.3) as here, asyncio.timeout(60):
        assert await read(here.store, digest) == noise(1000)
        assert here.calls("Read") == 1


async def test_many_cancelled_reads_leave_nothing(fake: FakeServer) -> None:
    digest = fake.holds(noise(500_000))
    async with connected(fake.address) as here:

        async def start_and_leave(steps: int) -> None:
            task = asyncio.ensure_future(read(here.store, digest))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        await here.remote.capabilities()  # asked by a task of its own, which takes a slot too
        before = len(asyncio.all_tasks())
        for _ in range(5):
            await asyncio.gather(*(start_and_leave(steps) for steps in range(60)))
        assert (here.remote.calls.slots.running, here.remote.calls.slots.queued) == (0, 0)
        assert await read(here.store, digest) == noise(500_000)
        await until(lambda: len(asyncio.all_tasks()) <= before + 2, "the calls' tasks have ended")


def test_grpc_status_codes_are_all_in_the_table() -> None:
    from federation.remote.statuses import _KINDS

    left_out = {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}
    assert set(_KINDS) == set(grpc.StatusCode) - left_out
