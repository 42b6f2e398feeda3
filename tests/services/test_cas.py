from __future__ import annotations

import hashlib
import time
from typing import TypedDict, Unpack

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from federation.config.model import LimitsConfig
from federation.core.digest import EMPTY, Digest, DigestFunction, digest_of
from federation.observability.metrics import Metrics
from federation.services.cas import CasService
from federation.services.cpu_pool import Compute
from tests.services.conftest import Serve, Served, status_of
from tests.support.fakes import MemoryStore

IA = grpc.StatusCode.INVALID_ARGUMENT


def wire(digest: Digest) -> pb.Digest:
    return pb.Digest(hash=digest.hash_hex, size_bytes=digest.size_bytes)


@pytest.fixture
async def served(serve: Serve, store: MemoryStore, compute: Compute) -> Served:
    limits, metrics = LimitsConfig(), Metrics()
    return await serve(CasService(store, limits, metrics, compute), limits=limits, metrics=metrics)


class _More(TypedDict, total=False):
    instance_name: str
    digest_function: pb.DigestFunction.Value


async def find(served: Served, *digests: pb.Digest, **more: Unpack[_More]) -> list[pb.Digest]:
    request = pb.FindMissingBlobsRequest(blob_digests=digests, **more)
    response = await served.cas.FindMissingBlobs(request)
    return list(response.missing_blob_digests)


async def test_find_missing_names_what_is_not_held_and_leases_the_rest(
    served: Served, store: MemoryStore
) -> None:
    held, absent = digest_of(b"held"), digest_of(b"absent")
    store.add(held, b"held")
    assert await find(served, wire(held), wire(absent), instance_name="team/a") == [wire(absent)]
    assert store.leased == {held}
    hits = served.counted("federation_lookups_total", kind="presence", result="hit")
    misses = served.counted("federation_lookups_total", kind="presence", result="miss")
    assert (hits, misses) == (1, 1)


async def test_w03_right_hash_with_another_size_is_missing(
    served: Served, store: MemoryStore
) -> None:
    held = digest_of(b"held")
    store.add(held, b"held")
    other = pb.Digest(hash=held.hash_hex, size_bytes=5)
    assert await find(served, other) == [other]


async def test_w06_the_empty_blob_is_never_missing_but_another_hash_of_size_0_is(
    served: Served,
) -> None:
    other = pb.Digest(hash=digest_of(b"x").hash_hex, size_bytes=0)
    assert await find(served, wire(EMPTY), other) == [other]


async def test_w27_50000_digests_with_duplicates_name_each_missing_one_once(
    served: Served, store: MemoryStore
) -> None:
    digests = [Digest(hashlib.sha256(b"%d" % n).digest(), n) for n in range(25_000)]
    store.blobs.update((digest, b"") for digest in digests[::2])
    started = time.perf_counter()
    missing = await find(served, *[wire(digest) for digest in digests * 2])
    assert time.perf_counter() - started < 10
    assert missing == [wire(digest) for digest in digests[1::2]]


async def test_w27_an_empty_list_is_ok(served: Served) -> None:
    assert await find(served) == []


async def test_w27_a_message_above_the_limit_is_resource_exhausted(
    serve: Serve, store: MemoryStore, compute: Compute
) -> None:
    limits = LimitsConfig(message=2**22 + 2**16)
    served = await serve(CasService(store, limits, Metrics(), compute), limits=limits)
    digests = [wire(EMPTY)] * 70_000
    request = pb.FindMissingBlobsRequest(blob_digests=digests)
    assert request.ByteSize() > limits.message
    code = await status_of(served.cas.FindMissingBlobs(request))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "digest",
    [
        pb.Digest(),
        pb.Digest(hash=EMPTY.hash_hex.upper(), size_bytes=0),
        pb.Digest(hash=EMPTY.hash_hex + "\n", size_bytes=0),
        pb.Digest(hash=EMPTY.hash_hex[:-1], size_bytes=0),
        pb.Digest(hash=EMPTY.hash_hex, size_bytes=-1),
        pb.Digest(hash=EMPTY.hash_hex, size_bytes=-(2**63)),
    ],
    ids=["unset", "upper case", "newline", "short", "-1", "-2^63"],
)
async def test_w01_w02_one_malformed_digest_fails_the_call(
    served: Served, digest: pb.Digest
) -> None:
    assert await status_of(find(served, wire(digest_of(b"x")), digest)) == IA


async def test_w02_an_absurd_size_is_missing(served: Served) -> None:
    absurd = pb.Digest(hash=EMPTY.hash_hex, size_bytes=2**63 - 1)
    assert await find(served, absurd) == [absurd]


@pytest.mark.parametrize("function", [2, 3, 99])
async def test_w28_other_digest_functions_are_refused(
    served: Served, function: pb.DigestFunction.Value
) -> None:
    for call, request in (
        (served.cas.FindMissingBlobs, pb.FindMissingBlobsRequest),
        (served.cas.BatchReadBlobs, pb.BatchReadBlobsRequest),
        (served.cas.BatchUpdateBlobs, pb.BatchUpdateBlobsRequest),
    ):
        assert await status_of(call(request(digest_function=function))) == IA
    tree = served.cas.GetTree(pb.GetTreeRequest(digest_function=function))
    assert await status_of(tree.read()) == IA


async def test_w28_functions_never_mix(served: Served, store: MemoryStore) -> None:
    held = digest_of(b"held", DigestFunction.BLAKE3)
    store.add(held, b"held")
    assert await find(served, wire(held), digest_function=pb.DigestFunction.BLAKE3) == []
    assert await find(served, wire(held)) == [wire(held)]
    assert await find(served, wire(held), digest_function=pb.DigestFunction.SHA256) == [wire(held)]


@pytest.mark.parametrize("name", ["../x", "/a", "a//b", "uploads", "a\0", "a" * 2000])
async def test_w17_an_illegal_instance_is_refused(served: Served, name: str) -> None:
    assert await status_of(find(served, instance_name=name)) == IA


async def test_w33_what_is_not_protobuf_fails_that_call_only(served: Served) -> None:
    path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/"
    for method in ("FindMissingBlobs", "BatchUpdateBlobs", "BatchReadBlobs"):
        for data in (b"\x0a\xff\xff", b"\x7b" * 10_000 + b"\x7c" * 10_000, b"\xff" * 12):
            assert (
                await status_of(served.channel.unary_unary(path + method, None, None)(data)) == IA
            )
    assert await find(served) == []


async def test_w40_split_and_splice_are_unimplemented(served: Served) -> None:
    path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/"
    for method in ("SplitBlob", "SpliceBlob"):
        code = await status_of(served.channel.unary_unary(path + method, None, None)(b""))
        assert code == grpc.StatusCode.UNIMPLEMENTED
