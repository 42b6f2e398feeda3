from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.closure.checker import ClosureChecker
from federation.config.model import LimitsConfig
from federation.core.clock import ManualClock
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import StorageFull
from federation.core.index import Entry
from federation.observability.metrics import Metrics
from federation.services.action_cache import ActionCacheService
from federation.wire.action_result import RESPONSE_MAX_BYTES, key_of
from federation.wire.protobuf import length_field
from tests.services.calls import refused
from tests.services.conftest import Serve, Served
from tests.support.fakes import MemoryIndex, MemoryStore
from tests.support.local_finder import LocalFinder
from tests.support.messages import directory, message_of, tree

SERVICE = "/build.bazel.remote.execution.v2.ActionCache"
ACTION = message_of(digest_of(b"an action that nobody uploaded"))


class Cache:
    """A served ActionCache, called with messages or, where bytes matter, raw."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        store: MemoryStore,
        index: MemoryIndex,
        metrics: Metrics,
        served: Served,
    ) -> None:
        self.store, self.index, self.metrics, self.served = store, index, metrics, served
        self.get_raw = channel.unary_unary(f"{SERVICE}/GetActionResult", None, None)
        self.update_raw = channel.unary_unary(f"{SERVICE}/UpdateActionResult", None, None)

    async def get(self, **fields: Any) -> reapi.ActionResult:
        fields.setdefault("action_digest", ACTION)
        request = reapi.GetActionResultRequest(**fields)
        return reapi.ActionResult.FromString(await self.get_raw(request.SerializeToString()))

    async def update(self, result: reapi.ActionResult, **fields: Any) -> reapi.ActionResult:
        fields.setdefault("action_digest", ACTION)
        request = reapi.UpdateActionResultRequest(action_result=result, **fields)
        return reapi.ActionResult.FromString(await self.update_raw(request.SerializeToString()))

    async def hidden(self, **fields: Any) -> None:
        await refused(self.get(**fields), grpc.StatusCode.NOT_FOUND)

    def put(self, data: bytes) -> reapi.Digest:
        self.store.add(digest_of(data), data)
        return message_of(digest_of(data))


MakeCache = Callable[..., Awaitable[Cache]]


@pytest.fixture
def make_cache(serve: Serve, store: MemoryStore) -> MakeCache:
    async def make(may_push: bool = True, index: MemoryIndex | None = None) -> Cache:
        metrics, index = Metrics(), index or MemoryIndex()
        closures = ClosureChecker(store, LimitsConfig(), ManualClock(), store)
        service = ActionCacheService(store, index, LocalFinder(index, closures), metrics)
        served = await serve(service, may_push=may_push, metrics=metrics)
        return Cache(served.channel, store, index, metrics, served)

    return make


@pytest.fixture
async def cache(make_cache: MakeCache) -> Cache:
    return await make_cache()


async def test_an_update_is_returned_and_got_again(cache: Cache) -> None:
    result = reapi.ActionResult(
        output_files=[reapi.OutputFile(path="o", digest=cache.put(b"o"))], exit_code=2
    )
    assert await cache.update(result) == result
    assert await cache.get() == result


async def test_bytes_come_back_exactly_as_sent(cache: Cache) -> None:
    """Among them moon's node properties, execution metadata and fields unknown here."""
    result = reapi.ActionResult()
    file = result.output_files.add(path="o", digest=cache.put(b"o"))
    file.node_properties.unix_mode.value = 0o755
    file.node_properties.mtime.seconds = 1
    result.execution_metadata.worker = "w"
    raw = length_field(99, b"later") + result.SerializeToString() + length_field(98, b"much later")
    head = reapi.UpdateActionResultRequest(action_digest=ACTION).SerializeToString()
    assert await cache.update_raw(head + length_field(3, raw)) == raw
    request = reapi.GetActionResultRequest(action_digest=ACTION, inline_stdout=True)
    assert await cache.get_raw(request.SerializeToString()) == raw


async def test_what_the_action_digest_points_at_is_never_looked_at(cache: Cache) -> None:
    manifest = cache.put(b'{"moon": "writes JSON here"}')
    await cache.update(reapi.ActionResult(exit_code=1), action_digest=manifest)
    assert (await cache.get(action_digest=manifest)).exit_code == 1


