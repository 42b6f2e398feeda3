from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import suppress

import grpc
import pytest

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.config.model import LimitsConfig
from federation.core.digest import EMPTY, Digest, DigestFunction, digest_of
from federation.core.errors import FederationError, StorageFull
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.store import Piece
from federation.wire import zstd
from federation.wire.resource_name import upload_name
from tests.services.bytestream import Client, eventually, messages
from tests.services.conftest import Connect, status_of
from tests.support.fakes import MemoryIngest, MemoryStore

IA = grpc.StatusCode.INVALID_ARGUMENT
BLOB = random.Random(1).randbytes(100_000)
D = digest_of(BLOB)
NAME = upload_name(D, "u1")
ZSTD_NAME = upload_name(D, "u1", compressed=True)


@pytest.fixture
async def client(connect: Connect) -> Client:
    return await connect()


async def nothing_is_left(client: Client) -> None:
    """No call running, no upload open, no memory taken."""
    served = client.served
    await eventually(lambda: served.counted("federation_requests_running") == 0)
    await eventually(lambda: served.counted("federation_uploads_open") == 0)
    assert client.budget.used_bytes == 0


@pytest.mark.parametrize("step", [1_000, 16_384, 99_999, 100_000])
async def test_a_blob_is_stored(client: Client, store: MemoryStore, step: int) -> None:
    assert await client.write(*messages(NAME, BLOB, step=step)) == len(BLOB)
    assert store.blobs == {D: BLOB}
    assert client.served.counted("federation_blob_bytes_total", direction="in") == len(BLOB)
    await nothing_is_left(client)


async def test_finish_write_may_come_in_a_message_of_its_own(
    client: Client, store: MemoryStore
) -> None:
    sent = messages(NAME, BLOB)
    sent[-1].finish_write = False
    sent.append(bs.WriteRequest(write_offset=len(BLOB), finish_write=True))
    assert await client.write(*sent) == len(BLOB)
    assert store.blobs == {D: BLOB}


async def test_a_client_that_waits_for_the_answer_before_its_half_close_gets_it(
    client: Client,
) -> None:
    call = client.open_write()
    for message in messages(NAME, BLOB):
        await call.write(message)
    async with asyncio.timeout(60):
        assert (await call).committed_size == len(BLOB)


@pytest.mark.parametrize("instance", ["main", "team/a", "a" * 255])
async def test_w16_any_instance_and_trailing_metadata(
    client: Client, store: MemoryStore, instance: str
) -> None:
    name = upload_name(D, "u", instance) + "/src/main.c"
    assert await client.write(*messages(name, BLOB)) == len(BLOB)
    assert store.blobs == {D: BLOB}


async def test_blake3_uploads_are_verified_as_such(client: Client, store: MemoryStore) -> None:
    blake3 = digest_of(BLOB, DigestFunction.BLAKE3)
    assert await client.write(*messages(upload_name(blake3, "u"), BLOB)) == len(BLOB)
    assert store.blobs == {blake3: BLOB}
    wrong = Digest(blake3.hash, blake3.size_bytes)
    assert await status_of(client.write(*messages(upload_name(wrong, "u"), BLOB))) == IA


BAD_NAMES = [
    "",
    f"blobs/{D}",
    f"uploads/blobs/{D}",
    f"uploads/u/blobs/{D.hash_hex}",
    f"uploads/u/blobs/{D.hash_hex.upper()}/{len(BLOB)}",
    f"uploads/u/blobs/{D.hash_hex}/-1",
    f"uploads/u/blobs/{D.hash_hex}/+5",
    f"../uploads/u/blobs/{D}",
    f"uploads/u/blobs/md5/{D}",
    f"uploads/u/compressed-blobs/deflate/{D}",
    "a" * 2**20,
]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_w01_w02_w16_w17_w20_a_bad_name_is_refused(
    client: Client, store: MemoryStore, name: str
) -> None:
    assert await status_of(client.write(*messages(name, BLOB))) == IA
    assert await status_of(client.query(name)) == IA
    assert store.blobs == {}
    await nothing_is_left(client)


