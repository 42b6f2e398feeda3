"""What all peers together hold of values while they are sent is bounded, and each gets a part."""

from __future__ import annotations

import asyncio
import tracemalloc

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import digest_of
from federation.core.index import Entry
from federation.remote.failures import FailureKind, RemoteFailed
from federation.replication import follower
from federation.replication.peer_api import ObjectHistory
from federation.replication.remote_peer import RemotePeer
from federation.replication.send_memory import PeerMemory, SendMemory
from tests.remote.fake_server import Context, FakeServer, fails
from tests.remote.served import connected
from tests.replication.here import peer, remembering, result_of
from tests.support.memory_ledger import MemoryLedger, MemoryStorage

ACTION = digest_of(b"action")


async def holder(share: PeerMemory, size_bytes: int, until: asyncio.Event) -> None:
    async with share.hold(size_bytes):
        await until.wait()


async def passes() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_p7_peers_that_hold_on_leave_room_to_the_others() -> None:
    memory, ends = SendMemory(1000), asyncio.Event()
    frozen = [memory.of_entries(f"frozen {at}") for at in range(3)]
    async with asyncio.TaskGroup() as group:
        for share in frozen:
            for _ in range(100):
                group.create_task(holder(share, 10, ends))
            await passes()
        assert memory.entries.used_bytes <= 1000
        assert [memory.entries.used_by(share.peer) for share in frozen] == [500, 250, 130]
        quick = memory.of_entries("quick")
        async with asyncio.timeout(60):
            for _ in range(50):
                async with quick.hold(10):
                    pass
        ends.set()
    assert memory.entries.used_bytes == 0


async def test_what_is_larger_than_all_is_let_through_alone() -> None:
    memory = SendMemory(1000)
    held, share = memory.entries, memory.of_entries("peer")
    async with asyncio.timeout(60), share.hold(5000):
        waiting = asyncio.ensure_future(holder(share, 1, asyncio.Event()))
        await passes()
        assert (held.used_by("peer"), held.waiting) == (5000, 1)
        async with memory.of_entries("another").hold(
            2000
        ):  # another's first one is let through likewise
            assert held.used_bytes == 7000
        waiting.cancel()
        await passes()
    assert (held.used_bytes, held.waiting) == (0, 0)


async def test_who_leaves_while_waiting_stands_in_nobodys_way() -> None:
    memory, first, end = SendMemory(100), asyncio.Event(), asyncio.Event()
    share = memory.of_entries("peer")
    holding = asyncio.ensure_future(holder(share, 40, first))
    await passes()
    large = asyncio.ensure_future(holder(share, 90, end))
    small = asyncio.ensure_future(holder(share, 5, end))
    await passes()
    assert memory.entries.used_bytes == 40
    large.cancel()
    await passes()
    assert memory.entries.used_bytes == 45
    first.set()
    end.set()
    await asyncio.gather(holding, small)
    assert memory.entries.used_bytes == 0


LARGE_STDOUT = reapi.ActionResult(stdout_raw=bytes(1_000_000)).SerializeToString()


async def test_p7_a_frozen_peer_does_not_make_the_follower_hold_values(fake: FakeServer) -> None:
    """300 results of 1 MB: what is held of them is bounded, whatever is unresolved."""

    class Storage(MemoryStorage):
        """Makes the values up when they are read, so that only readers hold any."""

        def large(self, entry: Entry) -> Entry:
            return entry._replace(value=entry.value + LARGE_STDOUT)

    class Ledger(MemoryLedger):
        async def entries_at(self, keys):  # type: ignore[no-untyped-def]
            assert isinstance(self.storage, Storage)
            found = await super().entries_at(keys)
            return [each and (each[0], self.storage.large(each[1])) for each in found]

        async def heads_at(self, keys):  # type: ignore[no-untyped-def]
            heads = await super().heads_at(keys)
            return [head and head._replace(value_bytes=1_000_000) for head in heads]

    storage = Storage()
    async with remembering(peer(fake.address), storage=storage, ledger_type=Ledger) as here:
        await here.caught_up()
        fake.does["UpdateActionResult"] = fails(grpc.StatusCode.UNAVAILABLE)
        tracemalloc.start()
        try:
            for at in range(300):
                storage.put_one(result_of(digest_of(b"%d" % at)))
            await here.until(lambda: here.facts()["lanes"]["always"]["in-flight"] == 300)
            await here.until(lambda: len(fake.calls("UpdateActionResult")) >= 3)
            _, most_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most_bytes < 150e6


