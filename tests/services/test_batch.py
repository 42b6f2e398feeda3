from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypedDict, Unpack, cast

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from federation.config.model import LimitsConfig
from federation.core.digest import EMPTY, Digest, DigestFunction, digest_of
from federation.core.memory_budget import MemoryBudget
from federation.observability.metrics import Metrics
from federation.services.cas import CasService
from federation.services.cpu_pool import Compute
from federation.wire import zstd
from tests.services.conftest import Serve, Served, status_of
from tests.support.fakes import MemoryStore

IA = grpc.StatusCode.INVALID_ARGUMENT
OK, IA_ITEM, NF_ITEM = 0, 3, 5
NOISE = random.Random(1).randbytes(4 * 2**20)
Request = pb.BatchUpdateBlobsRequest.Request


def wire(digest: Digest) -> pb.Digest:
    return pb.Digest(hash=digest.hash_hex, size_bytes=digest.size_bytes)


def item(data: bytes, *, digest: pb.Digest | None = None) -> Request:
    return Request(digest=digest or wire(digest_of(data)), data=data)


def packed(data: bytes) -> Request:
    return Request(
        digest=wire(digest_of(data)), data=zstd.encode(data), compressor=pb.Compressor.ZSTD
    )


@pytest.fixture
async def served(serve: Serve, store: MemoryStore, compute: Compute) -> Served:
    limits, metrics = LimitsConfig(), Metrics()
    return await serve(CasService(store, limits, metrics, compute), limits=limits, metrics=metrics)


class _More(TypedDict, total=False):
    digest_function: pb.DigestFunction.Value


class _MoreToRead(_More, total=False):
    acceptable_compressors: list[pb.Compressor.Value]


async def update(served: Served, *items: Request, **more: Unpack[_More]) -> list[int]:
    request = pb.BatchUpdateBlobsRequest(requests=items, **more)
    response = await served.cas.BatchUpdateBlobs(request)
    assert [one.digest for one in response.responses] == [one.digest for one in items]
    return [one.status.code for one in response.responses]


async def read(
    served: Served, *digests: pb.Digest, **more: Unpack[_MoreToRead]
) -> list[pb.BatchReadBlobsResponse.Response]:
    request = pb.BatchReadBlobsRequest(digests=digests, **more)
    response = await served.cas.BatchReadBlobs(request)
    assert [one.digest for one in response.responses] == list(digests)
    return list(response.responses)


async def test_blobs_written_in_a_batch_are_read_in_a_batch(served: Served) -> None:
    assert await update(served, item(b"a"), item(b"b")) == [OK, OK]
    got = await read(served, wire(digest_of(b"b")), wire(digest_of(b"a")))
    assert [one.data for one in got] == [b"b", b"a"]
    assert served.counted("federation_blob_bytes_total", direction="in") == 2
    assert served.counted("federation_blob_bytes_total", direction="out") == 2


async def test_the_same_question_is_answered_by_what_is_held_then(
    served: Served, store: MemoryStore
) -> None:
    blobs = [b"one", b"two", b"one"]
    asked = [wire(digest_of(data)) for data in blobs]
    assert [one.status.code for one in await read(served, *asked)] == [NF_ITEM] * 3
    await update(served, item(b"one"))
    found = await read(served, *asked)
    assert [(one.status.code, one.data) for one in found] == [
        (0, b"one"),
        (NF_ITEM, b""),
        (0, b"one"),
    ]
    store.blobs.clear()
    assert [one.status.code for one in await read(served, *asked)] == [NF_ITEM] * 3


async def test_empty_batches_are_ok(served: Served) -> None:
    assert await update(served) == []
    assert await read(served) == []


async def test_w04_good_items_are_stored_beside_bad_ones(
    served: Served, store: MemoryStore
) -> None:
    good = digest_of(b"good")
    codes = await update(
        served,
        item(b"good"),
        item(b"goof", digest=wire(good)),
        item(b"goo", digest=wire(good)),
        item(b"goods", digest=wire(good)),
        item(b"fine"),
    )
    assert codes == [OK, IA_ITEM, IA_ITEM, IA_ITEM, OK]
    assert set(store.blobs) == {good, digest_of(b"fine")}


async def test_w04_a_bad_item_before_a_good_one_of_the_same_digest(
    served: Served, store: MemoryStore
) -> None:
    digest = wire(digest_of(b"good"))
    assert await update(served, item(b"goof", digest=digest), item(b"good")) == [IA_ITEM, OK]
    assert set(store.blobs) == {digest_of(b"good")}