@pytest.mark.parametrize(
    "data",
    [b"x" + BLOB[1:], BLOB + b"x", BLOB[:-1]],
    ids=["wrong bytes", "one too many", "one too few"],
)
async def test_w05_other_bytes_are_refused_and_leave_nothing(
    client: Client, store: MemoryStore, data: bytes
) -> None:
    for step in (1000, len(data)):
        assert await status_of(client.write(*messages(NAME, data, step=step))) == IA
    assert store.blobs == {}
    assert await client.query(NAME) == (0, False)
    await nothing_is_left(client)


async def test_w05_an_overrun_is_stopped_at_size_plus_one(client: Client) -> None:
    sent_bytes = 0

    def endless() -> Iterator[bs.WriteRequest]:
        nonlocal sent_bytes
        yield bs.WriteRequest(resource_name=NAME)
        while sent_bytes < 10 * 2**30:
            yield bs.WriteRequest(write_offset=sent_bytes, data=BLOB)
            sent_bytes += len(BLOB)

    assert await status_of(client.write_from(endless())) == IA
    assert sent_bytes < 100 * 2**20
    await nothing_is_left(client)


async def test_w06_the_empty_blob_is_written(client: Client, store: MemoryStore) -> None:
    assert await client.write(*messages(upload_name(EMPTY, "u"), b"")) == 0
    sent = messages(upload_name(EMPTY, "u", compressed=True), zstd.encode(b""))
    assert await client.write(*sent) == -1
    assert await client.query(upload_name(EMPTY, "u")) == (0, True)
    other = upload_name(Digest(D.hash, 0), "u")
    assert await status_of(client.write(*messages(other, b""))) == IA
    assert store.blobs == {}


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.heavy)])
async def test_w07_one_byte_messages_are_gathered(connect: Connect, count: int) -> None:
    store = CountingStore()
    client = await connect(other=store)
    blob = BLOB[:count]
    name = upload_name(digest_of(blob), "u")
    assert await client.write(*messages(name, blob, step=1)) == count
    assert store.blobs == {digest_of(blob): blob}
    assert store.appends <= 3
    await nothing_is_left(client)


async def test_w07_messages_just_under_the_receive_limit(
    client: Client, store: MemoryStore
) -> None:
    blob = bytes(20 * 2**20)
    name = upload_name(digest_of(blob), "u")
    step = LimitsConfig().message - 1000
    assert await client.write(*messages(name, blob, step=step)) == len(blob)
    assert store.blobs == {digest_of(blob): blob}
    await nothing_is_left(client)


async def test_w08_another_name_in_mid_stream_is_refused(
    client: Client, store: MemoryStore
) -> None:
    sent = messages(NAME, BLOB, step=50_000)
    sent[1].resource_name = upload_name(D, "u2")
    assert await status_of(client.write(*sent)) == IA
    assert store.blobs == {}


async def test_w08_the_same_name_in_each_message_is_ok(client: Client) -> None:
    sent = messages(NAME, BLOB, step=50_000)
    sent[1].resource_name = NAME
    assert await client.write(*sent) == len(BLOB)


@pytest.mark.parametrize("offset", [50_001, 49_999, 0, -1, 2**63 - 1])
async def test_w09_a_gap_or_overlap_is_refused(
    client: Client, store: MemoryStore, offset: int
) -> None:
    sent = messages(NAME, BLOB, step=50_000)
    sent[1].write_offset = offset
    assert await status_of(client.write(*sent)) == IA
    assert store.blobs == {}
    await nothing_is_left(client)


@pytest.mark.parametrize("offset", [1, -1, len(BLOB)])
async def test_w09_an_unknown_upload_begins_at_0(client: Client, offset: int) -> None:
    sent = bs.WriteRequest(resource_name=NAME, write_offset=offset, data=b"x")
    assert await status_of(client.write(sent)) == IA
    await nothing_is_left(client)


async def test_w10_data_after_finish_write_is_refused(client: Client, store: MemoryStore) -> None:
    sent = [*messages(NAME, BLOB), bs.WriteRequest(write_offset=len(BLOB), data=b"x")]
    assert await status_of(client.write(*sent)) == IA
    assert store.blobs == {}
    await nothing_is_left(client)