async def test_an_unknown_action_is_not_found_and_nothing_else(cache: Cache) -> None:
    await cache.hidden()


async def test_the_last_update_wins(cache: Cache) -> None:
    for code in (1, 2):
        await cache.update(reapi.ActionResult(exit_code=code))
    assert (await cache.get()).exit_code == 2


async def test_instances_and_sizes_and_functions_do_not_mix(cache: Cache) -> None:
    await cache.update(reapi.ActionResult(exit_code=1), instance_name="team/a")
    await cache.hidden()
    await cache.hidden(instance_name="team")
    other_size = reapi.Digest(hash=ACTION.hash, size_bytes=ACTION.size_bytes + 1)
    await cache.hidden(instance_name="team/a", action_digest=other_size)
    await cache.hidden(instance_name="team/a", digest_function=DigestFunction.BLAKE3)
    for function in (DigestFunction.SHA256, 0):
        found = await cache.get(instance_name="team/a", digest_function=function)
        assert found.exit_code == 1


def _missing_file(_cache: Cache) -> tuple[reapi.ActionResult, list[bytes]]:
    result = reapi.ActionResult()
    for data in (b"one", b"two"):
        result.output_files.add(path="o", digest=message_of(digest_of(data)))
    return result, [b"one", b"two"]


def _missing_tree(cache: Cache) -> tuple[reapi.ActionResult, list[bytes]]:
    cache.put(b"in tree")
    data = tree(directory({"f": digest_of(b"in tree")}))
    result = reapi.ActionResult()
    result.output_directories.add(path="d", tree_digest=message_of(digest_of(data)))
    return result, [data]


def _missing_file_in_tree(cache: Cache) -> tuple[reapi.ActionResult, list[bytes]]:
    leaf = directory({"deep": digest_of(b"deep"), "here": digest_of(b"here")})
    cache.put(b"here")
    data = tree(directory({}, {"leaf": digest_of(leaf)}), leaf)
    result = reapi.ActionResult()
    result.output_directories.add(path="d", tree_digest=cache.put(data))
    return result, [b"deep"]


def _missing_directories(_cache: Cache) -> tuple[reapi.ActionResult, list[bytes]]:
    leaf = directory({"f": digest_of(b"f")})
    root = directory({}, {"leaf": digest_of(leaf)})
    result = reapi.ActionResult()
    result.output_directories.add(path="d", root_directory_digest=message_of(digest_of(root)))
    return result, [root, leaf, b"f"]


def _missing_stdout(_cache: Cache) -> tuple[reapi.ActionResult, list[bytes]]:
    result = reapi.ActionResult(
        stdout_digest=message_of(digest_of(b"out")), stderr_digest=message_of(digest_of(b"err"))
    )
    return result, [b"out", b"err"]


@pytest.mark.parametrize(
    "make",
    [
        _missing_file,
        _missing_tree,
        _missing_file_in_tree,
        _missing_directories,
        _missing_stdout,
    ],
)
async def test_w34_a_result_with_holes_is_hidden_until_the_last_is_filled(
    cache: Cache, make: Callable[[Cache], tuple[reapi.ActionResult, list[bytes]]]
) -> None:
    result, missing = make(cache)
    assert await cache.update(result) == result
    for data in missing:
        await cache.hidden()
        cache.put(data)
    assert await cache.get() == result


@pytest.mark.parametrize(
    "result",
    [
        reapi.ActionResult(output_symlinks=[reapi.OutputSymlink(path="a", target="b")]),
        reapi.ActionResult(),
        reapi.ActionResult(stdout_digest=message_of(digest_of(b""))),
    ],
)
async def test_w34_a_result_that_names_nothing_is_served_at_once(
    cache: Cache, result: reapi.ActionResult
) -> None:
    await cache.update(result)
    assert await cache.get() == result


