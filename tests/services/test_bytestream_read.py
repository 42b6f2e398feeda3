from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from backports import zstd

from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.config.model import LimitsConfig
from federation.core.clock import ManualClock
from federation.core.digest import EMPTY, Digest, DigestFunction, digest_of
from federation.core.errors import BlobDamaged
from federation.core.store import Chunks
from federation.wire.chunk_sizer import LARGE_BYTES, SMALL_BYTES
from federation.wire.resource_name import read_name
from tests.services.bytestream import Client, eventually
from tests.services.conftest import Connect, status_of
from tests.support.fakes import MemoryStore

IA = grpc.StatusCode.INVALID_ARGUMENT
OOR = grpc.StatusCode.OUT_OF_RANGE
NOT_FOUND = grpc.StatusCode.NOT_FOUND
BLOB = random.Random(1).randbytes(100_000) + bytes(50_000)
D = digest_of(BLOB)


@pytest.fixture
async def client(connect: Connect, store: MemoryStore) -> Client:
    store.add(D, BLOB)
    return await connect()


async def test_a_blob_is_read_whole(client: Client) -> None:
    assert await client.read(D) == BLOB
    served = client.served
    assert served.counted("federation_blob_bytes_total", direction="out") == len(BLOB)
    assert served.counted("federation_lookups_total", kind="blob", result="hit") == 1


@pytest.mark.parametrize("instance", ["main", "team/a", "", "moon-outputs"])
async def test_w17_blobs_are_shared_over_instances(client: Client, instance: str) -> None:
    assert await client.read_named(read_name(D, instance)) == BLOB


async def test_a_name_with_a_leading_slash_is_served(client: Client) -> None:
    assert await client.read_named("/" + read_name(D)) == BLOB


async def test_a_miss_is_not_found_before_any_byte(client: Client) -> None:
    assert await status_of(client.read(digest_of(b"absent"))) == NOT_FOUND
    misses = client.served.counted("federation_lookups_total", kind="blob", result="miss")
    assert misses == 1


async def test_w03_right_hash_with_another_size_is_not_found(client: Client) -> None:
    for size in (len(BLOB) - 1, len(BLOB) + 1, 2**63 - 1):
        assert await status_of(client.read(Digest(D.hash, size))) == NOT_FOUND


async def test_w06_the_empty_blob_is_read_plain_and_as_zstd(client: Client) -> None:
    assert await client.read(EMPTY) == b""
    assert zstd.decompress(await client.read(EMPTY, compressed=True)) == b""
    other = Digest(D.hash, 0)
    assert await status_of(client.read(other)) == NOT_FOUND


@pytest.mark.parametrize(
    ("offset", "limit"),
    [(0, 0), (0, 1), (1, 0), (5, 7), (len(BLOB) - 1, 0), (0, len(BLOB) + 99), (100, 2**62)],
)
async def test_w18_any_part_can_be_read(client: Client, offset: int, limit: int) -> None:
    end = offset + limit if limit else len(BLOB)
    assert await client.read(D, offset=offset, limit=limit) == BLOB[offset:end]


@pytest.mark.parametrize("offset", [-1, len(BLOB) + 1, -(2**63), 2**63 - 1])
async def test_w18_an_offset_outside_is_out_of_range(client: Client, offset: int) -> None:
    assert await status_of(client.read(D, offset=offset)) == OOR


async def test_w18_at_the_end_there_is_nothing_and_that_is_ok(client: Client) -> None:
    assert await client.read(D, offset=len(BLOB)) == b""


async def test_w18_a_negative_limit_is_refused(client: Client) -> None:
    assert await status_of(client.read(D, limit=-1)) == IA


@pytest.mark.parametrize("offset", [0, 1, 99_999, len(BLOB) - 1, len(BLOB)])
async def test_w19_a_zstd_read_gives_the_exact_suffix(client: Client, offset: int) -> None:
    got = await client.read(D, offset=offset, compressed=True)
    assert zstd.decompress(got) == BLOB[offset:]


async def test_w19_a_zstd_read_takes_no_limit(client: Client) -> None:
    assert await status_of(client.read(D, limit=1, compressed=True)) == IA