async def test_w10_a_half_close_without_finish_write_is_refused_and_can_be_resumed(
    client: Client, store: MemoryStore
) -> None:
    part = bs.WriteRequest(resource_name=NAME, data=BLOB[:60_000])
    assert await status_of(client.write(part)) == IA
    assert store.blobs == {}
    assert await client.query(NAME) == (60_000, False)
    assert await client.write(*messages(NAME, BLOB, start=60_000)) == len(BLOB)
    assert store.blobs == {D: BLOB}
    await nothing_is_left(client)


async def test_w10_a_write_without_a_message_is_refused(client: Client) -> None:
    assert await status_of(client.write()) == IA


async def test_w10_what_can_be_resumed_expires(connect: Connect) -> None:
    client = await connect(limits=LimitsConfig(upload_idle=0.1))
    part = bs.WriteRequest(resource_name=NAME, data=BLOB[:60_000])
    assert await status_of(client.write(part)) == IA
    await nothing_is_left(client)
    assert await client.query(NAME) == (0, False)


@pytest.mark.parametrize("compressed", [False, True])
async def test_w11_a_blob_that_is_held_is_answered_at_once(
    client: Client, store: MemoryStore, compressed: bool
) -> None:
    store.add(D, BLOB)
    sent_messages = 0

    def endless() -> Iterator[bs.WriteRequest]:
        nonlocal sent_messages
        name = upload_name(D, "u", compressed=compressed)
        yield bs.WriteRequest(resource_name=name)
        for at in range(1024):
            yield bs.WriteRequest(write_offset=at * 2**20, data=bytes(2**20))
            sent_messages += 1

    assert await client.write_from(endless()) == (-1 if compressed else len(BLOB))
    assert sent_messages < 1000
    await nothing_is_left(client)


async def test_w11_an_early_answer_drops_what_was_parked(
    client: Client, store: MemoryStore
) -> None:
    part = bs.WriteRequest(resource_name=NAME, data=BLOB[:60_000])
    assert await status_of(client.write(part)) == IA
    store.add(D, BLOB)
    assert await client.write(*messages(NAME, BLOB, start=60_000)) == len(BLOB)
    await nothing_is_left(client)


async def test_w12_where_an_upload_stands(client: Client) -> None:
    assert await client.query(NAME) == (0, False)
    call = client.open_write()
    await call.write(bs.WriteRequest(resource_name=NAME, data=BLOB[:70_000]))
    received = "federation_blob_bytes_total"
    await eventually(lambda: client.served.counted(received, direction="in") == 70_000)
    assert await client.query(NAME) == (70_000, False)
    await call.write(bs.WriteRequest(write_offset=70_000, data=BLOB[70_000:], finish_write=True))
    await call.done_writing()
    assert (await call).committed_size == len(BLOB)
    assert await client.query(NAME) == (len(BLOB), True)
    assert await client.query(upload_name(D, "never seen")) == (len(BLOB), True)
    assert await client.query(upload_name(D, "never seen", compressed=True)) == (len(BLOB), True)


async def cut_off(client: Client, name: str, data: bytes, part_bytes: int) -> None:
    """Send a part of an upload and break the stream once the node has it."""
    received = "federation_blob_bytes_total"
    before = client.served.counted(received, direction="in")
    call = client.open_write()
    await call.write(bs.WriteRequest(resource_name=name, data=data[:part_bytes]))
    await eventually(lambda: client.served.counted(received, direction="in") == before + part_bytes)
    call.cancel()
    await eventually(lambda: client.served.counted("federation_requests_running") == 0)


async def test_w13_a_broken_stream_is_resumed_at_the_committed_offset(
    client: Client, store: MemoryStore
) -> None:
    await cut_off(client, NAME, BLOB, 60_000)
    assert await client.query(NAME) == (60_000, False)
    assert await client.query(upload_name(D, "u2")) == (0, False)
    assert await client.write(*messages(NAME, BLOB, start=60_000, step=7_000)) == len(BLOB)
    assert store.blobs == {D: BLOB}
    await nothing_is_left(client)


async def test_w13_a_broken_stream_is_started_over(client: Client, store: MemoryStore) -> None:
    await cut_off(client, NAME, b"x" * len(BLOB), 60_000)
    assert await client.write(*messages(NAME, BLOB, step=7_000)) == len(BLOB)
    assert store.blobs == {D: BLOB}
    await nothing_is_left(client)


