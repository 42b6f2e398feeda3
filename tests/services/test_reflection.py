from __future__ import annotations

import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from federation.config.model import LimitsConfig
from federation.services.health import HEALTH
from federation.services.reflection import ReflectionService
from tests.services.conftest import Serve

SERVICES = {
    "build.bazel.remote.execution.v2.ContentAddressableStorage": b"FindMissingBlobsRequest",
    "build.bazel.remote.asset.v1.Fetch": b"FetchBlobRequest",
    "buildstream.v2.ReferenceStorage": b"UpdateReferenceRequest",
    "google.bytestream.ByteStream": b"QueryWriteStatusRequest",
    "federation.v1.Holdings": b"FindLackingRequest",
    "federation.v1.Purges": b"ApplyPurgesRequest",
    "federation.v1.Pins": b"ApplyPinsRequest",
    HEALTH: b"HealthCheckRequest",
}


async def test_reflection_names_all_services_and_describes_each(serve: Serve) -> None:
    names = [name for name in SERVICES if name != HEALTH]
    served = await serve(ReflectionService(names, LimitsConfig()))
    ask = reflection_pb2.ServerReflectionRequest
    requests = [ask(list_services=""), *(ask(file_containing_symbol=name) for name in SERVICES)]
    stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    listed, *described = [each async for each in stub.ServerReflectionInfo(iter(requests))]
    assert {service.name for service in listed.list_services_response.service} >= set(SERVICES)
    for message, answer in zip(SERVICES.values(), described, strict=True):
        files = answer.file_descriptor_response.file_descriptor_proto
        assert any(message in file for file in files)


def test_a_service_without_a_description_is_refused_at_once() -> None:
    with pytest.raises(KeyError):
        ReflectionService(["nobody.knows.It"], LimitsConfig())
