"""Reads from a server that does everything wrong: never more than was asked, never a short OK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from federation.core.clock import ManualClock
from federation.core.digest import DigestFunction, digest_of
from federation.core.errors import BlobNotFound
from federation.core.store import CHUNK_BYTES
from federation.remote.compression import LEAST_BYTES
from federation.remote.failures import (
    Denied,
    FailureKind,
    RemoteFailed,
    RequestRefused,
    Unsupported,
)
from federation.wire import zstd
from tests.remote import fake_server
from tests.remote.blobs import noise, read, read_until_failure, text, until
from tests.remote.fake_server import FakeServer, good_capabilities
from tests.remote.served import Here, connected


async def test_a_blob_comes_whole_and_from_any_offset(fake: FakeServer, here: Here) -> None:
    data = noise(300_000)
    digest = fake.holds(data)
    assert await read(here.store, digest) == data
    assert await read(here.store, digest, offset=299_999) == data[-1:]
    assert await read(here.store, digest, offset=5, limit=70_000) == data[5:70_005]
    assert here.calls("Read") == 3
    assert here.counted("federation_remote_bytes_total", direction="in") >= 370_001


async def test_absent_is_known_on_entry(here: Here) -> None:
    with pytest.raises(BlobNotFound):
        async with here.store.open_read(digest_of(b"absent")):
            pytest.fail("a miss is known on entry, before any byte is promised")
    assert here.calls("Read", "not_found") == 1


async def test_present_in_find_missing_and_absent_on_read_is_absent(
    fake: FakeServer, here: Here
) -> None:
    fake.does["FindMissingBlobs"] = fake_server.answers(b"")
    digest = digest_of(b"said to be there")
    assert await here.store.find_missing([digest]) == set()
    with pytest.raises(BlobNotFound):
        await read(here.store, digest)


async def test_u01_flipped_bits_pass_a_stream_and_are_never_given_as_a_blob(
    fake: FakeServer, here: Here
) -> None:
    data = noise(5000)
    digest = fake.holds(data)
    fake.streams = fake_server.flipped_bit
    fake.does["BatchReadBlobs"] = fake_server.fails(grpc.StatusCode.UNIMPLEMENTED)
    assert len(await read(here.store, digest)) == len(data)
    assert await here.store.read_small([digest]) == [None]
    assert here.counted("federation_remote_wrong_blobs_total") == 1
    error = here.store.sent_wrong_bytes(digest)
    assert error.kind is FailureKind.WRONG_BYTES
    assert here.counted("federation_remote_wrong_blobs_total") == 2


@pytest.mark.parametrize("sent", [0, 1, 50_000, 99_999])
async def test_u02_a_clean_end_that_comes_early_is_a_failure(
    fake: FakeServer, here: Here, sent: int
) -> None:
    data = noise(100_000)
    fake.streams = fake_server.ends_after(sent)
    came, _ = await read_until_failure(here.store, fake.holds(data), FailureKind.SHORT)
    assert came == data[:sent]
    assert here.calls("Read", "short") == 1


@pytest.mark.parametrize("size", [1000, CHUNK_BYTES + 5])
async def test_u02_a_status_after_all_bytes_is_told_to_who_asks_for_more_behind_them(
    fake: FakeServer, here: Here, size: int
) -> None:
    data = noise(size)
    fake.streams = fake_server.fails_after(size, grpc.StatusCode.DATA_LOSS)
    came, _ = await read_until_failure(here.store, fake.holds(data), FailureKind.INTERNAL)
    assert came == data


@pytest.mark.parametrize("extra", [1, 100_000])
async def test_u03_more_bytes_than_the_digest_says_are_cut(
    fake: FakeServer, here: Here, extra: int
) -> None:
    data = noise(100_000)
    digest = fake.holds(data)
    fake.streams = fake_server.goes_on_with(b"x" * extra)
    came, _ = await read_until_failure(here.store, digest, FailureKind.OVERRUN)
    assert came == data


@pytest.mark.parametrize("limit", [1, 7, 65_536, 150_000, 299_000])
async def test_a_server_that_knows_no_limits_is_cut_off(
    fake: FakeServer, here: Here, limit: int
) -> None:
    data = noise(300_000)
    digest = fake.holds(data)

    async def all_of_it(_asked: bytes, context: fake_server.Context) -> AsyncIterator[bytes]:
        async for part in fake_server.as_it_is(data[500:], context):
            yield part

    fake.streams = all_of_it
    assert await read(here.store, digest, offset=500, limit=limit) == data[500:][:limit]
    fake.streams = fake_server.goes_on_with(data + data)
    came, _ = await read_until_failure(here.store, digest, FailureKind.OVERRUN)
    assert came == data


async def test_u03_an_endless_stream_is_cut(fake: FakeServer, here: Here) -> None:
    data = noise(1000)
    digest = fake.holds(data)
    fake.streams = fake_server.endless
    came, _ = await read_until_failure(here.store, digest, FailureKind.OVERRUN)
    assert came == data


@pytest.mark.parametrize("packs", [False, True], ids=["plain", "zstd"])
@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED]
)
async def test_a_blob_that_came_whole_and_right_is_taken_whatever_status_follows(
    fake: FakeServer, here: Here, code: grpc.StatusCode, packs: bool
) -> None:
    fake.capabilities = good_capabilities(zstd=packs)
    fake.does["BatchReadBlobs"] = fake_server.fails(grpc.StatusCode.UNIMPLEMENTED)
    data = text(5000)
    fake.streams = fake_server.fails_after(10_000, code)
    assert await here.store.read_small([fake.holds(data)]) == [data]
    assert len(fake.calls("Read")) == 1


@pytest.mark.parametrize("packs", [False, True], ids=["plain", "zstd"])
async def test_a_stream_without_end_is_not_waited_for_once_its_bytes_have_come(
    fake: FakeServer, here: Here, packs: bool
) -> None:
    fake.capabilities = good_capabilities(zstd=packs)
    data = text(5000)
    digest = fake.holds(data)
    fake.streams = fake_server.hangs_after(10_000)
    async with asyncio.timeout(60), here.store.open_read(digest) as chunks:
        assert await anext(chunks) == data
    assert here.calls("Read", "ok") == 1


@pytest.mark.parametrize("sent", [0, 60_000])
async def test_u04_silence_behind_the_headers_is_a_stall(
    fake: FakeServer, hasty: Here, sent: int
) -> None:
    data = noise(100_000)
    fake.streams = fake_server.hangs_after(sent)
    came, _ = await read_until_failure(hasty.store, fake.holds(data), FailureKind.STALLED)
    assert came == data[:sent]
    assert hasty.calls("Read", "stalled") == 1


async def test_u04_other_calls_go_on_beside_a_stalled_one(fake: FakeServer, hasty: Here) -> None:
    digest = fake.holds(noise(1000))
    fake.streams = fake_server.hangs_after(1)
    stalled = asyncio.ensure_future(read_until_failure(hasty.store, digest, FailureKind.STALLED))
    for _ in range(20):
        assert await hasty.store.find_missing([digest]) == set()
    await stalled


async def test_u05_a_trickle_is_progress_and_arrives(fake: FakeServer, here: Here) -> None:
    data = noise(12)
    digest = fake.holds(data)
    fake.streams = fake_server.trickles(0.05)
    assert await read(here.store, digest) == data
    async with here.store.open_read(digest) as stream:
        assert await anext(stream) == data[:1]  # whoever wants more may see how slow it is


async def test_u24_empty_messages_are_no_progress(fake: FakeServer, hasty: Here) -> None:
    digest = fake.holds(noise(1000))
    fake.streams = fake_server.empty_messages
    came, _ = await read_until_failure(hasty.store, digest, FailureKind.STALLED)
    assert came == b""


async def test_u24_a_message_above_the_limit_fails_the_read(fake: FakeServer) -> None:
    data = noise(17 * 2**20)
    digest = fake.holds(data)

    async def at_once(data: bytes, _: object) -> AsyncIterator[bytes]:
        yield data

    fake.streams = at_once
    async with connected(fake.address, stall_s=20.0) as here:  # time enough for the message
        came, _ = await read_until_failure(here.store, digest, FailureKind.MALFORMED)
    assert came == b""


async def test_an_answer_that_is_no_message_fails_the_read(fake: FakeServer, here: Here) -> None:
    digest = fake.holds(noise(1000))

    async def nonsense(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff"

    fake.read = nonsense  # type: ignore[method-assign,assignment]
    await read_until_failure(here.store, digest, FailureKind.MALFORMED)


@pytest.mark.parametrize(
    ("code", "kind", "type_"),
    [
        (grpc.StatusCode.UNAVAILABLE, FailureKind.UNAVAILABLE, RemoteFailed),
        (grpc.StatusCode.DEADLINE_EXCEEDED, FailureKind.TIMEOUT, RemoteFailed),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, FailureKind.EXHAUSTED, RemoteFailed),
        (grpc.StatusCode.INTERNAL, FailureKind.INTERNAL, RemoteFailed),
        (grpc.StatusCode.UNKNOWN, FailureKind.INTERNAL, RemoteFailed),
        (grpc.StatusCode.ABORTED, FailureKind.INTERNAL, RemoteFailed),
        (grpc.StatusCode.CANCELLED, FailureKind.CANCELLED, RemoteFailed),
        (grpc.StatusCode.UNAUTHENTICATED, FailureKind.DENIED, Denied),
        (grpc.StatusCode.PERMISSION_DENIED, FailureKind.DENIED, Denied),
        (grpc.StatusCode.INVALID_ARGUMENT, FailureKind.REFUSED, RequestRefused),
        (grpc.StatusCode.FAILED_PRECONDITION, FailureKind.REFUSED, RequestRefused),
        (grpc.StatusCode.OUT_OF_RANGE, FailureKind.REFUSED, RequestRefused),
        (grpc.StatusCode.UNIMPLEMENTED, FailureKind.UNSUPPORTED, Unsupported),
    ],
)
@pytest.mark.parametrize("sent", [0, 500])
async def test_every_status_has_one_meaning_and_none_is_absence(
    fake: FakeServer,
    here: Here,
    code: grpc.StatusCode,
    kind: FailureKind,
    type_: type[RemoteFailed],
    sent: int,
) -> None:
    data = noise(1000)
    fake.streams = fake_server.fails_after(sent, code)
    came, error = await read_until_failure(here.store, fake.holds(data), kind)
    assert type(error) is type_
    assert error.source == "there"
    assert came == data[:sent]


async def test_a_reader_that_is_cancelled_ends_the_call(fake: FakeServer, here: Here) -> None:
    digest = fake.holds(noise(1000))
    fake.streams = fake_server.hangs_after(10)
    reading = asyncio.ensure_future(read(here.store, digest))
    await until(lambda: fake.calls("Read"), "the call comes in")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert here.remote.calls.slots.running == 0
    assert here.calls("Read", "left") == 1


async def test_a_reader_that_takes_its_time_is_no_stall(fake: FakeServer, hasty: Here) -> None:
    data = noise(CHUNK_BYTES * 2)
    digest = fake.holds(data)
    got: list[bytes] = []
    async with hasty.store.open_read(digest) as stream:
        async for chunk in stream:
            if not got:
                await asyncio.sleep(0.8)  # longer than stall_s
            got.append(chunk)
    assert b"".join(got) == data


# -- zstd


@pytest.fixture
def packed(fake: FakeServer) -> FakeServer:
    fake.capabilities = good_capabilities(zstd=True)
    return fake


def resources(fake: FakeServer) -> list[bool]:
    """Return for each Read whether zstd was asked for."""
    return [b"compressed-blobs/zstd" in each.request for each in fake.calls("Read")]


@pytest.mark.parametrize("size", [1025, 100_000, 3_000_000])
async def test_zstd_is_used_where_both_can(packed: FakeServer, here: Here, size: int) -> None:
    for data in (text(size), noise(size)):
        assert await read(here.store, packed.holds(data)) == data
    # Of large blobs the second goes plain, to learn which way is faster.
    assert resources(packed) == [True, size < LEAST_BYTES]


@pytest.mark.parametrize("zstd_is_slow", [True, False])
async def test_the_way_is_chosen_by_how_long_the_remote_takes_and_not_by_its_reader(
    packed: FakeServer, zstd_is_slow: bool
) -> None:
    clock = ManualClock()

    async def streams(data: bytes, _context: object) -> AsyncIterator[bytes]:
        is_slow = resources(packed)[-1] is zstd_is_slow
        clock.advance(1.0 if is_slow else 0.1)
        yield data

    packed.streams = streams
    async with connected(packed.address, clock) as here:
        for number in range(5):
            data = number.to_bytes(1, "big") + noise(LEAST_BYTES)
            async with here.store.open_read(packed.holds(data)) as chunks:
                async for _ in chunks:
                    # Whoever stores the bytes is slow just where they came fast.
                    was_slow = resources(packed)[-1] is zstd_is_slow
                    clock.advance(0.0 if was_slow else 30.0)
    assert resources(packed)[2:] == [not zstd_is_slow] * 3


async def test_zstd_is_not_used_for_parts_and_tiny_blobs(packed: FakeServer, here: Here) -> None:
    data = text(5000)
    digest = packed.holds(data)
    assert await read(here.store, digest, offset=1) == data[1:]
    assert await read(here.store, digest, limit=4000) == data[:4000]
    assert await read(here.store, packed.holds(b"tiny")) == b"tiny"
    assert resources(packed) == [False] * 3


async def test_zstd_is_not_used_where_it_is_turned_off(packed: FakeServer) -> None:
    data = text(5000)
    async with connected(packed.address, compression=False) as here:
        assert await read(here.store, packed.holds(data)) == data
    assert resources(packed) == [False]


@pytest.mark.parametrize(
    "packs",
    [
        lambda data: data,
        lambda data: b"\x1f\x8b\x08\x00" + data,
        lambda data: zstd.encode(data)[:-7],
        lambda data: zstd.encode(data[:-1]),
        lambda data: zstd.encode(data + b"x"),
        lambda _: b"",
    ],
    ids=["plain", "gzip", "cut", "short", "long", "nothing"],
)
async def test_u19_broken_zstd_is_asked_for_as_plain_bytes(
    packed: FakeServer, packs: object
) -> None:
    packed.packs = packs  # type: ignore[assignment]
    data = text(5000)
    digest = packed.holds(data)
    async with connected(packed.address, concurrency=1) as here:
        assert await read(here.store, digest) == data
        assert await read(here.store, digest) == data
        assert here.store.describe() == {"zstd_rests": True}
    assert resources(packed) == [True, False, False]


@pytest.mark.parametrize("packs", [lambda data: zstd.encode(data[:-1]), lambda _: b"not zstd"])
async def test_u19_zstd_that_breaks_in_the_middle_goes_on_as_plain_bytes(
    packed: FakeServer, here: Here, packs: object
) -> None:
    data = text(30_000_000)
    digest = packed.holds(data)
    packed.packs = packs  # type: ignore[assignment]
    assert await read(here.store, digest) == data
    assert await read(here.store, digest) == data
    assert resources(packed) == [True, False, False]


async def test_u19_plain_bytes_that_fail_too_fail_the_read(packed: FakeServer, here: Here) -> None:
    data = text(30_000_000)
    packed.packs = lambda _: b"not zstd"
    packed.streams = fake_server.ends_after(100_000)
    came, _ = await read_until_failure(here.store, packed.holds(data), FailureKind.SHORT)
    assert came == data[:100_000]
    assert resources(packed) == [True, False]


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
    ],
)
async def test_u19_a_refusal_of_zstd_is_no_refusal_of_the_blob(
    packed: FakeServer, here: Here, code: grpc.StatusCode
) -> None:
    data = text(5000)

    async def only_plain(sent: bytes, context: fake_server.Context) -> AsyncIterator[bytes]:
        if sent != data:
            await context.abort(code, "no zstd here")
        yield sent

    packed.streams = only_plain
    assert await read(here.store, packed.holds(data)) == data


async def test_u19_right_zstd_of_wrong_bytes_rests_once_it_is_told(
    packed: FakeServer, here: Here
) -> None:
    data = text(5000)
    digest = packed.holds(data)
    packed.packs = lambda data: zstd.encode(b"X" + data[1:])
    assert await read(here.store, digest) != data
    here.store.sent_wrong_bytes(digest)
    assert await read(here.store, digest) == data


async def test_absent_compressed_is_absent(packed: FakeServer, here: Here) -> None:
    with pytest.raises(BlobNotFound):
        await read(here.store, digest_of(text(5000)))
    assert resources(packed) == [True]


async def test_blake3_blobs_are_asked_for_by_their_own_name(fake: FakeServer, here: Here) -> None:
    data = noise(10_000)
    digest = fake.holds(data, DigestFunction.BLAKE3)
    assert await read(here.store, digest) == data
    assert await here.store.find_missing([digest, digest_of(data)]) == {digest_of(data)}