async def test_w13_another_offset_than_the_committed_one_is_refused_and_harms_nothing(
    client: Client,
) -> None:
    await cut_off(client, NAME, BLOB, 60_000)
    for offset in (59_999, 60_001):
        assert await status_of(client.write(*messages(NAME, BLOB, start=offset))) == IA
    assert await client.query(NAME) == (60_000, False)
    assert await client.write(*messages(NAME, BLOB, start=60_000)) == len(BLOB)


async def test_w14_64_writes_of_one_blob_a_third_of_them_killed(
    client: Client, store: MemoryStore
) -> None:
    def sending(number: int) -> Iterator[bs.WriteRequest]:
        for at, message in enumerate(messages(upload_name(D, f"u{number}"), BLOB, step=10_000)):
            if number % 3 == 0 and at == 5:
                raise ConnectionError  # which cancels the call
            yield message

    async def one(number: int) -> int | None:
        try:
            return await client.write_from(sending(number))
        except grpc.RpcError:
            return None  # counted below

    got = await asyncio.gather(*(one(number) for number in range(64)))
    survivors = [committed for number, committed in enumerate(got) if number % 3]
    assert survivors == [len(BLOB)] * 42
    assert store.blobs == {D: BLOB}


async def test_w15_of_two_streams_with_one_name_the_newcomer_wins(
    client: Client, store: MemoryStore
) -> None:
    older = client.open_write()
    await older.write(bs.WriteRequest(resource_name=NAME, data=b"x" * 60_000))
    received = "federation_blob_bytes_total"
    await eventually(lambda: client.served.counted(received, direction="in") == 60_000)
    assert await client.write(*messages(NAME, BLOB, step=9_000)) == len(BLOB)
    assert await status_of(older) == grpc.StatusCode.ABORTED
    assert store.blobs == {D: BLOB}
    await nothing_is_left(client)


async def test_w15_a_newcomer_goes_on_where_the_older_stream_stood(
    client: Client, store: MemoryStore
) -> None:
    older = client.open_write()
    await older.write(bs.WriteRequest(resource_name=NAME, data=BLOB[:60_000]))
    received = "federation_blob_bytes_total"
    await eventually(lambda: client.served.counted(received, direction="in") == 60_000)
    assert await client.write(*messages(NAME, BLOB, start=60_000)) == len(BLOB)
    assert await status_of(older) == grpc.StatusCode.ABORTED
    assert store.blobs == {D: BLOB}


async def test_w15_who_took_over_is_let_go_on_by_who_comes_again(
    client: Client, store: MemoryStore
) -> None:
    """Two jobs of BuildStream push one blob under one name, and each begins again at once."""
    received = "federation_blob_bytes_total"
    first = client.open_write()
    await first.write(bs.WriteRequest(resource_name=NAME, data=BLOB[:10_000]))
    await eventually(lambda: client.served.counted(received, direction="in") == 10_000)
    second = client.open_write()
    await second.write(bs.WriteRequest(resource_name=NAME, data=BLOB[:20_000]))
    await eventually(lambda: client.served.counted(received, direction="in") == 30_000)
    assert await status_of(first) == grpc.StatusCode.ABORTED
    loop = asyncio.get_running_loop()
    again = loop.create_task(client.write(*messages(NAME, BLOB, step=9_000)))
    await asyncio.sleep(0.2)
    rest = bs.WriteRequest(
        resource_name=NAME, write_offset=20_000, data=BLOB[20_000:], finish_write=True
    )
    await second.write(rest)
    await second.done_writing()
    assert (await second).committed_size == len(BLOB)
    assert await again == len(BLOB)
    assert store.blobs == {D: BLOB}
    await nothing_is_left(client)


async def test_w15_20_streams_with_one_name_end_and_never_mix(
    client: Client, store: MemoryStore
) -> None:
    async def one() -> grpc.StatusCode:
        try:
            await client.write(*messages(NAME, BLOB, step=1_000))
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async with asyncio.timeout(30):
        codes = await asyncio.gather(*(one() for _ in range(20)))
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.ABORTED}
    assert grpc.StatusCode.OK in codes
    assert store.blobs == {D: BLOB}
    await nothing_is_left(client)