async def test_duplicates_in_a_call_are_ok(served: Served, store: MemoryStore) -> None:
    assert await update(served, item(b"x"), item(b"y"), item(b"x")) == [OK, OK, OK]
    assert len(store.blobs) == 2


async def test_w01_w02_a_malformed_digest_is_its_items_error(served: Served) -> None:
    good = wire(digest_of(b"x"))
    bad = [
        pb.Digest(),
        pb.Digest(hash=good.hash.upper(), size_bytes=1),
        pb.Digest(hash=good.hash[:-1], size_bytes=1),
        pb.Digest(hash=good.hash, size_bytes=-1),
    ]
    codes = await update(served, *[item(b"x", digest=one) for one in bad], item(b"x"))
    assert codes == [IA_ITEM] * 4 + [OK]
    got = await read(served, *bad, good)
    assert [one.status.code for one in got] == [IA_ITEM] * 4 + [OK]


async def test_w06_the_empty_blob_is_read_and_written(served: Served) -> None:
    (one,) = await read(served, wire(EMPTY))
    assert (one.status.code, one.data) == (OK, b"")
    other = pb.Digest(hash=digest_of(b"x").hash_hex, size_bytes=0)
    assert await update(served, item(b""), packed(b""), item(b"", digest=other)) == [
        OK,
        OK,
        IA_ITEM,
    ]
    (one,) = await read(served, other)
    assert one.status.code == NF_ITEM


async def test_zstd_items_are_stored_unpacked(served: Served, store: MemoryStore) -> None:
    data = b"words " * 50_000
    assert await update(served, packed(data), packed(b"small")) == [OK, OK]
    assert store.blobs[digest_of(data)] == data


async def test_w24_a_digest_over_the_compressed_bytes_is_refused(
    served: Served, store: MemoryStore
) -> None:
    sent = packed(b"words " * 100)
    sent.digest.CopyFrom(wire(digest_of(sent.data)))
    assert await update(served, sent, packed(b"good")) == [IA_ITEM, OK]
    assert set(store.blobs) == {digest_of(b"good")}


async def test_w23_broken_zstd_is_its_items_error(served: Served) -> None:
    cut = packed(b"words " * 100)
    cut.data = cut.data[:-1]
    extra = packed(b"words " * 100)
    extra.data += b"x"
    assert await update(served, cut, extra, packed(b"good")) == [IA_ITEM, IA_ITEM, OK]


async def test_w21_a_bomb_in_a_batch_is_stopped(served: Served, store: MemoryStore) -> None:
    bomb = packed(bytes(100 * 2**20))
    bomb.digest.size_bytes = 1024
    assert await update(served, bomb) == [IA_ITEM]
    assert store.blobs == {}


async def test_w20_unknown_compressors(served: Served, store: MemoryStore) -> None:
    sent = item(b"data")
    sent.compressor = pb.Compressor.DEFLATE
    assert await update(served, sent) == [IA_ITEM]
    data = b"words " * 1000
    store.add(digest_of(data), data)
    unknown = cast("pb.Compressor.Value", 77)
    accepted = [pb.Compressor.DEFLATE, unknown]
    (one,) = await read(served, wire(digest_of(data)), acceptable_compressors=accepted)
    assert (one.data, one.compressor) == (data, pb.Compressor.IDENTITY)


async def test_items_are_compressed_where_that_makes_them_smaller(
    served: Served, store: MemoryStore
) -> None:
    words, noise, short = b"words " * 20_000, NOISE[:5000], b"short"
    for data in (words, noise, short):
        store.add(digest_of(data), data)
    got = await read(
        served,
        *[wire(digest_of(data)) for data in (words, noise, short)],
        acceptable_compressors=[pb.Compressor.ZSTD],
    )
    assert [one.compressor for one in got] == [pb.Compressor.ZSTD, 0, 0]
    assert zstd.decode(got[0].data, len(words)) == words
    assert [one.data for one in got[1:]] == [noise, short]


async def test_w25_the_batch_limit_is_exact(served: Served, store: MemoryStore) -> None:
    limit = LimitsConfig().batch_total
    at_limit = [NOISE[: limit - 1000], NOISE[:1000]]
    assert await update(served, *[item(data) for data in at_limit]) == [OK, OK]
    got = await read(served, *[wire(digest_of(data)) for data in at_limit])
    assert [one.data for one in got] == at_limit
    over = [NOISE[: limit - 1000], NOISE[:1001]]
    assert await status_of(update(served, *[item(data) for data in over])) == IA
    assert await status_of(read(served, *[wire(digest_of(data)) for data in over])) == IA
    assert digest_of(NOISE[:1001]) not in store.blobs