async def test_w35_an_output_that_goes_hides_the_result_until_it_is_back(cache: Cache) -> None:
    result = reapi.ActionResult()
    result.output_files.add(path="o", digest=cache.put(b"o"))
    await cache.update(result)
    assert await cache.get() == result
    cache.store.remove(digest_of(b"o"))
    await cache.hidden()
    cache.put(b"o")
    assert await cache.get() == result


@pytest.mark.parametrize("bytes_", [b"\x0a\x02hi", b"hello, world", tree(b"")])
async def test_w32_a_result_whose_tree_is_none_stays_hidden_and_its_blob_readable(
    cache: Cache, bytes_: bytes
) -> None:
    result = reapi.ActionResult()
    result.output_directories.add(path="d", tree_digest=cache.put(bytes_))
    result.output_directories.add(path="d", root_directory_digest=cache.put(bytes_))
    await cache.update(result)
    await cache.hidden()
    assert await cache.store.read_small([digest_of(bytes_)]) == [bytes_]


async def test_w32_a_result_that_names_its_own_action_as_tree_stays_hidden(cache: Cache) -> None:
    action = reapi.Action(command_digest=message_of(digest_of(b"c"))).SerializeToString()
    result = reapi.ActionResult()
    result.output_directories.add(path="d", tree_digest=cache.put(action))
    digest = message_of(digest_of(action))
    await cache.update(result, action_digest=digest)
    await cache.hidden(action_digest=digest)


async def test_what_is_served_is_leased(cache: Cache) -> None:
    result = reapi.ActionResult()
    result.output_files.add(path="o", digest=cache.put(b"o"))
    await cache.update(result)
    await cache.get()
    assert digest_of(b"o") in cache.store.leased


async def test_streams_and_files_are_inlined_for_who_asks(cache: Cache) -> None:
    result = reapi.ActionResult(stdout_digest=cache.put(b"out"), stderr_digest=cache.put(b"err"))
    for path in ("a", "b"):
        result.output_files.add(path=path, digest=cache.put(path.encode()))
    await cache.update(result)
    assert await cache.get() == result
    found = await cache.get(inline_stdout=True, inline_stderr=True, inline_output_files=["b"])
    assert (found.stdout_raw, found.stderr_raw) == (b"out", b"err")
    assert [file.contents for file in found.output_files] == [b"", b"b"]


async def test_w36_what_is_too_large_is_not_inlined(cache: Cache) -> None:
    large = bytes(100 * 2**20)
    result = reapi.ActionResult(stdout_digest=cache.put(large), stderr_digest=cache.put(b"err"))
    result.output_files.add(path="o", digest=message_of(digest_of(large)))
    await cache.update(result)
    found = await cache.get(inline_stdout=True, inline_stderr=True, inline_output_files=["o"])
    assert found.stderr_raw == b"err"
    found.stderr_raw = b""
    assert found == result


async def test_w36_a_full_response_still_passes_a_client_with_default_limits(cache: Cache) -> None:
    result = reapi.ActionResult()
    for n in range(20):
        result.output_files.add(path=f"{n}", digest=cache.put(bytes([n]) * 500_000))
    await cache.update(result)
    found = await cache.get(inline_output_files=[f"{n}" for n in range(20)])
    assert 6 <= sum(bool(file.contents) for file in found.output_files) <= 8
    assert found.ByteSize() <= RESPONSE_MAX_BYTES


class RottenStore(MemoryStore):
    """Calls present what turns out to be damaged when it is read."""

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        """See Store."""
        return [None for _ in digests]


async def test_an_output_found_damaged_while_inlining_is_a_miss(serve: Serve) -> None:
    store, index, metrics = RottenStore(), MemoryIndex(), Metrics()
    closures = ClosureChecker(store, LimitsConfig(), ManualClock(), store)
    service = ActionCacheService(store, index, LocalFinder(index, closures), metrics)
    served = await serve(service, may_push=True, metrics=metrics)
    cache = Cache(served.channel, store, index, metrics, served)
    result = reapi.ActionResult(stdout_digest=cache.put(b"out"))
    await cache.update(result)
    assert await cache.get() == result
    await cache.hidden(inline_stdout=True)