@pytest.mark.parametrize("step", [100, 5_000, 0])
async def test_a_zstd_upload_is_stored_unpacked(
    client: Client, store: MemoryStore, step: int
) -> None:
    blob = b"words " * 500_000 + BLOB
    packed = zstd.encode(blob)
    name = upload_name(digest_of(blob), "u", compressed=True)
    assert await client.write(*messages(name, packed, step=step)) == len(packed)
    assert store.blobs == {digest_of(blob): blob}
    assert await client.query(name) == (len(blob), True)
    await nothing_is_left(client)


async def test_a_zstd_upload_cannot_be_resumed_but_started_over(
    client: Client, store: MemoryStore
) -> None:
    packed = zstd.encode(BLOB)
    await cut_off(client, ZSTD_NAME, packed, 60_000)
    assert await client.query(ZSTD_NAME) == (0, False)
    assert await status_of(client.write(*messages(ZSTD_NAME, packed, start=60_000))) == IA
    assert await client.write(*messages(ZSTD_NAME, packed)) == len(packed)
    assert store.blobs == {D: BLOB}
    await nothing_is_left(client)


W21_TO_W23 = {
    "w21 bomb": zstd.encode(bytes(300 * 2**20)),
    "w21 claim": b"\x28\xb5\x2f\xfd\xc0\x38" + (100 * 2**30).to_bytes(8, "little"),
    "w22 window": b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00",
    "w23 truncated": zstd.encode(BLOB)[:-5],
    "w23 trailing garbage": zstd.encode(BLOB) + b"garbage",
    "w23 plain": BLOB,
    "w23 another blob": zstd.encode(b"x" + BLOB[1:]),
}


@pytest.mark.parametrize("sent", W21_TO_W23.values(), ids=W21_TO_W23.keys())
async def test_w21_w22_w23_bad_zstd_is_refused_and_leaves_nothing(
    client: Client, store: MemoryStore, sent: bytes
) -> None:
    for step in (0, 1000):
        assert await status_of(client.write(*messages(ZSTD_NAME, sent, step=step))) == IA
    assert store.blobs == {}
    await nothing_is_left(client)


async def test_w23_several_frames_are_one_blob(client: Client, store: MemoryStore) -> None:
    packed = zstd.encode(BLOB[:50_000]) + zstd.encode(BLOB[50_000:])
    assert await client.write(*messages(ZSTD_NAME, packed)) == len(packed)
    assert store.blobs == {D: BLOB}


async def test_w33_what_is_not_protobuf_is_refused(client: Client) -> None:
    call = client.served.channel.stream_unary("/google.bytestream.ByteStream/Write", None, None)(
        None
    )
    await call.write(b"\x0a\xff")
    assert await status_of(call) == IA


async def test_a01_a_listener_without_push_takes_no_write(
    connect: Connect, store: MemoryStore
) -> None:
    client = await connect(may_push=False)
    code = await status_of(client.write(*messages(NAME, BLOB)))
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert store.blobs == {}


async def test_l01_uploads_beyond_the_limit_are_refused_while_all_are_running(
    connect: Connect,
) -> None:
    client = await connect(limits=LimitsConfig(uploads=3))
    received = "federation_blob_bytes_total"
    calls = [client.open_write() for _ in range(3)]
    for number, call in enumerate(calls):
        name = upload_name(D, f"other {number}")
        await call.write(bs.WriteRequest(resource_name=name, data=BLOB[:1000]))
    await eventually(lambda: client.served.counted(received, direction="in") == 3000)
    code = await status_of(client.write(*messages(NAME, BLOB)))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    # A cancelled client's slot is free at once, though its upload could still be resumed.
    calls[0].cancel()
    await eventually(lambda: client.served.counted("federation_requests_running") == 2)
    assert await client.write(*messages(NAME, BLOB)) == len(BLOB)
    for call in calls:
        call.cancel()


async def test_l01_a_stream_that_says_nothing_is_ended(connect: Connect) -> None:
    client = await connect(limits=LimitsConfig(stall=0.1, upload_idle=0.1))
    calls = [client.open_write() for _ in range(20)]
    for call in calls[10:]:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # ended before that
            await call.write(bs.WriteRequest(resource_name=NAME, data=b"x"))
    codes = {await status_of(call) for call in calls[:10]}
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    for call in calls[10:]:
        assert await status_of(call) in {
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.ABORTED,
        }
    await nothing_is_left(client)


