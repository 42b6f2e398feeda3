"""What is remembered of who sent a blob, and what is counted and shown of an upstream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.index import EntryKey, EntryKind
from federation.core.provenance import Source
from federation.storage.catalogue.blobs import key_of
from federation.storage.storage import Storage
from federation.upstream.status import counted, quantile
from federation.upstream.upstream import Upstream
from tests.upstream.fakes import Script, until, upstream
from tests.upstream.test_pull import BLOB, DATA, kept, node, read

SMALL = digest_of(b"small")
INF = float("inf")


async def came_from(storage: Storage, digest: Digest) -> tuple[object, ...]:
    query = "SELECT source, origin FROM log WHERE name = ?"
    pool = storage.core.pool
    (row,) = await pool.run(lambda: pool.connection().execute(query, (key_of(digest),)).fetchall())
    return tuple(row)


def saved(up: Upstream) -> object:
    return counted(up.metrics, up.name)["reads-saved"]


async def test_a_pulled_blob_remembers_which_upstream_sent_it(tmp_path: Path) -> None:
    first, _ = upstream("a")
    second, there = upstream("b")
    there.blobs.update({BLOB: DATA, SMALL: b"small"})
    async with node(tmp_path, first, second) as (store, storage, shared):
        assert await read(store) == DATA
        assert await read(store, SMALL) == b"small"
        await kept(shared)
        for digest in (BLOB, SMALL):
            assert await came_from(storage, digest) == (Source.UPSTREAM, "b")


async def test_a_blob_that_two_upstreams_sent_names_neither(tmp_path: Path) -> None:
    first, one = upstream("a", Script(break_at=[1_000_000]))
    second, two = upstream("b")
    one.blobs[BLOB] = two.blobs[BLOB] = DATA
    async with node(tmp_path, first, second) as (store, storage, shared):
        assert await read(store) == DATA
        await kept(shared)
        assert two.reads == [(BLOB, 1_000_000)]
        assert await came_from(storage, BLOB) == (Source.UPSTREAM, "")


async def test_reads_saved_are_counted_for_the_upstream_that_sends(tmp_path: Path) -> None:
    gate = asyncio.Event()
    first, _ = upstream("a")
    second, there = upstream("b", Script(gate=gate))
    there.blobs.update({BLOB: DATA, SMALL: b"small"})
    async with node(tmp_path, first, second) as (store, _, shared):
        before = [asyncio.ensure_future(read(store)) for _ in range(5)]
        await until(lambda: shared.pulls.joined == 4)
        assert saved(second) == 0  # it might still be another that sends
        before += [asyncio.ensure_future(read(store, SMALL)) for _ in range(3)]
        await until(lambda: shared.small.joined == 2)
        gate.set()
        await asyncio.gather(*before)
        assert (saved(first), saved(second)) == (0, 4 + 2)


def test_what_is_shown_is_counted_apart_for_each_upstream() -> None:
    up, _ = upstream("a")
    up.note(None, [BLOB, SMALL])
    up.note_absent([BLOB])
    up.note_wrong_bytes(BLOB)
    key = EntryKey(EntryKind.ACTION_RESULT, "", b"name")
    up.note_entry([key], found=True)
    up.note_entry([key], found=False)
    for seconds in (0.001, 0.002, 0.2):
        up.metrics.remote_first_byte_seconds.labels(remote="a", method="Read").observe(seconds)
    up.metrics.remote_wrong_bytes.labels(remote="a").inc(2)
    facts = counted(up.metrics, "a")
    assert facts["first-byte-ms"] == {
        "p50": pytest.approx(2, abs=1),
        "p99": pytest.approx(247, abs=4),
    }
    del facts["first-byte-ms"]
    assert facts == {
        "hits": 2,
        "misses": 1,
        "entry-hits": 1,
        "entry-misses": 1,
        "silences": 0,
        "wrong-bytes": 2,
        "received-bytes": 0,
        "reads-saved": 0,
    }
    assert not any(value for key, value in counted(up.metrics, "b").items() if key[0] != "f")


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ([], 0.5, None),
        ([(1.0, 0), (INF, 0)], 0.5, None),
        ([(1.0, 10), (INF, 10)], 0.5, 0.5),
        ([(1.0, 5), (2.0, 10), (INF, 10)], 0.75, 1.5),
        ([(1.0, 0), (2.0, 4), (INF, 4)], 0.99, 1.99),
        ([(1.0, 1), (INF, 100)], 0.99, 1.0),
    ],
)
def test_quantiles(
    buckets: list[tuple[float, float]], share: float, expected: float | None
) -> None:
    found = quantile(buckets, share)
    assert found == (None if expected is None else pytest.approx(expected))