async def test_w45_inlined_contents_up_to_the_response_limit_are_kept(cache: Cache) -> None:
    result = reapi.ActionResult(stdout_raw=bytes(RESPONSE_MAX_BYTES - 100))
    assert await cache.update(result) == result
    assert await cache.get(inline_stdout=True) == result


@pytest.mark.parametrize("size", [3, 300_000])
async def test_p1_inlined_bytes_that_contradict_their_digest_are_refused(
    cache: Cache, size: int
) -> None:
    data = bytes(size)
    wrong = reapi.ActionResult(stdout_raw=data[1:] + b"x", stdout_digest=cache.put(data))
    await refused(cache.update(wrong), grpc.StatusCode.INVALID_ARGUMENT)
    await cache.hidden()
    right = reapi.ActionResult(stdout_raw=data, stdout_digest=cache.put(data))
    assert await cache.update(right) == right
    assert await cache.get() == right


async def test_p1_a_result_of_before_that_contradicts_itself_is_hidden(cache: Cache) -> None:
    wrong = reapi.ActionResult(output_files=[reapi.OutputFile(path="o", contents=b"x")])
    wrong.output_files[0].digest.CopyFrom(cache.put(b"o"))
    action = Digest(bytes.fromhex(ACTION.hash), ACTION.size_bytes)
    entry = Entry(key_of("", action), wrong.SerializeToString(), "action")
    await cache.index.put([entry])
    await cache.hidden()


async def test_a_result_whose_tree_holds_not_all_its_directories_is_hidden(cache: Cache) -> None:
    child = directory({"f": digest_of(b"")})
    cache.put(child)  # that it is here does not count
    result = reapi.ActionResult()
    whole = tree(directory({}, {"d": digest_of(child)}))
    result.output_directories.add(path="t", tree_digest=cache.put(whole))
    await cache.update(result)
    await cache.hidden()


async def test_w45_inlined_contents_above_the_response_limit_are_refused(cache: Cache) -> None:
    result = reapi.ActionResult()
    result.output_files.add(path="o", digest=cache.put(b"o"), contents=bytes(RESPONSE_MAX_BYTES))
    await refused(cache.update(result), grpc.StatusCode.INVALID_ARGUMENT)
    await cache.hidden()


BAD_DIGESTS = [
    reapi.Digest(),
    reapi.Digest(hash=ACTION.hash[1:], size_bytes=1),
    reapi.Digest(hash=ACTION.hash + "0", size_bytes=1),
    reapi.Digest(hash=ACTION.hash.upper(), size_bytes=1),
    reapi.Digest(hash=ACTION.hash + "\n", size_bytes=1),
    reapi.Digest(hash="g" * 64, size_bytes=1),
    reapi.Digest(hash=ACTION.hash, size_bytes=-1),
    reapi.Digest(hash=ACTION.hash, size_bytes=-(2**63)),
]


@pytest.mark.parametrize("digest", BAD_DIGESTS)
async def test_w01_w02_malformed_digests_are_refused_wherever_they_stand(
    cache: Cache, digest: reapi.Digest
) -> None:
    bad = grpc.StatusCode.INVALID_ARGUMENT
    await refused(cache.get(action_digest=digest), bad)
    await refused(cache.update(reapi.ActionResult(), action_digest=digest), bad)
    for result in (
        reapi.ActionResult(stdout_digest=digest),
        reapi.ActionResult(stderr_digest=digest),
        reapi.ActionResult(output_files=[reapi.OutputFile(path="o", digest=digest)]),
        reapi.ActionResult(
            output_directories=[reapi.OutputDirectory(path="o", tree_digest=digest)]
        ),
        reapi.ActionResult(
            output_directories=[reapi.OutputDirectory(path="o", root_directory_digest=digest)]
        ),
    ):
        await refused(cache.update(result), bad)
    assert not cache.index.entries


async def test_w02_an_absurd_size_is_just_not_here(cache: Cache) -> None:
    absurd = reapi.Digest(hash=ACTION.hash, size_bytes=2**63 - 1)
    await cache.hidden(action_digest=absurd)
    await cache.update(reapi.ActionResult(stdout_digest=absurd))
    await cache.hidden()


