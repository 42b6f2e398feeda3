"""Whatever bytes a client sends: a documented status, and nothing in the log that we missed."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest
from structlog.testing import capture_logs

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.config.model import LimitsConfig
from federation.core.clock import SystemClock
from federation.core.digest import digest_of
from federation.core.memory_budget import MemoryBudget
from federation.observability.metrics import Metrics
from federation.services.bytestream import ByteStreamService
from federation.services.cas import CasService
from federation.services.cpu_pool import Compute
from federation.wire import zstd
from federation.wire.resource_name import read_name, upload_name
from tests.services.conftest import Serve
from tests.support.fakes import MemoryStore

CAS = "/build.bazel.remote.execution.v2.ContentAddressableStorage/"
BYTESTREAM = "/google.bytestream.ByteStream/"
DOCUMENTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}
BLOB = b"words " * 1000
D = digest_of(BLOB)
WIRE = pb.Digest(hash=D.hash_hex, size_bytes=D.size_bytes)
VALID = [
    ("unary", CAS + "FindMissingBlobs", pb.FindMissingBlobsRequest(blob_digests=[WIRE])),
    ("unary", CAS + "BatchReadBlobs", pb.BatchReadBlobsRequest(digests=[WIRE, WIRE])),
    (
        "unary",
        CAS + "BatchUpdateBlobs",
        pb.BatchUpdateBlobsRequest(
            requests=[
                pb.BatchUpdateBlobsRequest.Request(digest=WIRE, data=BLOB),
                pb.BatchUpdateBlobsRequest.Request(
                    digest=WIRE, data=zstd.encode(BLOB), compressor=pb.Compressor.ZSTD
                ),
            ]
        ),
    ),
    ("stream", CAS + "GetTree", pb.GetTreeRequest(root_digest=WIRE, page_size=3)),
    ("stream", BYTESTREAM + "Read", bs.ReadRequest(resource_name=read_name(D), read_offset=5)),
    (
        "unary",
        BYTESTREAM + "QueryWriteStatus",
        bs.QueryWriteStatusRequest(resource_name=upload_name(D, "u")),
    ),
    (
        "client",
        BYTESTREAM + "Write",
        bs.WriteRequest(resource_name=upload_name(D, "u"), data=BLOB, finish_write=True),
    ),
    (
        "client",
        BYTESTREAM + "Write",
        bs.WriteRequest(
            resource_name=upload_name(D, "u", compressed=True),
            data=zstd.encode(BLOB),
            finish_write=True,
        ),
    ),
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, drop, repeat or insert a few bytes."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0:
                out[at : at + 1] = rng.randbytes(1)
            case 1:
                del out[at : at + rng.randrange(1, 20)]
            case 2:
                out[at:at] = out[at : at + rng.randrange(1, 40)]
            case _:
                out[at:at] = rng.randbytes(rng.randrange(1, 10))
    return bytes(out)


def outcome_of_a_write(channel: grpc.Channel, path: str, data: bytes) -> grpc.StatusCode:
    try:
        channel.stream_unary(path, None, None)(iter([data, data]), timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def outcome(channel: grpc.aio.Channel, kind: str, path: str, data: bytes) -> grpc.StatusCode:
    if kind == "unary":
        return await channel.unary_unary(path, None, None)(data, timeout=20).code()
    call = channel.unary_stream(path, None, None)(data, timeout=20)
    try:
        while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
            pass
    except grpc.aio.AioRpcError:
        pass
    return await call.code()


@pytest.mark.parametrize(
    "rounds", [60, pytest.param(20_000, marks=[pytest.mark.heavy, pytest.mark.timeout(1200)])]
)
async def test_w42_any_bytes_end_in_a_documented_status(
    serve: Serve, store: MemoryStore, compute: Compute, rounds: int
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)  # noqa: T201 - shown when the test fails
    rng = random.Random(seed)
    limits, metrics, clock = LimitsConfig(), Metrics(), SystemClock()
    budget = MemoryBudget(limits.buffer_memory)
    bytestream = ByteStreamService(store, limits, clock, metrics, budget, compute)
    cas = CasService(store, limits, metrics, compute)
    served = await serve(bytestream, cas, limits=limits, metrics=metrics, budget=budget)
    codes = set()
    with capture_logs() as logs, grpc.insecure_channel(f"127.0.0.1:{served.port}") as writes:
        for _ in range(rounds):
            for kind, path, message in VALID:
                data = mutated(message.SerializeToString(), rng)
                if kind == "client":
                    code = await asyncio.to_thread(outcome_of_a_write, writes, path, data)
                else:
                    code = await outcome(served.channel, kind, path, data)
                codes.add(code)
    assert codes <= DOCUMENTED
    assert [line for line in logs if line["log_level"] == "error"] == []
    assert all(digest_of(data, digest.function) == digest for digest, data in store.blobs.items())
    await bytestream.close()
    assert budget.used_bytes == 0
