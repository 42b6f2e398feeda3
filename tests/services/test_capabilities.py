from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2_grpc
from federation.config.model import LimitsConfig
from federation.core.hops import VIA_HEADER
from federation.services.capabilities import CapabilitiesService
from federation.wire import node_identity
from federation.wire.node_identity import LogPosition, NodeIdentity
from tests.services.calls import refused
from tests.services.conftest import Serve

MAX_BLOB_BYTES = 123_456_789_000
ME = NodeIdentity("me", LogPosition("epoch", 12))

Get = Callable[..., Awaitable[reapi.ServerCapabilities]]
Ask = Callable[..., Awaitable[Get]]


@pytest.fixture
def ask(serve: Serve) -> Ask:
    async def start(may_push: bool = True, limits: LimitsConfig | None = None) -> Get:
        limits = limits or LimitsConfig()
        service = CapabilitiesService(limits, MAX_BLOB_BYTES)
        served = await serve(service, may_push=may_push, limits=limits)
        stub = remote_execution_pb2_grpc.CapabilitiesStub(served.channel)

        async def get(instance: str = "") -> reapi.ServerCapabilities:
            request = reapi.GetCapabilitiesRequest(instance_name=instance)
            answer: reapi.ServerCapabilities = await stub.GetCapabilities(request)
            return answer

        return get

    return start


async def test_every_instance_gets_the_same_answer(ask: Ask) -> None:
    get = await ask()
    answers = [await get(name) for name in ("", "main", "team/a", "moon-outputs")]
    assert all(answer == answers[0] for answer in answers)


async def test_w17_an_illegal_instance_name_is_refused(ask: Ask) -> None:
    get = await ask()
    for name in ("blobs", "../x", "a/capabilities"):
        await refused(get(name), grpc.StatusCode.INVALID_ARGUMENT)


async def test_bazel_4_finds_exactly_2_0_in_the_range_and_sha256(ask: Ask) -> None:
    answer = await (await ask())()
    low, high = answer.low_api_version, answer.high_api_version
    assert (low.major, low.minor) <= (2, 0) <= (high.major, high.minor)
    assert reapi.DigestFunction.SHA256 in answer.cache_capabilities.digest_functions


async def test_moon_finds_zstd_in_both_lists(ask: Ask) -> None:
    cache = (await (await ask())()).cache_capabilities
    assert reapi.Compressor.ZSTD in cache.supported_compressors
    assert reapi.Compressor.ZSTD in cache.supported_batch_update_compressors


@pytest.mark.parametrize("may_push", [False, True])
async def test_a17_a_caller_is_told_its_own_rights(ask: Ask, may_push: bool) -> None:
    cache = (await (await ask(may_push))()).cache_capabilities
    assert cache.action_cache_update_capabilities.update_enabled is may_push


async def test_w25_limits_are_told_as_they_are_enforced_and_leave_room_for_framing(
    ask: Ask,
) -> None:
    cache = (await (await ask())()).cache_capabilities
    assert 0 < cache.max_batch_total_size_bytes <= 4 * 2**20 - 2**16
    assert cache.max_cas_blob_size_bytes == MAX_BLOB_BYTES
    small = await ask(limits=LimitsConfig(batch_total=100_000))
    assert (await small()).cache_capabilities.max_batch_total_size_bytes == 100_000


async def test_nothing_is_claimed_that_is_not_served(ask: Ask) -> None:
    answer = await (await ask())()
    cache = answer.cache_capabilities
    functions = {reapi.DigestFunction.SHA256, reapi.DigestFunction.BLAKE3}
    assert set(cache.digest_functions) == functions
    assert not cache.split_blob_support
    assert not cache.splice_blob_support
    assert not answer.HasField("execution_capabilities")
    assert cache.symlink_absolute_path_strategy == reapi.SymlinkAbsolutePathStrategy.ALLOWED


@pytest.mark.parametrize(
    ("may_push", "metadata", "told"),
    [
        (True, [(VIA_HEADER, "a")], ME),
        (True, [], node_identity.UNKNOWN),  # no node of ours
        (False, [(VIA_HEADER, "a")], node_identity.UNKNOWN),  # no peer
    ],
)
async def test_only_a_peer_is_told_who_answers(
    serve: Serve, may_push: bool, metadata: list[tuple[str, str]], told: NodeIdentity
) -> None:
    service = CapabilitiesService(LimitsConfig(), MAX_BLOB_BYTES, lambda: ME)
    served = await serve(service, may_push=may_push)
    stub = remote_execution_pb2_grpc.CapabilitiesStub(served.channel)
    call = stub.GetCapabilities(reapi.GetCapabilitiesRequest(), metadata=metadata)
    assert node_identity.parse(await call.initial_metadata()) == told
    assert (await call).cache_capabilities.max_cas_blob_size_bytes == MAX_BLOB_BYTES
