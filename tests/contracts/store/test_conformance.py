"""What every Store must do; each implementation and decorator joins STORES and passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from federation.config.model import LimitsConfig
from federation.config.model import StorageConfig as Settings
from federation.core.clock import SystemClock
from federation.core.digest import EMPTY, Digest, DigestFunction, digest_of
from federation.core.errors import BlobNotFound, DigestMismatch, OffsetOutside
from federation.core.store import CHUNK_BYTES, DigestCodec, LocalStore, Store
from federation.observability.metrics import Metrics
from federation.storage.storage import Storage
from federation.upstream.pull_through import PullThrough, UpstreamPool
from tests.remote.served import connected, serving
from tests.support.fakes import MemoryStore
from tests.upstream.fakes import upstream

if TYPE_CHECKING:
    from tests.support.sites import TestSite

SIZES = [1, 1000, 16 * 1024, 16 * 1024 + 1, 200_000, 5 * 1024 * 1024 + 3]


def bytes_of(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[LocalStore]:
    yield MemoryStore()


@asynccontextmanager
async def local(path: Path) -> AsyncIterator[LocalStore]:
    store = await Storage.open(path / "data", Settings(), LimitsConfig(), Metrics(), SystemClock())
    yield store
    await store.close()


@asynccontextmanager
async def pulling(path: Path) -> AsyncIterator[LocalStore]:
    """A node with an upstream, which has nothing."""
    nothing, _ = upstream("there")
    async with local(path) as here:
        shared = UpstreamPool("here", here, [nothing], SystemClock(), presence_budget_s=60)
        yield PullThrough(shared, includes_upstreams=True)
        await shared.close()


@asynccontextmanager
async def remote(path: Path) -> AsyncIterator[Store]:
    """Another node, over a real connection."""
    async with local(path) as there, serving(there) as address, connected(address) as here:
        yield here.store


@asynccontextmanager
async def shared(site: TestSite, path: Path) -> AsyncIterator[LocalStore]:
    """A node of a shared site."""
    async with site.node(path / "data") as node:
        yield node


@asynccontextmanager
async def two_nodes(site: TestSite, path: Path) -> AsyncIterator[LocalStore]:
    """Two nodes of a shared site: written through one, asked through the other."""
    from tests.support.two_nodes import TwoNodes

    async with site.node(path / "one") as written, site.node(path / "other") as asked:
        yield TwoNodes(written, asked)


LOCAL_STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[LocalStore]]] = {
    "memory": memory,
    "local": local,
    "pulling": pulling,
}
STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Store]]] = {
    **LOCAL_STORES,
    "remote": remote,
}
SHARED_STORES: dict[str, Callable[[TestSite, Path], AbstractAsyncContextManager[LocalStore]]] = {
    "shared": shared,
    "shared, two nodes": two_nodes,
}
_SHARED = [pytest.param(name, marks=pytest.mark.servers) for name in SHARED_STORES]


@pytest.fixture(params=[*STORES, *_SHARED])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param in SHARED_STORES:
        site = request.getfixturevalue("site")
        async with SHARED_STORES[request.param](site, tmp_path) as on_servers:
            yield on_servers
    else:
        async with STORES[request.param](tmp_path) as made:
            yield made


@pytest.fixture(params=[*LOCAL_STORES, *_SHARED])
async def local_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalStore]:
    if request.param in SHARED_STORES:
        site = request.getfixturevalue("site")
        async with SHARED_STORES[request.param](site, tmp_path) as on_servers:
            yield on_servers
    else:
        async with LOCAL_STORES[request.param](tmp_path) as made:
            yield made


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(store: Store, digest: Digest, **options: int) -> bytes:
    async with store.open_read(digest, **options) as stream:  # type: ignore[arg-type]
        return b"".join([chunk async for chunk in stream])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("function", list(DigestFunction))
async def test_a_written_blob_reads_back_whole(
    store: Store, size: int, function: DigestFunction
) -> None:
    data = bytes_of(size)
    digest = digest_of(data, function)
    assert await store.find_missing([digest]) == {digest}
    assert await store.write(digest, chunks(data[: size // 2], data[size // 2 :])) is True
    assert await store.find_missing([digest]) == set()
    assert await read(store, digest) == data
    assert await store.read_small([digest, digest]) == [data, data]


async def test_writing_what_is_held_says_so_and_needs_no_bytes(store: Store) -> None:
    data = bytes_of(100_000)
    await store.write(digest_of(data), chunks(data))
    assert await store.write(digest_of(data), chunks()) is False


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_held_is_accepted_without_its_bytes(
    local_store: LocalStore, size: int
) -> None:
    data = bytes_of(size)
    digest = digest_of(data)
    assert not await local_store.accept_held(digest)
    assert await local_store.find_missing([digest]) == {digest}, "asking stored something"
    await local_store.write(digest, chunks(data))
    assert await local_store.accept_held(digest)
    assert await local_store.accept_held(EMPTY), "it is always held"


SMALL_SIZES = [size for size in SIZES if size <= 32 * 1024]


@pytest.mark.parametrize("size", SMALL_SIZES)
@pytest.mark.parametrize("function", list(DigestFunction))
async def test_a_blob_written_at_once_is_stored_once(
    local_store: LocalStore, size: int, function: DigestFunction
) -> None:
    data = bytes_of(size)
    digest = digest_of(data, function)
    assert await local_store.write_one(digest, data) is True
    assert await local_store.find_missing([digest]) == set()
    assert await read(local_store, digest) == data
    for _ in range(2):
        assert await local_store.write_one(digest, data) is False


@pytest.mark.parametrize("size", SMALL_SIZES)
async def test_wrong_bytes_written_at_once_matter_only_where_the_blob_is_not_held(
    local_store: LocalStore, size: int
) -> None:
    data = bytes_of(size)
    digest = digest_of(data)
    for wrong in (data[:-1] + b"\xff", data[:-1], data + b"x"):
        with pytest.raises(DigestMismatch):
            await local_store.write_one(digest, wrong)
        assert await local_store.find_missing([digest]) == {digest}
    await local_store.write(digest, chunks(data))
    assert await local_store.write_one(digest, b"wrong") is False
    assert await read(local_store, digest) == data


@pytest.mark.parametrize("size", SMALL_SIZES)
async def test_those_who_write_a_blob_at_once_store_it_together(
    local_store: LocalStore, size: int
) -> None:
    data = bytes_of(size)
    writing = [local_store.write_one(digest_of(data), data) for _ in range(8)]
    assert any(await asyncio.gather(*writing))
    assert await read(local_store, digest_of(data)) == data


@pytest.mark.parametrize("size", SIZES)
async def test_an_ingest_of_what_is_held_already_ends_well(
    local_store: LocalStore, size: int
) -> None:
    data = bytes_of(size)
    first, second = local_store.begin(digest_of(data)), local_store.begin(digest_of(data))
    for ingest in (first, second):
        await ingest.append(data)
    assert [await first.commit(), await second.commit()] == [True, False]
    assert await read(local_store, digest_of(data)) == data


@pytest.mark.parametrize("size", SIZES)
async def test_an_empty_piece_changes_nothing_wherever_it_comes(
    local_store: LocalStore, size: int
) -> None:
    data = bytes_of(size)
    ingest = local_store.begin(digest_of(data))
    for piece in (b"", data[:-1], b"", data[-1:], b""):
        await ingest.append(piece)
    assert await ingest.commit()
    assert await read(local_store, digest_of(data)) == data


@pytest.mark.parametrize(
    "parts",
    [(b"wr", b"ong"), (b"righ",), (b"rightx",), (b"right", b"x"), ()],
    ids=["other", "short", "long", "long-late", "nothing"],
)
@pytest.mark.parametrize("pad", [0, 100_000])
async def test_a_write_that_fails_verification_leaves_no_trace(
    store: Store, parts: tuple[bytes, ...], pad: int
) -> None:
    wanted = digest_of(b"p" * pad + b"right")
    sent = (b"p" * pad, *parts) if pad and parts else parts
    with pytest.raises(DigestMismatch):
        await store.write(wanted, chunks(*sent))
    with pytest.raises(BlobNotFound):
        await read(store, wanted)
    assert await store.find_missing([wanted]) == {wanted}


async def test_a_writer_s_own_error_passes_and_nothing_stays(store: Store) -> None:
    data = bytes_of(100_000)

    async def broken() -> AsyncIterator[bytes]:
        yield data[:50_000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.write(digest_of(data), broken())
    assert await store.find_missing([digest_of(data)]) == {digest_of(data)}


async def test_an_aborted_ingest_stores_nothing(local_store: LocalStore) -> None:
    data = bytes_of(100_000)
    ingest = local_store.begin(digest_of(data))
    await ingest.append(data)
    assert ingest.received_bytes == len(data)
    await ingest.abort()
    await ingest.abort()
    assert await local_store.find_missing([digest_of(data)]) == {digest_of(data)}


async def test_an_overrun_is_refused_before_it_is_stored(local_store: LocalStore) -> None:
    ingest = local_store.begin(digest_of(b"12345"))
    await ingest.append(b"123")
    with pytest.raises(DigestMismatch):
        await ingest.append(b"456")
    assert ingest.received_bytes == 3
    await ingest.append(b"45")
    assert await ingest.commit() is True


async def test_what_is_received_can_be_read_while_more_arrives(local_store: LocalStore) -> None:
    data = bytes_of(300_000)
    ingest = local_store.begin(digest_of(data))
    await ingest.append(data[:100_000])
    growing = await ingest.open_growing()
    assert await growing.read(50_000, 10_000) == data[50_000:60_000]
    await ingest.append(data[100_000:])
    assert await growing.read(90_000, 20_000) == data[90_000:110_000]
    await ingest.commit()
    assert await growing.read(290_000, 10_000) == data[290_000:]
    await growing.close()
    await growing.close()


async def test_the_empty_blob_is_always_held(store: Store) -> None:
    assert await store.find_missing([EMPTY]) == set()
    assert await read(store, EMPTY) == b""
    assert await store.read_small([EMPTY]) == [b""]
    assert await store.write(EMPTY, chunks()) is False
    assert await store.write_small([(EMPTY, b"")]) == [None]


async def test_size_zero_with_another_hash_is_missing_and_refused(store: Store) -> None:
    odd = digest_of(b"x")._replace(size_bytes=0)
    assert await store.find_missing([odd]) == {odd}
    with pytest.raises(BlobNotFound):
        await read(store, odd)
    (refused,) = await store.write_small([(odd, b"")])
    assert isinstance(refused, DigestMismatch)


@pytest.mark.parametrize("size", [10, 100_000])
async def test_the_same_hash_with_another_size_is_another_blob(store: Store, size: int) -> None:
    data = bytes_of(size)
    digest = digest_of(data)
    await store.write(digest, chunks(data))
    for off in (digest._replace(size_bytes=size - 1), digest._replace(size_bytes=size + 1)):
        assert await store.find_missing([off, digest]) == {off}
        assert await store.read_small([off]) == [None]
        with pytest.raises(BlobNotFound):
            await read(store, off)


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("error_bytes", [-1, 1])
async def test_right_bytes_with_a_wrong_size_are_refused_as_a_batch_and_as_a_stream(
    store: Store, size: int, error_bytes: int
) -> None:
    data = bytes_of(size)
    digest = digest_of(data)
    off = digest._replace(size_bytes=size + error_bytes)
    (refused,) = await store.write_small([(off, data)])
    assert isinstance(refused, DigestMismatch)
    with pytest.raises(DigestMismatch):
        await store.write(off, chunks(data))
    assert await store.find_missing([off, digest]) == {off, digest}


async def test_functions_never_mix(store: Store) -> None:
    data = bytes_of(1000)
    digest = digest_of(data, DigestFunction.BLAKE3)
    await store.write(digest, chunks(data))
    asked = digest._replace(function=DigestFunction.SHA256)
    assert await store.find_missing([asked]) == {asked}


@pytest.mark.parametrize("size", [1000, 5_000_000])
async def test_offset_and_limit_cut_exactly(store: Store, size: int) -> None:
    data = bytes_of(size)
    digest = digest_of(data)
    await store.write(digest, chunks(data))
    for offset, limit in [(0, 1), (7, 100), (size - 3, 100), (size, 5), (1, size)]:
        assert await read(store, digest, offset=offset, limit=limit) == data[offset:][:limit]
    assert await read(store, digest, offset=size // 3) == data[size // 3 :]


@pytest.mark.parametrize("offset", [-1, 1001])
async def test_an_offset_outside_is_refused_on_entry(store: Store, offset: int) -> None:
    data = bytes_of(1000)
    await store.write(digest_of(data), chunks(data))
    with pytest.raises(OffsetOutside):
        await read(store, digest_of(data), offset=offset)


@pytest.mark.disk
async def test_chunks_have_the_size_asked_for(local_store: LocalStore) -> None:
    data = bytes_of(CHUNK_BYTES * 2 + 5)
    await local_store.write(digest_of(data), chunks(data))
    sizes = iter([1, 10, 100_000, CHUNK_BYTES * 9, *[1_000_000] * 9])
    async with local_store.open_read(digest_of(data), next_bytes=lambda: next(sizes)) as stream:
        seen = [chunk async for chunk in stream]
    assert [len(chunk) for chunk in seen[:4]] == [1, 10, 100_000, CHUNK_BYTES]
    assert b"".join(seen) == data


@pytest.mark.disk
async def test_chunks_are_as_small_as_asked_and_never_empty(store: Store) -> None:
    data = bytes_of(CHUNK_BYTES * 2 + 5)
    await store.write(digest_of(data), chunks(data))
    asked = [1, 10, 100_000, CHUNK_BYTES * 9]
    wanted: list[int] = []

    def next_bytes() -> int:
        wanted.append(asked[len(wanted)] if len(wanted) < len(asked) else 1_000_000)
        return wanted[-1]

    async with store.open_read(digest_of(data), next_bytes=next_bytes) as stream:
        seen = [chunk async for chunk in stream]
    assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in seen)
    assert all(len(chunk) <= most for chunk, most in zip(seen, wanted, strict=False))
    assert b"".join(seen) == data


async def test_batches_answer_in_order_with_duplicates_and_absent_ones(store: Store) -> None:
    blobs = [(digest_of(bytes_of(n)), bytes_of(n)) for n in (1, 50, 80_000, 50)]
    bad = digest_of(b"right")
    outcome = await store.write_small([*blobs, (bad, b"wrong"), (bad, b"short ")])
    assert outcome[:4] == [None] * 4
    assert all(isinstance(error, DigestMismatch) for error in outcome[4:])
    asked = [blobs[2][0], bad, blobs[0][0], blobs[0][0]]
    assert await store.read_small(asked) == [blobs[2][1], None, blobs[0][1], blobs[0][1]]


async def test_one_digest_good_and_bad_in_a_batch_is_stored(store: Store) -> None:
    digest = digest_of(b"right")
    bad, good = await store.write_small([(digest, b"wrong"), (digest, b"right")])
    assert isinstance(bad, DigestMismatch)
    assert good is None
    assert await store.read_small([digest]) == [b"right"]


@pytest.mark.parametrize("size", [1000, 300_000])
async def test_many_writers_of_one_blob_all_succeed(store: Store, size: int) -> None:
    data = bytes_of(size)
    digest = digest_of(data)
    outcomes = await asyncio.gather(*(store.write(digest, chunks(data)) for _ in range(20)))
    assert outcomes.count(True) == 1
    assert await read(store, digest) == data


@pytest.mark.parametrize("size", [1000, 300_000])
async def test_a_cancelled_write_stores_all_or_nothing(store: Store, size: int) -> None:
    data = bytes_of(size)
    digest = digest_of(data)
    for steps in range(12):
        task = asyncio.ensure_future(store.write(digest, chunks(data[:10], data[10:])))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not await store.find_missing([digest]):
            assert await read(store, digest) == data


async def test_a_reader_that_leaves_early_harms_nobody(store: Store) -> None:
    data = bytes_of(6_000_000)
    await store.write(digest_of(data), chunks(data))
    async with store.open_read(digest_of(data)) as stream:
        async for _ in stream:
            break
    assert await read(store, digest_of(data)) == data


async def test_names_are_missing_where_their_digests_are(local_store: LocalStore) -> None:
    held = [digest_of(bytes_of(size)) for size in (5, 200_000)]
    await local_store.write_small([(digest, bytes_of(digest.size_bytes)) for digest in held])
    off, absent = held[0]._replace(size_bytes=6), digest_of(b"absent")
    names = {b"%s/%d" % (d.hash_hex.encode(), d.size_bytes): d for d in (*held, off, absent)}
    spelling = DigestCodec(
        lambda some: [names[name].hash for name in some], lambda name: names[name].size_bytes
    )
    for _ in range(2):
        missing = await local_store.find_missing_named(list(names), spelling)
        assert {names[name] for name in missing} == {off, absent}
    await local_store.write_small([(absent, b"absent")])
    missing = await local_store.find_missing_named(list(names), spelling)
    assert {names[name] for name in missing} == {off}
