"""What peers have acknowledged is known at every node of the site."""

from __future__ import annotations

import asyncio

import pytest

from federation.core.replication_log import Lane, PeerRecord, PeerState
from tests.storage.shared.site import SiteDatabase, log_of, store
from tests.support.polling import until

pytestmark = pytest.mark.servers


async def test_an_upload_at_one_node_waits_for_what_the_other_one_replicates(
    database: SiteDatabase,
) -> None:
    async with database.node() as first, database.node() as second:
        replicating, waiting = log_of(first), log_of(second)
        assert not await waiting.wait_acknowledged(5, ["tokyo"], 1, 0)
        wait = asyncio.ensure_future(waiting.wait_acknowledged(5, ["tokyo", "paris"], 1, 60))
        replicating.note_acknowledged("tokyo", Lane.WINDOW, 9)  # nobody waits for the window
        replicating.note_acknowledged("tokyo", Lane.ALWAYS, 4)
        assert await waiting.wait_acknowledged(4, ["tokyo"], 1, 60)
        assert not wait.done()
        replicating.note_acknowledged("tokyo", Lane.ALWAYS, 5)
        assert await wait
        assert not await waiting.wait_acknowledged(5, ["tokyo", "paris"], 2, 0)
        assert await replicating.wait_acknowledged(5, ["tokyo"], 1, 0)  # it knows itself


async def test_what_was_acknowledged_before_the_nodes_started_is_in_the_records(
    database: SiteDatabase,
) -> None:
    async with database.node() as node:
        await store(node, *(b"%d" % n for n in range(7)))
        following = PeerRecord("tokyo", cursor=7, state=PeerState.FOLLOWING, reason="")
        await node.peers.save(None, [following, following._replace(name="paris", reason="new",
                                     state=PeerState.NEEDS_RESYNC)])  # fmt: skip
    async with database.node() as node:
        log = log_of(node)
        assert await log.wait_acknowledged(7, ["tokyo"], 1, 0)
        assert not await log.wait_acknowledged(8, ["tokyo"], 1, 0)
        assert not await log.wait_acknowledged(1, ["paris"], 1, 0)


async def test_of_a_peer_that_is_compared_nothing_is_believed(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        replicating, waiting = log_of(first), log_of(second)
        replicating.note_acknowledged("tokyo", Lane.ALWAYS, 5)
        assert await waiting.wait_acknowledged(5, ["tokyo"], 1, 60)
        replicating.note_unacknowledged("tokyo")
        assert not await replicating.wait_acknowledged(1, ["tokyo"], 1, 0)
        await until(lambda: database.sql("SELECT seq FROM acknowledged") == [(-1,)], "it is told")
        assert not await waiting.wait_acknowledged(1, ["tokyo"], 1, 0)
        replicating.note_acknowledged("tokyo", Lane.ALWAYS, 6)
        assert await waiting.wait_acknowledged(6, ["tokyo"], 1, 60)


async def test_a_dropped_peer_acknowledges_nothing(database: SiteDatabase) -> None:
    async with database.node() as first, database.node() as second:
        replicating, waiting = log_of(first), log_of(second)
        replicating.note_acknowledged("tokyo", Lane.ALWAYS, 5)
        assert await waiting.wait_acknowledged(5, ["tokyo"], 1, 60)
        await replicating.drop("tokyo")
        assert not await waiting.wait_acknowledged(5, ["tokyo"], 1, 0)
        assert not await replicating.wait_acknowledged(5, ["tokyo"], 1, 0)