async def test_w25_the_limit_counts_unpacked_bytes_too(served: Served) -> None:
    data = bytes(LimitsConfig().batch_total + 1)
    assert await status_of(update(served, packed(data))) == IA
    assert await update(served, packed(data[1:])) == [OK]


async def test_w25_100000_tiny_items_are_refused(served: Served) -> None:
    digest = wire(digest_of(b"x"))
    assert await status_of(read(served, *[digest] * 100_000)) == IA
    assert await status_of(update(served, *[item(b"x")] * 100_000)) == IA


async def test_w26_one_answer_for_each_digest_asked(served: Served, store: MemoryStore) -> None:
    store.add(digest_of(b"x"), b"x")
    held, absent = wire(digest_of(b"x")), wire(digest_of(b"y"))
    got = await read(served, held, absent, held, absent)
    assert [one.status.code for one in got] == [OK, NF_ITEM, OK, NF_ITEM]
    assert [one.data for one in got] == [b"x", b"", b"x", b""]


async def test_w02_w03_right_hash_with_another_size_is_not_found(
    served: Served, store: MemoryStore
) -> None:
    store.add(digest_of(b"x"), b"x")
    (one,) = await read(served, pb.Digest(hash=digest_of(b"x").hash_hex, size_bytes=2))
    assert one.status.code == NF_ITEM
    absurd = pb.Digest(hash=digest_of(b"x").hash_hex, size_bytes=2**63 - 1)
    assert await status_of(read(served, absurd)) == IA


class _CountingStore(MemoryStore):
    """Counts how often blobs were read."""

    reads = 0

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        self.reads += 1
        return await super().read_small(digests)


async def test_room_for_a_whole_answer_is_found_before_its_blobs_are_read(
    serve: Serve, compute: Compute
) -> None:
    store, limits, metrics = _CountingStore(), LimitsConfig(), Metrics()
    blobs = [number.to_bytes(2, "big") * 150 for number in range(1000)]
    for data in blobs:
        store.add(digest_of(data), data)
    # The blobs alone leave too little for what the answer has beside them.
    budget = MemoryBudget(2**20)
    service = CasService(store, limits, metrics, compute)
    served = await serve(service, limits=limits, metrics=metrics, budget=budget)
    got = await read(served, *(wire(digest_of(data)) for data in blobs))
    assert [one.data for one in got] == blobs
    assert store.reads == 1


async def test_a_read_is_remembered_without_the_errors_of_malformed_digests(
    serve: Serve, store: MemoryStore, compute: Compute
) -> None:
    """A thousand such errors, in a request of 4 KB, take a megabyte."""
    service = CasService(store, LimitsConfig(), Metrics(), compute)
    served = await serve(service)
    for _ in range(2):
        got = await read(served, wire(EMPTY), pb.Digest(hash="short"))
        assert [one.status.code for one in got] == [OK, IA_ITEM]
    assert repr(service._batch._questions) == "<RememberedRequests 0, 0 bytes>"
    await read(served, wire(EMPTY))
    assert repr(service._batch._questions).startswith("<RememberedRequests 1,")


async def test_blake3_blobs_are_their_own(served: Served, store: MemoryStore) -> None:
    digest = digest_of(b"x", DigestFunction.BLAKE3)
    assert await update(
        served, item(b"x", digest=wire(digest)), digest_function=pb.DigestFunction.BLAKE3
    ) == [OK]
    assert set(store.blobs) == {digest}
    assert await update(served, item(b"x", digest=wire(digest))) == [IA_ITEM]
    (one,) = await read(served, wire(digest))
    assert one.status.code == NF_ITEM
    (one,) = await read(served, wire(digest), digest_function=pb.DigestFunction.BLAKE3)
    assert one.data == b"x"


async def test_a01_a_listener_without_push_takes_no_batch(
    serve: Serve, store: MemoryStore, compute: Compute
) -> None:
    service = CasService(store, LimitsConfig(), Metrics(), compute)
    served = await serve(service, may_push=False)
    code = await status_of(update(served, item(b"x")))
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert store.blobs == {}