async def test_l02_a_byte_now_and_then_is_not_progress(connect: Connect) -> None:
    client = await connect(limits=LimitsConfig(stall=0.2, upload_idle=0.1))
    call = client.open_write()
    await call.write(bs.WriteRequest(resource_name=NAME))

    async def drip() -> None:
        for at in range(1000):
            await call.write(bs.WriteRequest(write_offset=at, data=BLOB[at : at + 1]))
            await asyncio.sleep(0.02)

    dripping = asyncio.ensure_future(drip())
    # gRPC's client may say INTERNAL when the end of the stream overtakes its status.
    assert await status_of(call) in {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
    }
    ended = {"method": "google.bytestream.ByteStream/Write", "code": "DEADLINE_EXCEEDED"}
    assert client.served.counted("federation_requests_total", **ended) == 1
    with pytest.raises((asyncio.InvalidStateError, grpc.aio.AioRpcError)):
        await dripping
    await nothing_is_left(client)


class CountingStore(MemoryStore):
    """Counts appends, and fails or waits at one where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.appends = 0
        self.full_once = False
        self.gate: asyncio.Event | None = None
        self.open_ingests = 0

    def begin(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> MemoryIngest:
        self.open_ingests += 1
        return CountingIngest(self, digest)

    async def write_one(
        self, digest: Digest, data: bytes, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        if self.full_once:
            raise StorageFull("the quota is used up")
        return await super().write_one(digest, data, provenance=provenance)


class CountingIngest(MemoryIngest):
    def __init__(self, store: CountingStore, digest: Digest) -> None:
        super().__init__(store, digest)
        self._counts = store
        self._ended = False

    async def append(self, data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
        self._counts.appends += 1
        if self._counts.gate is not None:
            await self._counts.gate.wait()
        if self._counts.full_once:
            self._counts.full_once = False
            raise StorageFull("the quota is used up")
        await super().append(data, on_hashed)

    async def commit(self) -> bool:
        if self._counts.gate is not None:
            await self._counts.gate.wait()
        return await super().commit()

    async def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._counts.open_ingests -= 1
        await super().abort()


async def test_s09_a_full_store_is_resource_exhausted(connect: Connect) -> None:
    store = CountingStore()
    client = await connect(other=store)
    store.full_once = True
    code = await status_of(client.write(*messages(NAME, BLOB)))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    await nothing_is_left(client)
    assert await client.write(*messages(NAME, BLOB)) == len(BLOB)


async def test_s25_parked_uploads_make_room_before_one_is_refused(connect: Connect) -> None:
    store = CountingStore()
    client = await connect(other=store)
    for uuid in ("a", "b"):
        part = bs.WriteRequest(resource_name=upload_name(D, uuid), data=BLOB[:1000])
        assert await status_of(client.write(part)) == IA
    store.full_once = True
    assert await client.write(*messages(NAME, BLOB)) == len(BLOB)
    assert await client.query(upload_name(D, "a")) == (len(BLOB), True)
    await eventually(lambda: store.open_ingests == 1)


async def test_w44_a_client_that_leaves_before_the_commit_leaves_no_blob(
    connect: Connect,
) -> None:
    store = CountingStore()
    client = await connect(other=store, limits=LimitsConfig(upload_idle=0.05))
    for part_bytes in (1, 60_000, len(BLOB)):
        await cut_off(client, NAME, BLOB, part_bytes)
    await nothing_is_left(client)
    assert store.blobs == {}
    await eventually(lambda: store.open_ingests == 0)


async def test_w44_a_client_that_leaves_during_an_append_loses_no_byte_of_it(
    connect: Connect,
) -> None:
    store = CountingStore()
    store.gate = asyncio.Event()
    client = await connect(other=store)
    blob = bytes(3 * 2**20)
    name = upload_name(digest_of(blob), "u")
    call = client.open_write()
    await call.write(bs.WriteRequest(resource_name=name, data=blob[: 2**20]))
    await eventually(lambda: store.appends == 1)
    call.cancel()
    await eventually(lambda: client.served.counted("federation_requests_running") == 0)
    store.gate.set()
    assert await client.query(name) == (2**20, False)
    assert await client.write(*messages(name, blob, start=2**20, step=2**20)) == len(blob)
    assert store.blobs == {digest_of(blob): blob}


async def test_w44_a_client_that_leaves_during_the_commit_gets_all_or_nothing(
    connect: Connect,
) -> None:
    store = CountingStore()
    client = await connect(other=store)
    store.gate = asyncio.Event()
    call = client.open_write()
    for message in messages(NAME, BLOB):
        await call.write(message)
    await call.done_writing()
    await eventually(lambda: store.appends == 1)
    call.cancel()
    await eventually(lambda: client.served.counted("federation_requests_running") == 0)
    store.gate.set()
    await nothing_is_left(client)
    await eventually(lambda: store.open_ingests == 0)
    assert store.blobs in ({}, {D: BLOB})


SMALL = BLOB[:1000]
SMALL_NAME = upload_name(digest_of(SMALL), "u1")


async def test_a_small_blob_in_one_message_needs_no_ingest(connect: Connect) -> None:
    store = CountingStore()
    client = await connect(other=store)
    assert await client.write(*messages(SMALL_NAME, SMALL)) == len(SMALL)
    assert store.blobs == {digest_of(SMALL): SMALL}
    assert store.appends == 0
    assert client.served.counted("federation_blob_bytes_total", direction="in") == len(SMALL)
    await nothing_is_left(client)


async def test_w05_other_bytes_in_one_small_message_are_refused(
    client: Client, store: MemoryStore
) -> None:
    for data in (b"x" + SMALL[1:], SMALL + b"x", SMALL[:-1]):
        assert await status_of(client.write(*messages(SMALL_NAME, data))) == IA
    assert store.blobs == {}
    await nothing_is_left(client)


async def test_w10_data_after_a_whole_small_blob_is_refused(client: Client) -> None:
    sent = [*messages(SMALL_NAME, SMALL), bs.WriteRequest(write_offset=len(SMALL), data=b"x")]
    assert await status_of(client.write(*sent)) == IA
    await nothing_is_left(client)


async def test_w11_a_whole_small_blob_drops_what_was_parked(connect: Connect) -> None:
    store = CountingStore()
    client = await connect(other=store)
    part = bs.WriteRequest(resource_name=SMALL_NAME, data=SMALL[:10])
    assert await status_of(client.write(part)) == IA
    assert await client.query(SMALL_NAME) == (10, False)
    assert await client.write(*messages(SMALL_NAME, SMALL)) == len(SMALL)
    await nothing_is_left(client)
    await eventually(lambda: store.open_ingests == 0)


async def test_s25_parked_uploads_make_room_for_a_small_blob(connect: Connect) -> None:
    store = CountingStore()
    client = await connect(other=store)
    part = bs.WriteRequest(resource_name=NAME, data=BLOB[:1000])
    assert await status_of(client.write(part)) == IA
    store.full_once = True
    assert await client.write(*messages(SMALL_NAME, SMALL)) == len(SMALL)
    assert store.blobs == {digest_of(SMALL): SMALL}
    await nothing_is_left(client)


async def test_close_drops_what_is_parked(connect: Connect) -> None:
    store = CountingStore()
    client = await connect(other=store)
    await cut_off(client, NAME, BLOB, 60_000)
    await eventually(lambda: store.open_ingests == 1)
    await client.service.close()
    assert store.open_ingests == 0


async def test_an_ingest_that_breaks_is_told_and_not_resumed(connect: Connect) -> None:
    class Breaking(CountingIngest):
        async def append(self, data: Piece, on_hashed: Callable[[], None] | None = None) -> None:
            raise StorageFull("the disk is full")

    class BreakingStore(CountingStore):
        def begin(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> MemoryIngest:
            self.open_ingests += 1
            return Breaking(self, digest)

    store = BreakingStore()
    client = await connect(other=store)
    assert issubclass(StorageFull, FederationError)
    blob = bytes(3 * 2**20)
    sent = messages(upload_name(digest_of(blob), "u"), blob, step=2**20)
    code = await status_of(client.write(*sent))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    await nothing_is_left(client)
    await eventually(lambda: store.open_ingests == 0)