async def test_p7_a_peer_that_takes_nothing_has_a_bounded_number_of_rows_under_way(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "UNRESOLVED_MAX", 50)
    monkeypatch.setattr(follower, "SLICE_ROWS", 10)
    storage = MemoryStorage()
    async with remembering(peer(fake.address), storage=storage) as here:
        await here.caught_up()
        fake.does["UpdateActionResult"] = fails(grpc.StatusCode.UNAVAILABLE)

        def under_way() -> int:
            return int(here.facts()["lanes"]["always"]["in-flight"])

        for at in range(300):
            storage.put_one(result_of(digest_of(b"%d" % at)))
        await here.until(lambda: under_way() > 50)
        asked = len(fake.calls("UpdateActionResult"))
        await here.until(lambda: len(fake.calls("UpdateActionResult")) > asked)
        assert under_way() <= 60
        del fake.does["UpdateActionResult"]
        await here.caught_up()


@pytest.mark.slow
async def test_a_value_that_was_replaced_while_it_waited_at_the_gate_is_not_sent(
    fake: FakeServer,
) -> None:
    storage = MemoryStorage()
    async with remembering(peer(fake.address), storage=storage) as here:
        (output,) = await here.push(b"output")
        await here.caught_up()
        fake.does["UpdateActionResult"] = fails(grpc.StatusCode.UNAVAILABLE)
        names = [digest_of(b"name %d" % at) for at in range(5)]
        for at in range(8):
            tried = len(fake.calls("UpdateActionResult"))
            for name in names:
                storage.put_one(result_of(name, output)._replace(expires_at_s=4e9 + at))
            await here.until(lambda tried=tried: len(fake.calls("UpdateActionResult")) > tried)  # type: ignore[misc]
        fake.asked.clear()
        fake.does.clear()
        await here.caught_up()
        assert len(fake.calls("UpdateActionResult")) <= 2 * len(names)


async def test_an_older_value_never_comes_last_to_a_peer_without_stamps(fake: FakeServer) -> None:
    """Two senders of one name at once: the one that has read the older value is held up."""
    good = fake._UpdateActionResult
    came, goes_on = asyncio.Event(), asyncio.Event()
    storage = MemoryStorage()
    old, new = result_of(ACTION), result_of(ACTION, digest_of(b"new"))

    async def first_is_slow(request: bytes, context: Context) -> bytes:
        if not came.is_set():
            came.set()
            await goes_on.wait()
        return await good(request, context)

    fake.does["UpdateActionResult"] = first_is_slow
    async with remembering(peer(fake.address), storage=storage) as here:
        await here.caught_up()
        storage.put_one(old)
        await came.wait()
        await here.push(b"new")
        storage.put_one(new)
        await here.until(lambda: digest_of(b"new") in fake.blobs)
        await here.until(lambda: here.facts()["lanes"]["always"]["in-flight"] == 2)
        await passes()
        goes_on.set()
        await here.caught_up()
        assert fake.results[ACTION.hash_hex] == new.value


async def test_an_entry_goes_to_no_other_node_than_the_one_that_has_what_it_names(
    fake: FakeServer,
) -> None:
    fake.announces = [("federation-node", "one")]
    async with connected(fake.address) as here:
        target = RemotePeer(here.remote, here.remote, None)
        await target.greet()
        await target.push(result_of(ACTION), ObjectHistory(), "one")
        fake.announces = [("federation-node", "another")]
        await target.greet()
        with pytest.raises(RemoteFailed) as caught:
            await target.push(result_of(digest_of(b"second")), ObjectHistory(), "one")
        assert caught.value.kind is FailureKind.UNAVAILABLE
        await target.push(
            result_of(digest_of(b"third")), ObjectHistory(), ""
        )  # no node of ours was asked
        assert len(fake.calls("UpdateActionResult")) == 2
