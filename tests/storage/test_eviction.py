"""Which objects eviction takes first, its second look, and how files go."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from federation.core.digest import Digest, digest_of
from federation.core.errors import StorageFull
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.core.uses import Peek
from federation.storage import publishing
from federation.storage.catalogue import blobs, eviction_rows, schema
from federation.storage.catalogue.blobs import key_of
from federation.storage.catalogue.transaction import Totals, Transaction
from federation.storage.storage import Storage
from federation.storage.upkeep import discarding
from tests.storage.conftest import MIB, opened, put, read, short, until

Opener = Callable[..., Awaitable[Storage]]
PULLED = Provenance(Source.UPSTREAM, origin="there")


async def age_all(storage: Storage) -> None:
    """Let so much time pass that no lease runs; for other processes and later ones, too."""
    await storage.flusher.flush()
    storage.core.store_clock._base_ms += 9_000_000
    base_ms = storage.core.store_clock._base_ms
    await storage.core.writer.submit(
        lambda tx: tx.connection.execute(
            "UPDATE meta SET value = ? WHERE name = 'clock_base_ms'", (base_ms,)
        ).fetchall()
    )
    storage.core.epoch.bump()


async def held(storage: Storage, digests: list[Digest]) -> list[Digest]:
    missing = await Peek(storage).find_missing(digests)
    return [digest for digest in digests if digest not in missing]


async def pull(storage: Storage, data: bytes) -> Digest:
    await storage.write_small([(digest_of(data), data)], provenance=PULLED)
    return digest_of(data)


@pytest.mark.parametrize("size", [1000, 80_000])
async def test_p3_what_an_upstream_can_give_again_goes_first(
    open_storage: Opener, size: int
) -> None:
    storage = await open_storage(short(lease=3600))
    pushed = [await put(storage, os.urandom(size)) for _ in range(10)]
    pulled = [await pull(storage, os.urandom(size)) for _ in range(10)]
    await age_all(storage)
    left = storage.core.space.stored_bytes * 6 // 10
    await storage.maintenance.evict(left)
    assert await held(storage, pushed) == pushed
    assert 0 < len(await held(storage, pulled)) < 6
    await storage.maintenance.evict(0)
    assert await held(storage, pulled + pushed) == []


async def test_what_was_pulled_and_then_pushed_is_no_longer_pulled(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=3600))
    both, pulled = await pull(storage, b"both" * 900), await pull(storage, b"only pulled" * 900)
    assert await storage.accept_held(both)
    await age_all(storage)
    await storage.maintenance.evict(storage.core.space.stored_bytes - 1)
    assert await held(storage, [both, pulled]) == [both]


async def test_pulled_entries_go_before_pushed_ones(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=3600))
    keys = [EntryKey(EntryKind.ASSET_BLOB, "", bytes([n]) * 32) for n in range(2)]
    await storage.put([Entry(keys[0], b"v" * 5000, "pushed")])
    await storage.put([Entry(keys[1], b"v" * 5000, "pulled")], provenance=PULLED)
    await age_all(storage)
    await storage.maintenance.evict(storage.core.space.stored_bytes - 1)
    assert [entry and entry.label for entry in await storage.get(keys)] == ["pushed", None]


@pytest.mark.parametrize("look", ["use", "lease"])
async def test_the_second_look_sees_what_was_touched_since_the_mark(
    open_storage: Opener, look: str
) -> None:
    storage = await open_storage(short(lease=3600))
    await storage.flusher._background.close()  # it flushes below, and not before the mark
    touched, other = await put(storage, b"touched"), await put(storage, b"other")
    await age_all(storage)
    # Leased before the mark, by a process that has not written it yet.
    now_ms = storage.core.now_ms()
    if look == "use":
        storage.core.touches.blobs([key_of(touched)], now_ms)
    else:
        storage.core.touches.leased([key_of(touched)], now_ms)
    await storage.maintenance.evict(0)
    assert await held(storage, [touched, other]) == []
    await storage.flusher.flush()
    await _let_marks_age(storage)
    await storage.maintenance.delete_due()
    assert await held(storage, [touched, other]) == [touched]
    assert await read(storage, touched) == b"touched"


async def _let_marks_age(storage: Storage) -> None:
    grace_ms = storage.core.timing.grace_ms
    await storage.core.writer.submit(
        lambda tx: tx.connection.execute(
            f"UPDATE blob SET marked = max(1, marked - {grace_ms}) WHERE marked > 0"
        ).fetchall()
    )


@pytest.mark.parametrize("column", ["used", "leased"])
def test_a_mark_that_a_touch_left_behind_deletes_nothing(tmp_path: Path, column: str) -> None:
    connection = schema.connect(tmp_path / "c.sqlite")
    schema.bring_up(connection)
    tx = Transaction(connection, 1000, 0.0, Totals(), 2**60, "here")
    for name in (b"touched", b"other"):
        blobs.insert(tx, key_of(digest_of(name)), 1, None, 0, FROM_CLIENT)
    connection.execute("UPDATE blob SET marked = 5000")
    connection.execute(
        f"UPDATE blob SET {column} = 4900 WHERE key = ?", (key_of(digest_of(b"touched")),)
    )
    gone = eviction_rows.delete_marked(tx, 5000, 4000, 10)
    assert [row.key for row in gone] == [key_of(digest_of(b"other"))]
    assert eviction_rows.delete_marked(tx, 4999, 9999, 10) == [], "it was not marked by then"
    connection.close()


async def test_what_one_process_marked_any_other_deletes_in_time(tmp_path: Path) -> None:
    """Also after an error in between, or when who marked it is gone."""
    async with opened(tmp_path, short(lease=3600)) as first:
        digests = [await put(first, b"%d" % n * 1000) for n in range(5)]
        await age_all(first)
        await first.maintenance.evict(0)
        submit = first.core.writer.submit

        async def refuse(*_: object) -> object:
            raise StorageFull("no room")

        await _let_marks_age(first)
        first.core.writer.submit = refuse  # type: ignore[method-assign,assignment]
        with pytest.raises(StorageFull):
            await first.maintenance.delete_due()
        first.core.writer.submit = submit  # type: ignore[method-assign]
        async with opened(tmp_path, short(lease=3600)) as second:
            await second.maintenance.delete_due()
            assert second.core.writer.totals.blobs == 0
            assert await held(second, digests) == []


async def test_files_are_removed_outside_of_the_writer(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage(short(lease=3600))
    threads: list[str] = []
    discard = publishing.discard

    def noted(*arguments: object) -> bool:
        threads.append(threading.current_thread().name)
        return discard(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(discarding, "discard", noted)
    for _ in range(120):
        await put(storage, os.urandom(80_000))
    await age_all(storage)
    await storage.maintenance.evict(0)
    await _let_marks_age(storage)
    await storage.maintenance.delete_due()
    assert len(threads) == 120
    assert "catalogue-writer" not in threads
    assert list(storage.core.directory.blob_files()) == []
    assert not any(storage.core.directory.incoming.iterdir())


async def test_s37_a_late_removal_does_not_hit_what_was_uploaded_again(
    open_storage: Opener,
) -> None:
    storage = await open_storage(short(lease=3600))
    data = os.urandom(100_000)
    digest = await put(storage, data)
    assert await discarding.Discarder(storage.core).discard_blobs([digest]) == 0
    assert await read(storage, digest) == data


async def test_p5_nothing_is_evicted_for_a_lease_after_a_killed_process(tmp_path: Path) -> None:
    """Though nothing that is held was used for long, as far as anybody has written."""
    settings = short(lease=30.0)
    for killed in (False, True):
        path = tmp_path / str(killed)
        async with opened(path, settings) as storage:
            digest = await put(storage, b"old")
            await age_all(storage)
            run = storage.core.run
            if killed:
                (storage.core.directory.run / "deadbeef.lock").touch()
        async with opened(path, settings) as storage:
            assert run.id != storage.core.run.id
            marked = await storage.maintenance.evict(0)
            assert (await held(storage, [digest]) == [digest]) is killed
            assert (marked == 0) is killed, storage.maintenance.held_back


@pytest.mark.parametrize("how", ["refused", "cancelled"])
async def test_touches_of_a_failed_flush_are_written_by_the_next(
    open_storage: Opener, how: str
) -> None:
    storage = await open_storage(short(lease=3600))
    used, leased = await put(storage, b"used"), await put(storage, b"leased")
    key = EntryKey(EntryKind.ASSET_BLOB, "", b"k" * 32)
    await storage.put([Entry(key, b"v", "uri")])
    await age_all(storage)
    await storage.flusher.close()  # no flush but those below
    now_ms = storage.core.now_ms()
    touches, submit = storage.core.touches, storage.core.writer.submit
    touches.blobs([key_of(used)], now_ms)
    touches.leased([key_of(leased)], now_ms)
    touches.entry(1, now_ms)
    touches.verified(key_of(used), now_ms + 5, 0)

    async def fail(*_: object) -> object:
        if how == "refused":
            raise StorageFull("no room")
        raise KeyboardInterrupt

    storage.core.writer.submit = fail  # type: ignore[method-assign,assignment]
    if how == "refused":
        await storage.flusher.flush()
    else:
        with pytest.raises(KeyboardInterrupt):
            await storage.flusher.flush()
    storage.core.writer.submit = submit  # type: ignore[method-assign]
    await storage.flusher.flush()
    connection = storage.core.pool.connection()
    rows = blobs.look_up(connection, [key_of(used), key_of(leased)])
    assert rows[key_of(used)].used_ms == now_ms
    assert rows[key_of(used)].verified_ms == now_ms + 5
    assert rows[key_of(leased)].leased_ms == now_ms
    assert connection.execute("SELECT used FROM entry").fetchall() == [(now_ms,)]


async def test_uploads_go_on_while_much_is_evicted(open_storage: Opener) -> None:
    storage = await open_storage(short(lease=0.2, quota=16 * MIB))
    for _ in range(40):
        await storage.write_small(
            [(digest_of(data), data) for data in (os.urandom(80_000) for _ in range(40))]
        )

    async def fits() -> bool:
        return storage.core.space.stored_bytes <= 16 * MIB

    await until(fits)
    assert storage.core.space.stored_bytes > 0
