from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeAlias

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from federation.services.health import HEALTH, HealthControl, HealthService
from tests.services.calls import refused
from tests.services.conftest import Serve

CAS = "build.bazel.remote.execution.v2.ContentAddressableStorage"
FETCH = "build.bazel.remote.asset.v1.Fetch"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

Watching: TypeAlias = (
    "grpc.aio.UnaryStreamCall[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]"
)
Serving = tuple[HealthControl, grpc.aio.Channel]


@pytest.fixture
async def served(serve: Serve) -> Serving:
    """A server with health only: (control, channel)."""
    control = HealthControl([CAS, FETCH])
    return control, (await serve(HealthService(control))).channel


def check(
    channel: grpc.aio.Channel, service: str = ""
) -> Awaitable[health_pb2.HealthCheckResponse]:
    request = health_pb2.HealthCheckRequest(service=service)
    call: Awaitable[health_pb2.HealthCheckResponse]
    call = health_pb2_grpc.HealthStub(channel).Check(request)
    return call


def watch(channel: grpc.aio.Channel, service: str = "") -> Watching:
    request = health_pb2.HealthCheckRequest(service=service)
    call: Watching = health_pb2_grpc.HealthStub(channel).Watch(request)
    return call


async def told(watching: Watching) -> object:
    """Return the status that a watcher hears next."""
    answer = await watching.read()
    assert isinstance(answer, health_pb2.HealthCheckResponse)
    return answer.status


async def test_nothing_serves_until_that_is_said(served: Serving) -> None:
    control, channel = served
    assert (await check(channel)).status == NOT_SERVING
    await control.set(True)
    for service in ("", CAS, FETCH, HEALTH):
        assert (await check(channel, service)).status == SERVING
    await control.set(False)
    for service in ("", CAS, FETCH, HEALTH):
        assert (await check(channel, service)).status == NOT_SERVING
    assert repr(control) == "<HealthControl not serving>"


async def test_an_unknown_service_is_not_found(served: Serving) -> None:
    control, channel = served
    await control.set(True)
    await refused(check(channel, "nobody"), grpc.StatusCode.NOT_FOUND)


async def test_all_services_can_be_listed(served: Serving) -> None:
    control, channel = served
    await control.set(True)
    answer = await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())
    assert set(answer.statuses) == {"", CAS, FETCH, HEALTH}
    assert {each.status for each in answer.statuses.values()} == {SERVING}


async def test_a_watcher_hears_each_change_once(served: Serving) -> None:
    control, channel = served
    watching = watch(channel)
    assert await told(watching) == NOT_SERVING
    for serving in (True, False, True):
        await control.set(serving)
        await control.set(serving)
        assert await told(watching) == (SERVING if serving else NOT_SERVING)
    watching.cancel()


async def test_a_watcher_of_an_unknown_service_hears_that_and_waits(served: Serving) -> None:
    _, channel = served
    watching = watch(channel, "nobody")
    assert await told(watching) == UNKNOWN
    watching.cancel()


async def test_o02_a_watcher_that_reads_nothing_does_not_hold_up_a_change(served: Serving) -> None:
    control, channel = served
    watching = [watch(channel) for _ in range(50)]
    await asyncio.gather(*(each.initial_metadata() for each in watching))
    async with asyncio.timeout(60):
        for n in range(1000):
            await control.set(bool(n % 2))
    assert (await check(channel)).status == SERVING
    for each in watching:
        each.cancel()
