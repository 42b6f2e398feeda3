"""One object that arrives from many sides at once (R25)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation.core.digest import digest_of
from federation.core.index import Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import Provenance, Source
from federation.storage.catalogue.hlc import ticks_at
from federation.storage.storage import Storage
from tests.storage.conftest import opened, read, short

FROM = [
    Provenance(),
    *(Provenance(Source.PEER, via=("origin", name)) for name in ("paris", "tokyo", "lima")),
]
KEY = EntryKey(EntryKind.ACTION_RESULT, "", b"action")


async def upload(storage: Storage, data: bytes, provenance: Provenance) -> bool:
    """In pieces, so that all are under way together."""
    ingest = storage.begin(digest_of(data), provenance=provenance)
    try:
        for at in range(0, len(data), 50_000):
            await ingest.append(data[at : at + 50_000])
            await asyncio.sleep(0)
        return await ingest.commit()
    finally:
        await ingest.abort()


@pytest.mark.parametrize("size", [100, 200_000])
async def test_r25_a_blob_from_three_peers_and_a_client_is_stored_and_logged_once(
    tmp_path: Path, size: int
) -> None:
    data = b"x" * size
    async with opened(tmp_path, short()) as storage:
        stored = await asyncio.gather(*(upload(storage, data, each) for each in FROM))
        assert sorted(stored) == [False, False, False, True]
        refused = await asyncio.gather(
            *(storage.write_small([(digest_of(data), data)], provenance=each) for each in FROM)
        )
        assert refused == [[None]] * 4
        assert await read(storage, digest_of(data)) == data
        rows, _ = await storage.ledger.read(0, 10)
        assert [row.digest for row in rows] == [digest_of(data)]
        assert storage.core.writer.totals.blobs == 1
        assert storage.core.space.reserved_bytes == 0


async def test_r25_so_is_an_entry_whichever_comes_first(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        for n, order in enumerate((FROM, FROM[::-1])):
            key = KEY._replace(name=b"%d" % n)
            pushed_before = Stamp(ticks_at(storage.core.clock.wall_s() - 60), "origin")
            entry = Entry(key, b"result", "action", stamp=pushed_before)
            await asyncio.gather(*(storage.put([entry], provenance=each) for each in order))
            rows, _ = await storage.ledger.read(n, 10)
            assert [row.key for row in rows] == [key]


async def test_r25_and_different_values_end_as_the_latest(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        now = ticks_at(storage.core.clock.wall_s())
        entries = [
            Entry(KEY, b"%d" % n, "action", stamp=Stamp(now + (n << 16), "origin"))
            for n in range(1, 20)
        ]
        await asyncio.gather(
            *(storage.put([entry], provenance=FROM[1]) for entry in (*entries[9:], *entries[:9]))
        )
        (held,) = await storage.get([KEY])
        assert held is not None
        assert (held.value, held.stamp) == (b"19", entries[-1].stamp)
        assert storage.core.writer.totals.entries == 1
