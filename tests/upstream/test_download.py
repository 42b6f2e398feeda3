"""The bytes of one blob from several upstreams: who is asked, who is let go, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.store import Chunks, NextBytes
from federation.upstream.candidates import Candidates, MixedBlobs
from federation.upstream.download import Download, NobodyLeft
from federation.upstream.upstream import Upstream
from tests.upstream.fakes import Script, ScriptedStore, until, upstream

DATA = bytes(300_000)
BLOB = digest_of(DATA)


class CountingStore(ScriptedStore):
    """Opens when it may, and counts the reads that are open."""

    def __init__(self, name: str, may_open: asyncio.Event) -> None:
        super().__init__(name)
        self.may_open = may_open
        self.open_reads = 0
        self.blobs[BLOB] = DATA

    @asynccontextmanager
    async def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AsyncIterator[Chunks]:
        opened = super().open_read(digest, offset=offset, limit=limit, next_bytes=next_bytes)
        async with opened as chunks:
            await self.may_open.wait()
            self.open_reads += 1
            try:
                yield chunks
            finally:
                self.open_reads -= 1


def counting(may_open: asyncio.Event) -> tuple[list[Upstream], list[CountingStore]]:
    """Return two upstreams of which the second is asked at once, too."""
    stores = [CountingStore(name, may_open) for name in "ab"]
    upstreams = []
    for store in stores:
        made, _ = upstream(store.name, hedge_delay_s=0.001)
        made.store = store
        upstreams.append(made)
    return upstreams, stores


def download(*upstreams: Upstream) -> Download:
    return Download(BLOB, Candidates(BLOB, upstreams, MixedBlobs()), SystemClock())


class LyingStore(ScriptedStore):
    """Sends these bytes as one chunk, whatever the blob is, and ends the read well."""

    def __init__(self, name: str, sends: bytes) -> None:
        super().__init__(name)
        self.sends = sends

    @asynccontextmanager
    async def open_read(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        limit: int | None = None,
        next_bytes: NextBytes | None = None,
    ) -> AsyncIterator[Chunks]:
        self.reads.append((digest, offset))

        async def chunks() -> AsyncIterator[bytes]:
            yield self.sends

        yield chunks()


def lying(name: str, sends: bytes) -> Upstream:
    made, _ = upstream(name)
    made.store = LyingStore(name, sends)
    return made


async def test_u03_bytes_beyond_the_end_of_the_blob_are_cut_off() -> None:
    wanted = download(lying("a", DATA + b"more"))
    assert b"".join([chunk async for chunk in wanted.chunks()]) == DATA


async def test_a_read_that_ends_well_too_early_is_continued_by_the_next() -> None:
    short = lying("a", DATA[:100_000])
    second, good = upstream("b")
    good.blobs[BLOB] = DATA
    wanted = download(short, second)
    assert b"".join([chunk async for chunk in wanted.chunks()]) == DATA
    assert good.reads == [(BLOB, 100_000)]
    assert short.breaker.failures == 1


async def test_of_two_reads_that_open_at_the_same_moment_one_is_closed_at_once() -> None:
    may_open = asyncio.Event()
    upstreams, stores = counting(may_open)
    async with aclosing(download(*upstreams).chunks()) as chunks:
        first = asyncio.ensure_future(anext(chunks))
        await until(lambda: all(store.reads for store in stores))
        may_open.set()
        assert DATA.startswith(await first)
        assert sum(store.open_reads for store in stores) == 1
    assert sum(store.open_reads for store in stores) == 0


async def test_a_download_that_is_left_while_upstreams_open_leaves_no_read_open() -> None:
    may_open = asyncio.Event()
    upstreams, stores = counting(may_open)
    for turns in range(12):
        may_open.clear()
        for store in stores:
            store.reads.clear()
        chunks = download(*upstreams).chunks()
        first = asyncio.ensure_future(anext(chunks))
        await until(lambda: all(store.reads for store in stores))
        may_open.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await chunks.aclose()
        assert [store.open_reads for store in stores] == [0, 0]


async def test_the_next_is_asked_at_once_where_one_lacks_it_and_the_failure_is_told() -> None:
    first, lacking = upstream("a")
    second, broken = upstream("b", Script(break_at=[0]))
    broken.blobs[BLOB] = DATA
    with pytest.raises(NobodyLeft, match="reset"):  # noqa: PT012 - it raises between chunks
        async for _ in download(first, second).chunks():
            pytest.fail("nobody sends any bytes")
    assert [len(lacking.reads), len(broken.reads)] == [1, 1]
    assert first.answers.recall(BLOB, first.clock.monotonic_s()) is False
    assert second.breaker.failures == 1


async def test_a_download_goes_on_at_the_offset_reached_and_knows_who_sent() -> None:
    first, breaking = upstream("a", Script(break_at=[100_000]))
    second, good = upstream("b")
    breaking.blobs[BLOB] = good.blobs[BLOB] = DATA
    wanted = download(first, second)
    assert b"".join([chunk async for chunk in wanted.chunks()]) == DATA
    assert good.reads == [(BLOB, 100_000)]
    assert wanted.senders == [first, second]
