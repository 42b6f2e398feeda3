"""What was acknowledged survives a crash of the database, and is not said to where it may not."""

from __future__ import annotations

import asyncio

import pytest

from federation.core.errors import SourceUnavailable
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.uses import Use
from federation.storage.shared.catalogue.flusher import CommitFlusher
from federation.storage.shared.catalogue.rows import Insertion
from tests.storage.shared.site import SiteDatabase, held, leave_out_flushes, store
from tests.support.polling import until

pytestmark = pytest.mark.servers


def crash(database: SiteDatabase) -> None:
    database.server.kill()
    database.server.start()


async def test_what_was_acknowledged_survives_a_crash(database: SiteDatabase) -> None:
    async with database.node() as node:
        assert await store(node, b"1", b"2") == [Insertion.STORED] * 2
        entry = Entry(EntryKey(EntryKind.ASSET_BLOB, "main", b"name"), b"value", "urn:name")
        await node.index.put([entry])
        crash(database)
        assert await held(node, b"1", b"2") == [True, True]
        (found,) = await node.index.get([entry.key])
        assert found is not None
        assert found.value == b"value"


async def test_blobs_that_were_acknowledged_last_survive_a_crash(database: SiteDatabase) -> None:
    async with database.node() as node:
        assert await store(node, b"1", b"2") == [Insertion.STORED] * 2
        crash(database)
        assert await held(node, b"1", b"2") == [True, True]


async def test_control_without_the_flush_a_crash_loses_rows(
    database: SiteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_flushes(monkeypatch)
    async with database.node() as node:
        assert await store(node, b"1", b"2") == [Insertion.STORED] * 2
        crash(database)
        assert await held(node, b"1", b"2") == [False, False]


async def test_present_is_said_of_durable_blobs_only(
    database: SiteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.node() as writer, database.node() as asked:
        with monkeypatch.context() as patch:
            leave_out_flushes(patch)
            await store(writer, b"1")
        assert await held(asked, b"1", use=Use.CLIENT) == [True]  # not acknowledged; durable now
        crash(database)
        assert await held(asked, b"1") == [True]


async def test_the_log_is_read_as_far_as_it_is_durable(
    database: SiteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.node() as writer, database.node() as follower:
        with monkeypatch.context() as patch:
            leave_out_flushes(patch)
            await store(writer, b"1")
        assert [row.seq for row in (await follower.log.read(0, 10)).rows] == [1]
        crash(database)
        assert [row.seq for row in (await follower.log.read(0, 10)).rows] == [1]


async def test_a_crash_between_a_commit_and_its_flush_is_no_acknowledgement(
    database: SiteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flush after the crash works, but the rows are gone."""
    async with database.node() as node:
        with monkeypatch.context() as patch:
            leave_out_flushes(patch)
            await store(node, b"1")
        (life,) = await node.connections.ask_one("SELECT federation_incarnation()")
        crash(database)
        with pytest.raises(SourceUnavailable, match="restarted"):
            await node.flusher.cover(1, life)


async def test_a_restart_in_order_loses_nothing_and_is_not_noticed(database: SiteDatabase) -> None:
    async with database.node() as node:
        await store(node, b"1")
        (life,) = await node.connections.ask_one("SELECT federation_incarnation()")
        database.server.stop()
        database.server.start()
        assert await held(node, b"1", use=Use.CLIENT) == [True]
        assert await node.connections.ask_one("SELECT federation_incarnation()") == (life,)
        assert await store(node, b"2") == [Insertion.STORED]


async def test_many_waiters_share_flushes(database: SiteDatabase) -> None:
    async with database.node() as node:
        (life,) = await node.connections.ask_one("SELECT federation_incarnation()")
        calls: list[str] = []
        ask = node.connections.ask_one

        class Counted:
            async def ask_one(self, statement: str) -> object:
                calls.append(statement)
                return await ask(statement)

        flusher = CommitFlusher(Counted())  # type: ignore[arg-type]
        waiting = [flusher.cover(1, life) for _ in range(50)]
        await asyncio.gather(*waiting)
        assert 1 <= len(calls) <= 2
        await flusher.cover(0, life)
        assert len(calls) <= 2
        await flusher.close()


async def test_the_head_is_what_is_durable_or_polled(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        await store(first, b"1")
        assert first.watch.head() == 1
        await until(lambda: second.watch.head() == 1, "the other node's poll found the row")
        assert await second.watch.wait_beyond(0, 60)