@pytest.mark.parametrize(
    "name",
    [
        "",
        f"blobs/{D.hash_hex}",
        f"blobs/{D.hash_hex.upper()}/{len(BLOB)}",
        f"blobs/{D.hash_hex}/-1",
        f"../blobs/{D}",
        f"blobs/sha1/{D}",
        f"compressed-blobs/deflate/{D}",
        f"uploads/u/blobs/{D}",
    ],
)
async def test_w01_w02_w16_w20_a_bad_name_is_refused(client: Client, name: str) -> None:
    assert await status_of(client.read_named(name)) == IA


async def test_w28_functions_never_mix(client: Client) -> None:
    blake3 = Digest(D.hash, D.size_bytes, DigestFunction.BLAKE3)
    assert await status_of(client.read(blake3)) == NOT_FOUND


async def test_w33_what_is_not_protobuf_is_refused(client: Client) -> None:
    call = client.served.channel.unary_stream("/google.bytestream.ByteStream/Read", None, None)
    assert await status_of(call(b"\x0a\xff").read()) == IA


async def test_chunks_grow_for_a_reader_that_keeps_up(connect: Connect, store: MemoryStore) -> None:
    blob = bytes(32 * 2**20)
    store.add(digest_of(blob), blob)
    client = await connect(clock=ManualClock())
    request = bs.ReadRequest(resource_name=read_name(digest_of(blob)))
    sizes = [len(part.data) async for part in client.served.bytestream.Read(request)]
    assert sizes[0] == SMALL_BYTES
    assert max(sizes) > SMALL_BYTES
    assert max(sizes) <= LARGE_BYTES
    assert sum(sizes) == len(blob)
    assert client.budget.used_bytes == 0


async def test_without_budget_chunks_stay_small(connect: Connect, store: MemoryStore) -> None:
    blob = bytes(4 * 2**20)
    store.add(digest_of(blob), blob)
    client = await connect()
    assert client.budget.try_acquire(client.budget.total_bytes)
    request = bs.ReadRequest(resource_name=read_name(digest_of(blob)))
    sizes = [len(part.data) async for part in client.served.bytestream.Read(request)]
    assert max(sizes) == SMALL_BYTES
    assert sum(sizes) == len(blob)


class DamagedStore(MemoryStore):
    """Finds out in mid-read that a blob is wrong."""

    @asynccontextmanager
    async def open_read(self, digest: Digest, **_more: object) -> AsyncIterator[Chunks]:
        yield self._chunks(digest)

    async def _chunks(self, digest: Digest) -> Chunks:
        yield b"some"
        raise BlobDamaged(digest, "bits flipped")


async def test_damage_found_in_mid_read_is_data_loss_and_never_ok(connect: Connect) -> None:
    client = await connect(other=DamagedStore())
    assert await status_of(client.read(D)) == grpc.StatusCode.DATA_LOSS


async def test_a_reader_that_leaves_gives_its_budget_back(
    connect: Connect, store: MemoryStore
) -> None:
    blob = bytes(64 * 2**20)
    store.add(digest_of(blob), blob)
    client = await connect(clock=ManualClock())
    call = client.served.bytestream.Read(bs.ReadRequest(resource_name=read_name(digest_of(blob))))
    for _ in range(60):
        await call.read()
    await eventually(lambda: client.budget.used_bytes > 0)
    call.cancel()
    await eventually(lambda: client.budget.used_bytes == 0)
    await eventually(lambda: client.served.counted("federation_requests_running") == 0)


async def test_l03_a_reader_that_takes_nothing_is_ended_by_our_own_timer(
    connect: Connect, store: MemoryStore
) -> None:
    blob = bytes(64 * 2**20)
    store.add(digest_of(blob), blob)
    client = await connect(limits=LimitsConfig(stall=0.3))
    calls = [
        client.served.bytestream.Read(bs.ReadRequest(resource_name=read_name(digest_of(blob))))
        for _ in range(5)
    ]

    def ended() -> float:
        return client.served.counted(
            "federation_requests_total",
            method="google.bytestream.ByteStream/Read",
            code="DEADLINE_EXCEEDED",
        )

    await eventually(lambda: ended() == 5)
    await eventually(lambda: client.served.counted("federation_requests_running") == 0)
    await eventually(lambda: client.budget.used_bytes == 0)
    for call in calls:
        call.cancel()
