"""Uploads: nothing wrong leaves, what breaks goes on, and an OK has to be whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core import hops
from federation.core.digest import digest_of
from federation.core.errors import DigestMismatch
from federation.core.provenance import Provenance, Source
from federation.core.store import Chunks
from federation.remote.failures import Denied, FailureKind, RemoteFailed, RequestRefused
from tests.remote import fake_server
from tests.remote.blobs import chunks, noise, text
from tests.remote.fake_server import FakeServer, Proxy, Upload, good_capabilities, take
from tests.remote.served import NODE_ID, Here, connected, serving
from tests.support.fakes import MemoryStore
from tests.support.messages import message_of


class Replayable:
    """A blob that can be read from any offset, and says from which ones it was."""

    def __init__(self, data: bytes, step: int = 100_000) -> None:
        self.data = data
        self.offsets: list[int] = []
        self.open = 0
        self._step = step

    @asynccontextmanager
    async def __call__(self, offset: int) -> AsyncIterator[Chunks]:
        self.offsets.append(offset)
        self.open += 1

        async def parts() -> AsyncIterator[bytes]:
            for at in range(offset, len(self.data), self._step):
                yield self.data[at : at + self._step]

        yield parts()
        self.open -= 1


def breaks_after(size_bytes: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> object:
    """Break the first stream once this much has come, and take the others."""
    broken = False

    async def write(upload: Upload, context: fake_server.Context) -> None:
        nonlocal broken
        if broken:
            await take(upload, context)
            return
        broken = True
        while len(upload.data) < size_bytes:
            await upload.next()
        await context.abort(code, "told to break")

    return write


@pytest.mark.parametrize("size", [1, 1000, 5_000_000])
async def test_a_blob_arrives_whole(fake: FakeServer, here: Here, size: int) -> None:
    data = noise(size)
    digest = digest_of(data)
    assert await here.store.write(digest, chunks(data)) is True
    assert fake.blobs[digest] == data
    assert await here.store.write(digest, chunks()) is False
    source = Replayable(noise(size, seed=2))
    assert await here.store.send(digest_of(source.data), source) is True
    assert fake.blobs[digest_of(source.data)] == source.data
    assert source.open == 0


async def test_wrong_bytes_never_finish_an_upload(fake: FakeServer, here: Here) -> None:
    data = noise(300_000)
    digest = digest_of(data)
    for parts in ((data[:-1],), (data, b"x"), (data[:-1] + b"!",), (data + b"x",), ()):
        with pytest.raises(DigestMismatch):
            await here.store.write(digest, chunks(*parts))
    assert not fake.blobs
    with pytest.raises(DigestMismatch):
        await here.store.send(digest, Replayable(data[:-1]))
    assert not fake.blobs


async def test_an_early_ok_means_it_was_there(fake: FakeServer, here: Here) -> None:
    data = noise(30_000_000)

    async def early(upload: Upload, _context: fake_server.Context) -> None:
        upload.committed_bytes = len(data)

    fake.writes = early
    source = Replayable(data)
    assert await here.store.send(digest_of(data), source) is False
    assert here.calls("Write") == 1


async def test_a_server_that_calls_it_an_error_that_a_blob_is_there(
    fake: FakeServer, here: Here
) -> None:
    fake.writes = breaks_after(0, grpc.StatusCode.ALREADY_EXISTS)  # type: ignore[assignment]
    data = noise(1000)
    assert await here.store.send(digest_of(data), Replayable(data)) is False
    answer = reapi.BatchUpdateBlobsResponse()
    item = answer.responses.add(digest=message_of(digest_of(data)))
    item.status.code = grpc.StatusCode.ALREADY_EXISTS.value[0]
    fake.does["BatchUpdateBlobs"] = fake_server.answers(answer.SerializeToString())
    assert await here.store.write_small([(digest_of(data), data)]) == [None]
    assert here.remote.describe()["last_failure"] is None


async def test_an_early_ok_of_a_real_node_is_understood() -> None:
    data = noise(20_000_000)
    held = MemoryStore()
    held.add(digest_of(data), data)
    async with serving(held) as address, connected(address, compression=False) as here:
        for _ in range(5):
            assert await here.store.send(digest_of(data), Replayable(data)) is False
        assert here.calls("Write") == 5


@pytest.mark.parametrize("committed", [0, 1, 99_999, 100_001, -1])
async def test_an_ok_for_another_size_is_a_failure(
    fake: FakeServer, here: Here, committed: int
) -> None:
    async def short(upload: Upload, _context: fake_server.Context) -> None:
        while await upload.next():
            pass
        upload.committed_bytes = committed

    fake.writes = short
    data = noise(100_000)
    with pytest.raises(RemoteFailed) as caught:
        await here.store.send(digest_of(data), Replayable(data))
    assert caught.value.kind is FailureKind.INTERNAL


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
async def test_a_broken_upload_goes_on_where_the_server_stands(
    fake: FakeServer, here: Here, code: grpc.StatusCode
) -> None:
    data = noise(1_000_000)
    source = Replayable(data)
    fake.writes = breaks_after(300_000, code)  # type: ignore[assignment]
    assert await here.store.send(digest_of(data), source) is True
    assert fake.blobs[digest_of(data)] == data
    assert source.offsets[0] == 0
    assert source.offsets[1] >= 300_000
    assert source.open == 0
    assert len(fake.calls("QueryWriteStatus")) == 1


async def test_a_broken_upload_of_bytes_that_come_once_goes_on_too(
    fake: FakeServer, here: Here
) -> None:
    data = noise(20_000_000)
    parts = [data[at : at + 1_000_000] for at in range(0, len(data), 1_000_000)]
    fake.writes = breaks_after(12_000_000)  # type: ignore[assignment]
    assert await here.store.write(digest_of(data), chunks(*parts)) is True
    assert fake.blobs[digest_of(data)] == data


async def test_bytes_that_are_gone_cannot_be_sent_again(fake: FakeServer, here: Here) -> None:
    data = noise(20_000_000)
    parts = [data[at : at + 1_000_000] for at in range(0, len(data), 1_000_000)]
    fake.writes = breaks_after(12_000_000)  # type: ignore[assignment]
    fake.does["QueryWriteStatus"] = fake_server.fails(grpc.StatusCode.UNIMPLEMENTED)
    with pytest.raises(RemoteFailed) as caught:
        await here.store.write(digest_of(data), chunks(*parts))
    assert caught.value.kind is FailureKind.UNAVAILABLE


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND])
async def test_where_nobody_knows_the_standing_it_starts_over(
    fake: FakeServer, here: Here, code: grpc.StatusCode
) -> None:
    data = noise(1_000_000)
    source = Replayable(data)
    fake.writes = breaks_after(300_000)  # type: ignore[assignment]
    fake.does["QueryWriteStatus"] = fake_server.fails(code)
    assert await here.store.send(digest_of(data), source) is True
    assert source.offsets == [0, 0]


async def test_an_upload_that_had_arrived_when_it_broke_is_not_sent_again(
    fake: FakeServer, here: Here
) -> None:
    async def keeps_and_breaks(upload: Upload, context: fake_server.Context) -> None:
        while await upload.next():
            pass
        upload.keep()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")

    fake.writes = keeps_and_breaks
    data = noise(1_000_000)
    assert await here.store.send(digest_of(data), Replayable(data)) is True
    assert len(fake.calls("Write")) == 1


async def test_it_goes_on_once_and_not_for_ever(fake: FakeServer, here: Here) -> None:
    async def breaks(upload: Upload, context: fake_server.Context) -> None:
        await upload.next()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")

    fake.writes = breaks
    data = noise(1_000_000)
    with pytest.raises(RemoteFailed) as caught:
        await here.store.send(digest_of(data), Replayable(data))
    assert caught.value.kind is FailureKind.UNAVAILABLE
    assert len(fake.calls("Write")) == 2


async def test_a_connection_that_is_cut_in_the_middle_goes_on(fake: FakeServer) -> None:
    data = noise(8_000_000)
    source = Replayable(data)
    async with Proxy(fake.address) as proxy, connected(proxy.address, retry_limit=4) as here:

        async def cut_once(upload: Upload, context: fake_server.Context) -> None:
            while await upload.next():
                if len(upload.data) > 4_000_000 and proxy.cuts == 0:
                    proxy.cut()
            if upload.finished:
                upload.keep()
            else:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the stream ended")

        fake.writes = cut_once
        assert await here.store.send(digest_of(data), source) is True
        assert proxy.cuts == 1
        assert fake.blobs[digest_of(data)] == data
        assert source.offsets[1] > 0


@pytest.mark.parametrize(
    ("code", "type_"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, RequestRefused),
        (grpc.StatusCode.FAILED_PRECONDITION, RequestRefused),
        (grpc.StatusCode.PERMISSION_DENIED, Denied),
        (grpc.StatusCode.UNAUTHENTICATED, Denied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, RemoteFailed),
    ],
)
async def test_a_refusal_is_not_tried_again(
    fake: FakeServer, here: Here, code: grpc.StatusCode, type_: type[RemoteFailed]
) -> None:
    fake.writes = breaks_after(0, code)  # type: ignore[assignment]
    data = noise(10_000_000)
    with pytest.raises(type_) as caught:
        await here.store.send(digest_of(data), Replayable(data))
    assert type(caught.value) is type_
    assert len(fake.calls("Write")) == 1


async def test_the_status_that_ends_an_upload_is_the_server_s_own(fake: FakeServer) -> None:
    async def refuses(upload: Upload, context: fake_server.Context) -> None:
        for _ in range(len(fake.calls("Write")) % 7):
            await upload.next()
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "told to refuse")

    fake.writes = refuses
    data = noise(5_000_000)
    digest = digest_of(data)
    async with connected(fake.address, retry_limit=0) as here:
        for _ in range(150):
            with pytest.raises(Denied):
                await here.store.send(digest, Replayable(data, step=10_000))


async def test_u04_a_server_that_takes_nothing_is_a_stall(fake: FakeServer, hasty: Here) -> None:
    async def takes_nothing(_upload: Upload, _context: fake_server.Context) -> None:
        await asyncio.Event().wait()

    fake.writes = takes_nothing
    data = noise(30_000_000)
    with pytest.raises(RemoteFailed) as caught:
        await hasty.store.send(digest_of(data), Replayable(data))
    assert caught.value.kind is FailureKind.STALLED
    assert hasty.remote.calls.slots.running == 0


async def test_a_server_that_never_answers_is_a_stall(fake: FakeServer) -> None:
    async def never_answers(upload: Upload, _context: fake_server.Context) -> None:
        while await upload.next():
            pass
        await asyncio.Event().wait()

    fake.writes = never_answers
    data = noise(1000)
    async with connected(fake.address, request_timeout_s=0.3) as here:
        with pytest.raises(RemoteFailed) as caught:
            await here.store.send(digest_of(data), Replayable(data))
    assert caught.value.kind is FailureKind.STALLED


async def test_a_source_that_fails_ends_the_call_and_keeps_its_error(
    fake: FakeServer, here: Here
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield noise(50_000)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await here.store.write(digest_of(noise(100_000)), broken())
    assert not fake.blobs
    assert here.remote.calls.slots.running == 0
    assert here.counted("federation_remote_calls_total", method="Write", outcome="left") == 1


async def test_a_cancelled_write_ends_the_call(here: Here) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        started.set()
        await asyncio.Event().wait()

    writing = asyncio.ensure_future(here.store.write(digest_of(b"xy"), endless()))
    await started.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert here.remote.calls.slots.running == 0


@pytest.mark.parametrize("size", [2000, 6_000_000])
async def test_zstd_is_sent_where_both_can(fake: FakeServer, here: Here, size: int) -> None:
    fake.capabilities = good_capabilities(zstd=True)
    for data in (text(size), noise(size)):
        assert await here.store.send(digest_of(data), Replayable(data)) is True
        assert fake.blobs[digest_of(data)] == data
    assert all(b"compressed-blobs/zstd" in each.request for each in fake.calls("Write"))
    sent = here.counted("federation_remote_bytes_total", direction="out")
    assert sent < 1.2 * size


async def test_u19_zstd_that_is_refused_is_sent_as_plain_bytes(
    fake: FakeServer, here: Here
) -> None:
    fake.capabilities = good_capabilities(zstd=True)

    async def only_plain(upload: Upload, context: fake_server.Context) -> None:
        if "compressed-blobs" in upload.name:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no zstd here")
        await take(upload, context)

    fake.writes = only_plain
    for seed in (1, 2):
        data = noise(300_000, seed)
        assert await here.store.write(digest_of(data), chunks(data)) is True
        assert fake.blobs[digest_of(data)] == data
    assert len(fake.calls("Write")) == 3  # the second blob is sent as plain bytes at once


async def test_a_broken_zstd_upload_starts_over(fake: FakeServer, here: Here) -> None:
    fake.capabilities = good_capabilities(zstd=True)
    data = noise(5_000_000)
    source = Replayable(data)
    fake.writes = breaks_after(1_000_000)  # type: ignore[assignment]
    assert await here.store.send(digest_of(data), source) is True
    assert fake.blobs[digest_of(data)] == data
    assert source.offsets == [0, 0]


async def test_what_is_too_large_for_the_remote_is_not_sent(fake: FakeServer, here: Here) -> None:
    fake.capabilities = reapi.ServerCapabilities(
        cache_capabilities=reapi.CacheCapabilities(max_cas_blob_size_bytes=1000)
    )
    data = noise(1001)
    with pytest.raises(RequestRefused):
        await here.store.send(digest_of(data), Replayable(data))
    assert not fake.calls("Write")


async def test_the_nodes_a_blob_has_passed_go_along(fake: FakeServer, here: Here) -> None:
    data = noise(1000)
    came = Provenance(Source.PEER, ("first", "second"))
    await here.store.send(digest_of(data), Replayable(data), provenance=came)
    (call,) = fake.calls("Write")
    assert call.metadata[hops.VIA_HEADER] == f"first,second,{NODE_ID}"
    assert call.metadata[hops.ORIGIN_HEADER] == "first"
