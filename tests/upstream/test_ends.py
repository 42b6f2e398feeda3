"""How a pull that fails ends for those who read it, and for those who come right behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation.core.errors import SourceUnavailable
from federation.core.store import Chunks
from federation.storage.ingest import LocalIngest
from tests.upstream.fakes import Script, until, upstream
from tests.upstream.test_pull import BLOB, DATA, SIZE, node, read


async def test_a_read_that_breaks_after_its_first_bytes_is_no_miss(tmp_path: Path) -> None:
    up, there = upstream("a", Script(break_at=[SIZE // 2] * 5))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _), store.open_read(BLOB) as chunks:
        assert DATA.startswith(await anext(chunks))
        with pytest.raises(SourceUnavailable):
            await rest_of(chunks)


async def rest_of(chunks: Chunks) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_u11_who_comes_right_behind_the_last_reader_has_a_pull_of_its_own(
    tmp_path: Path,
) -> None:
    up, there = upstream("a", Script(stall_at=SIZE // 10))
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, _), asyncio.timeout(60):
        async with store.open_read(BLOB) as chunks:
            async for _ in chunks:
                break
            there.script = Script()
        assert await read(store) == DATA


async def test_readers_do_not_wait_for_a_pull_that_failed_in_an_unforeseen_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("unforeseen")

    up, there = upstream("a")
    there.blobs[BLOB] = DATA
    async with node(tmp_path, up) as (store, _, shared), asyncio.timeout(60):
        monkeypatch.setattr(LocalIngest, "_write", broken)
        with pytest.raises(SourceUnavailable, match="stopped"):
            await read(store)
        await until(lambda: not shared.pulls._pulls)
