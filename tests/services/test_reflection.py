from __future__ import annotations

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from federation.services.health import HEALTH
from federation.services.reflection import add_reflection

SERVICES = {
    "build.bazel.remote.execution.v2.ContentAddressableStorage": b"FindMissingBlobsRequest",
    "build.bazel.remote.asset.v1.Fetch": b"FetchBlobRequest",
    "buildstream.v2.ReferenceStorage": b"UpdateReferenceRequest",
    "google.bytestream.ByteStream": b"QueryWriteStatusRequest",
    HEALTH: b"HealthCheckRequest",
}


async def test_reflection_names_all_services_and_describes_each() -> None:
    server = grpc.aio.server()
    add_reflection(server, [name for name in SERVICES if name != HEALTH])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ask = reflection_pb2.ServerReflectionRequest
    requests = [ask(list_services=""), *(ask(file_containing_symbol=name) for name in SERVICES)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        names, *described = [each async for each in stub.ServerReflectionInfo(iter(requests))]
    await server.stop(grace=0)
    assert {service.name for service in names.list_services_response.service} >= set(SERVICES)
    for message, answer in zip(SERVICES.values(), described, strict=True):
        files = answer.file_descriptor_response.file_descriptor_proto
        assert any(message in file for file in files)


async def test_a_service_without_a_description_is_refused_at_once() -> None:
    with pytest.raises(KeyError):
        add_reflection(grpc.aio.server(), ["nobody.knows.It"])