@pytest.mark.parametrize("function", [2, 3, 99])
async def test_w28_an_unsupported_digest_function_is_refused(cache: Cache, function: int) -> None:
    bad = grpc.StatusCode.INVALID_ARGUMENT
    await refused(cache.get(digest_function=function), bad)
    await refused(cache.update(reapi.ActionResult(), digest_function=function), bad)


@pytest.mark.parametrize("instance", ["blobs", "a/uploads", "../x", ".", "a//b", "/a", "x" * 2000])
async def test_w17_an_illegal_instance_name_is_refused(cache: Cache, instance: str) -> None:
    bad = grpc.StatusCode.INVALID_ARGUMENT
    await refused(cache.get(instance_name=instance), bad)
    await refused(cache.update(reapi.ActionResult(), instance_name=instance), bad)


async def test_an_update_without_a_result_is_refused(cache: Cache) -> None:
    request = reapi.UpdateActionResultRequest(action_digest=ACTION)
    await refused(cache.update_raw(request.SerializeToString()), grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize(
    "raw",
    [b"\x0b" * 10_000 + b"\x0c" * 10_000, b"\x08" + b"\xff" * 11, b"\x1a\x7f", b"\x0a\x01\xff"],
)
async def test_w33_broken_messages_are_refused_and_the_server_goes_on(
    cache: Cache, raw: bytes
) -> None:
    await refused(cache.get_raw(raw), grpc.StatusCode.INVALID_ARGUMENT)
    await refused(cache.update_raw(raw), grpc.StatusCode.INVALID_ARGUMENT)
    await cache.hidden()


async def test_a01_an_update_on_a_pull_listener_is_refused_and_stores_nothing(
    make_cache: MakeCache,
) -> None:
    cache = await make_cache(may_push=False)
    await refused(cache.update(reapi.ActionResult()), grpc.StatusCode.PERMISSION_DENIED)
    assert not cache.index.entries
    await cache.hidden()


async def test_a_full_store_refuses_the_update(make_cache: MakeCache) -> None:
    class FullIndex(MemoryIndex):
        async def put(self, entries: Sequence[Entry], **provenance: object) -> None:
            raise StorageFull("the quota is used up")

    cache = await make_cache(index=FullIndex())
    await refused(cache.update(reapi.ActionResult()), grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_hits_and_misses_are_counted(cache: Cache) -> None:
    await cache.hidden()
    await cache.update(reapi.ActionResult(stdout_digest=message_of(digest_of(b"out"))))
    await cache.hidden()
    cache.put(b"out")
    await cache.get()
    lookups = "federation_lookups_total"
    assert cache.served.counted(lookups, kind="action_result", result="miss") == 2
    assert cache.served.counted(lookups, kind="action_result", result="hit") == 1


async def test_l18_a_client_that_leaves_ends_the_walk_it_caused(serve: Serve) -> None:
    class GatedStore(MemoryStore):
        asked, gate = asyncio.Event(), asyncio.Event()

        async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
            self.asked.set()
            await self.gate.wait()
            return await super().find_missing(digests)

    store, index, metrics = GatedStore(), MemoryIndex(), Metrics()
    closures = ClosureChecker(store, LimitsConfig(), ManualClock(), store)
    service = ActionCacheService(store, index, LocalFinder(index, closures), metrics)
    served = await serve(service, metrics=metrics)
    cache = Cache(served.channel, store, index, metrics, served)
    result = reapi.ActionResult(stdout_digest=cache.put(b"out"))
    result.execution_metadata.worker = "w" * 5000  # walks over small results are not shared
    await cache.update(result)
    request = reapi.GetActionResultRequest(action_digest=ACTION)
    call = cache.get_raw(request.SerializeToString())
    async with asyncio.timeout(60):
        await store.asked.wait()
        assert repr(closures) == "<ClosureChecker 0 whole, 1 walks>"
        call.cancel()
        while "1 walks" in repr(closures):  # noqa: ASYNC110 - it comes over the wire
            await asyncio.sleep(0.01)
    store.gate.set()
    assert (await cache.get()).stdout_digest.size_bytes == 3
