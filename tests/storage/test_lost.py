"""Lost blobs: what is set aside is due at once, and back only when it is held again."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest

from federation.config.model import StorageConfig
from federation.core.digest import Digest, digest_of
from federation.core.errors import BlobNotFound
from federation.core.lost_blobs import Attempt
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.storage.admin.summary import summary
from federation.storage.catalogue import lost
from federation.storage.catalogue.blobs import key_of
from federation.storage.storage import Storage
from tests.storage.conftest import opened, read, short

Opener = Callable[..., Awaitable[Storage]]
SIZE = 200_000
BY_HUB = Provenance(Source.UPSTREAM, origin="hub")
FROM_TOKYO = Provenance(Source.UPSTREAM, ("tokyo-id",), "tokyo")


async def store(storage: Storage, data: bytes, came: Provenance = FROM_CLIENT) -> Digest:
    assert await storage.write_small([(digest_of(data), data)], provenance=came) == [None]
    return digest_of(data)


def _damage(path: str) -> None:
    Path(path).write_bytes(bytes(SIZE))


async def lose(storage: Storage, data: bytes, came: Provenance = FROM_CLIENT) -> Digest:
    """Store a blob in a file, damage the file and read it."""
    digest = await store(storage, data, came)
    _damage(storage.core.directory.blob_path(digest))
    with pytest.raises(BlobNotFound):
        await read(storage, digest)
    return digest


def now_s(storage: Storage) -> float:
    return storage.core.clock.wall_s()


async def due(storage: Storage, later_s: float = 0.0) -> list[Digest]:
    found = await storage.lost.due(now_s(storage) + later_s, 100)
    return [each.digest for each in found.due]


async def test_what_a_read_set_aside_is_due_at_once_and_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as storage:
        digest = await lose(storage, os.urandom(SIZE), BY_HUB)
    async with opened(tmp_path, short()) as storage:
        (found,) = (await storage.lost.due(now_s(storage), 100)).due
        assert (found.digest, found.source, found.tries) == (digest, Source.UPSTREAM, 0)
        assert found.found_at_s == pytest.approx(now_s(storage), abs=600)


async def test_a_failed_attempt_puts_a_blob_off_and_counts(open_storage: Opener) -> None:
    storage = await open_storage()
    one, other = [await lose(storage, os.urandom(SIZE)) for _ in range(2)]
    await storage.lost.put_off([Attempt(one, now_s(storage) + 1000, "hub: down")])
    assert await due(storage) == [other]
    assert set(await due(storage, 1001)) == {one, other}
    (shown, _) = summary(storage.core.directory.root, StorageConfig())["healing"]["lost-blobs"][
        ::-1
    ]
    assert (shown["digest"], shown["tries"], shown["answers"]) == (str(one), 1, "hub: down")
    await storage.lost.put_off([Attempt(one, None, "hub: down")])
    assert await due(storage, 1e9) == [other]
    healing = summary(storage.core.directory.root, StorageConfig())["healing"]
    assert (healing["lost"], healing["healed"]) == (1, 0)


async def test_a_clock_that_was_set_back_holds_nothing_up(open_storage: Opener) -> None:
    storage = await open_storage()
    digest = await lose(storage, os.urandom(SIZE))
    await storage.lost.put_off([Attempt(digest, now_s(storage) + 10, "")])
    assert await due(storage, -86_400) == [digest]


async def test_only_what_is_held_again_is_noted_as_back(open_storage: Opener) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await lose(storage, data)
    assert await storage.lost.note_back([digest]) == {}
    assert await due(storage) == [digest]
    await store(storage, data, BY_HUB)
    assert (await storage.lost.due(now_s(storage), 100)).lost == 0
    assert await storage.lost.note_back([digest]) == {digest: "hub"}
    assert await due(storage) == []
    assert await storage.lost.note_back([digest]) == {}
    (shown,) = summary(storage.core.directory.root, StorageConfig())["healing"]["healed-blobs"]
    assert (shown["digest"], shown["from"]) == (str(digest), "hub")


async def test_a_pushed_blob_stays_pushed_and_knows_the_peer_that_gave_it_back(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await lose(storage, data)
    await store(storage, data, FROM_TOKYO)
    assert await storage.lost.note_back([digest]) == {digest: "tokyo"}
    rows, _ = await storage.ledger.read(0, 10)
    assert [(row.source, row.via) for row in rows] == [
        (Source.CLIENT, ()),
        (Source.UPSTREAM, ("tokyo-id",)),
        (Source.CLIENT, ("tokyo-id",)),
    ]
    page = await storage.ledger.blobs(None, 10)
    assert (list(page.digests), set(page.pulled)) == ([digest], set())


async def test_a_pulled_blob_stays_pulled_and_is_logged_once_more_only(
    open_storage: Opener,
) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await lose(storage, data, BY_HUB)
    await store(storage, data, BY_HUB)
    assert await storage.lost.note_back([digest]) == {digest: "hub"}
    rows, _ = await storage.ledger.read(0, 10)
    assert [row.source for row in rows] == [Source.UPSTREAM] * 2


async def test_a_blob_that_is_lost_again_is_due_again(open_storage: Opener) -> None:
    storage = await open_storage()
    data = os.urandom(SIZE)
    digest = await lose(storage, data)
    await storage.lost.put_off([Attempt(digest, now_s(storage) + 1000, "")])
    await lose(storage, data)
    (found,) = (await storage.lost.due(now_s(storage), 100)).due
    assert (found.digest, found.tries) == (digest, 0)


async def test_the_record_is_bounded_and_those_that_are_back_go_first(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost, "KEPT_MAX", 2)
    storage = await open_storage()
    data = [os.urandom(SIZE) for _ in range(4)]
    first, second = [await lose(storage, each) for each in data[:2]]
    await store(storage, data[1])
    await storage.lost.note_back([second])
    third = await lose(storage, data[2])
    assert set(await due(storage)) == {first, third}
    fourth = await lose(storage, data[3])
    assert set(await due(storage)) == {third, fourth}


async def test_what_is_forgotten_is_not_asked_for(open_storage: Opener) -> None:
    storage = await open_storage()
    digest = await lose(storage, os.urandom(SIZE))
    await storage.core.writer.submit(lambda tx: lost.forget(tx, [key_of(digest)]))
    assert await due(storage) == []


async def test_one_process_fetches_and_another_takes_over(tmp_path: Path) -> None:
    async with opened(tmp_path, short()) as one:
        assert one.fetching.try_to_lead()
        assert one.fetching.holds_lead()
        async with opened(tmp_path, short()) as other:
            assert not other.fetching.try_to_lead()
            one.fetching.close()
            assert other.fetching.try_to_lead()


async def test_damaged_values_of_the_record_are_damage(open_storage: Opener) -> None:
    storage = await open_storage()
    await lose(storage, os.urandom(SIZE))
    connection = apsw.Connection(str(storage.core.directory.catalogue))
    connection.execute("UPDATE lost SET source = 99")
    with pytest.raises(apsw.CorruptError):
        lost.due(connection, 1e12, 10)
    connection.close()
