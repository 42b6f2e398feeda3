"""What was purged here is not brought back by upstreams, nor are they asked for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobNotFound
from federation.core.index import EntryKey
from federation.upstream.pull_through import PullThrough
from federation.wire.asset_request import wanted_by
from tests.upstream.fakes import until
from tests.upstream.finder_site import Here, finder_over, there

URI, OTHER = "urn:test:one", "urn:test:other"
SMALL, LARGE = b"small" * 100, b"large" * 200_000


async def purge(here: Here, *things: Digest | EntryKey) -> None:
    await here.storage.ledger.purges.purge([(each, "") for each in things], "alice")


def key_of(uri: str) -> EntryKey:
    (key,) = wanted_by(asset.FetchBlobRequest(uris=[uri])).keys
    return key


async def read(store: PullThrough, digest: Digest) -> bytes | None:
    try:
        async with store.open_read(digest) as chunks:
            return b"".join([chunk async for chunk in chunks])
    except BlobNotFound:
        return None


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_a_purged_blob_is_not_pulled(tmp_path: Path, data: bytes) -> None:
    up = there([], "up")
    up.store.blobs[digest_of(data)] = data
    async with finder_over(tmp_path, up) as here:
        digest, store = digest_of(data), PullThrough(here.shared, includes_upstreams=True)
        assert await read(store, digest) == data
        await purge(here, digest)
        asked = len(up.store.reads), up.store.finds, up.store.small_reads
        assert await read(store, digest) is None
        assert await store.read_small([digest]) == [None]
        assert await store.find_missing([digest]) == {digest}
        assert (len(up.store.reads), up.store.finds, up.store.small_reads) == asked
        await here.storage.write_small([(digest, data)])
        assert await read(store, digest) == data


async def test_others_are_pulled_beside_a_purged_one(tmp_path: Path) -> None:
    up = there([], "up")
    for data in (SMALL, LARGE, b"other"):
        up.store.blobs[digest_of(data)] = data
    async with finder_over(tmp_path, up) as here:
        store = PullThrough(here.shared, includes_upstreams=True)
        wanted = [digest_of(data) for data in (SMALL, LARGE, b"other")]
        await purge(here, wanted[0])
        assert await store.find_missing(wanted) == {wanted[0]}
        assert await store.read_small(wanted) == [None, LARGE, b"other"]


async def test_a_pull_under_way_ends_without_the_end_of_the_blob(tmp_path: Path) -> None:
    up = there([], "up")
    up.store.script.gate, up.store.script.gate_from = asyncio.Event(), 300_000
    digest = digest_of(LARGE)
    up.store.blobs[digest] = LARGE
    async with finder_over(tmp_path, up) as here:
        store = PullThrough(here.shared, includes_upstreams=True)
        async with store.open_read(digest) as chunks:
            read = [await anext(chunks)]
            await purge(here, digest)
            up.store.script.gate.set()
            with pytest.raises(BlobNotFound):
                read += [chunk async for chunk in chunks]
        await until(lambda: not here.shared.pulls._pulls)
        assert await here.storage.find_missing([digest]) == {digest}


async def test_no_upstream_is_asked_for_a_purged_name(tmp_path: Path) -> None:
    up = there([], "up")
    digest, other = up.names(URI, SMALL), up.names(OTHER, b"other")
    async with finder_over(tmp_path, up, ttl_s=0.0) as here:
        assert await here.fetch(URI) == digest
        asked = up.index.asked
        await purge(here, key_of(URI))
        assert await here.fetch(URI) is None
        assert up.index.asked == asked
        assert await here.fetch(URI, OTHER) is None  # the upstream answers with the first
        del up.index.assets[URI]
        assert await here.fetch(URI, OTHER) == other
        await here.push(URI, b"ours")
        assert await here.fetch(URI) == digest_of(b"ours")


async def test_an_answer_that_a_purge_overtakes_is_neither_kept_nor_given(tmp_path: Path) -> None:
    up = there([], "up")
    up.names(URI, SMALL)
    up.index.gate = asyncio.Event()
    async with finder_over(tmp_path, up) as here:
        asking = asyncio.ensure_future(here.fetch(URI))
        await until(lambda: up.index.asked == 1)
        await purge(here, key_of(URI))
        up.index.gate.set()
        assert await asking is None
        assert await here.held(URI) is None


async def test_an_entry_that_needs_a_purged_blob_is_hidden_wherever_it_is(tmp_path: Path) -> None:
    up = there([], "up")
    digest = up.names(URI, SMALL)
    async with finder_over(tmp_path, up) as here:
        await here.push(OTHER, b"ours")
        assert await here.fetch(OTHER) == digest_of(b"ours")
        assert here.recalled(OTHER) == digest_of(b"ours")  # remembered as whole
        assert await here.fetch(URI) == digest
        await purge(here, digest, digest_of(b"ours"))
        assert here.recalled(OTHER) is None
        assert await here.fetch(OTHER) is None
        assert await here.fetch(URI) is None
        await here.storage.write_small([(digest, SMALL), (digest_of(b"ours"), b"ours")])
        assert await here.fetch(OTHER) == digest_of(b"ours")
        assert await here.fetch(URI) == digest
