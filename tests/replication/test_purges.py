"""Peers are told what was purged, before they are asked about anything that it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc

from federation._proto.federation.v1 import purges_pb2
from federation.core.clock import SystemClock
from federation.core.digest import Digest, digest_of
from federation.core.index import EntryKey, EntryKind, Stamp
from federation.core.purges import Purge
from federation.core.replication_log import Lane
from federation.wire import node_identity
from federation.wire.node_identity import LogPosition, NodeIdentity
from federation.wire.purges import decode_purges
from tests.remote.fake_server import Context, FakeServer, fails
from tests.replication.here import (
    Here,
    asset_of,
    peer,
    remembering,
    remote_peer,
    replicating,
    result_of,
)
from tests.support.memory_ledger import MemoryStorage
from tests.support.process import serve
from tests.support.process_client import Client

OURS = node_identity.headers(NodeIdentity("theirs", LogPosition("e", 1)))
ACTION = digest_of(b"action")


def told(fake: FakeServer) -> list[Purge]:
    """All records that a fake peer was sent."""
    requests = [purges_pb2.ApplyPurgesRequest.FromString(e.request) for e in fake.calls("Apply")]
    return [purge for request in requests for purge in decode_purges(request)]


async def taken(_request: bytes, _context: Context) -> bytes:
    return purges_pb2.ApplyPurgesResponse().SerializeToString()


async def purge(here: Here, *things: Digest | EntryKey) -> None:
    await here.ledger.purges.purge([(each, "") for each in things], "alice")


async def test_what_is_purged_here_goes_there_and_a_push_brings_it_back(tmp_path: Path) -> None:
    with serve(tmp_path / "there", name="there") as there, Client(there.address) as client:
        async with replicating(tmp_path / "here", peer(there.address)) as here:
            small, large = await here.push(b"small", b"large" * 100_000)
            entry = asset_of("urn:test:a", small)
            await here.put(entry, result_of(ACTION, large))
            await here.caught_up()
            assert client.fetch_blob("urn:test:a") == small
            await purge(here, large, entry.key)
            await here.until(lambda: client.find_missing([small, large]) == {large})
            await here.until(lambda: client.fetch_blob("urn:test:a") is None)
            assert client.get_action_result(ACTION) is None  # it needs the blob
            await here.push(b"large" * 100_000)
            await here.put(entry)
            await here.caught_up()
            assert client.find_missing([small, large]) == set()
            assert client.fetch_blob("urn:test:a") == small
            assert client.get_action_result(ACTION) is not None
            assert here.facts()["parked"] == 0


async def test_a_peer_where_it_was_purged_is_sent_nothing_and_nothing_is_parked(
    tmp_path: Path,
) -> None:
    with serve(tmp_path / "there", name="there") as there, Client(there.address) as client:
        storage = MemoryStorage("elsewhere", SystemClock())
        async with remembering(peer(there.address), storage=storage) as elsewhere:
            await elsewhere.caught_up()
            await purge(elsewhere, digest_of(b"secret"), digest_of(b"s" * 5_000_000))
            await elsewhere.until(lambda: storage.records["there", Lane.ALWAYS].purges == 2)
        async with replicating(tmp_path / "here", peer(there.address)) as here:
            await here.push(b"secret", b"s" * 5_000_000, b"other")
            facts = await here.caught_up()
            assert (facts["sent-objects"], facts["parked"], facts["forgotten"]) == (1, 0, 0)
            assert len(client.find_missing([digest_of(b"secret"), digest_of(b"other")])) == 1


async def test_r31_an_older_peer_waits_with_a_reason_and_all_else_goes_on() -> None:
    async with FakeServer() as fake:
        fake.announces = OURS
        async with remembering(peer(fake.address)) as here:
            (digest,) = await here.push(b"blob")
            await here.caught_up()
            await purge(here, digest, digest_of(b"other"))
            await here.until(lambda: here.facts()["purges-not-taken"])
            await here.push(b"new")
            facts = await here.caught_up()
            assert digest_of(b"new") in fake.blobs
            assert (facts["parked"], facts["purges-told"]) == (0, False)
            fake.does["Apply"] = taken
            await here.ledger.want("there")
            await here.until(lambda: here.facts()["purges-told"])
            assert here.facts()["purges-not-taken"] == ""
            assert {each.thing for each in told(fake)} == {digest, digest_of(b"other")}


async def test_a_peer_that_refuses_records_gets_everything_else() -> None:
    async with FakeServer() as fake:
        fake.announces = OURS
        fake.does["Apply"] = fails(grpc.StatusCode.PERMISSION_DENIED)
        async with remembering(peer(fake.address)) as here:
            await purge(here, digest_of(b"secret"))
            await here.push(b"blob")
            await here.caught_up()
            assert digest_of(b"blob") in fake.blobs
            assert "denied" in here.facts()["purges-not-taken"]


async def test_another_server_is_told_nothing() -> None:
    async with FakeServer() as fake, remembering(peer(fake.address)) as here:
        await purge(here, digest_of(b"secret"))
        await here.push(b"blob")
        await here.caught_up()
        assert "no node of this project" in here.facts()["purges-not-taken"]
        assert fake.calls("Apply") == []


async def test_a_pushed_blob_follows_the_record_that_allows_it() -> None:
    async with FakeServer() as fake:
        fake.announces = OURS
        fake.does["Apply"] = taken
        async with remembering(peer(fake.address)) as here:
            await purge(here, digest_of(b"blob"))
            await here.push(b"blob")
            await here.caught_up()
            methods = [each.method for each in fake.asked]
            (record,) = told(fake)
            assert record.is_allowed
            asked = [at for at, each in enumerate(fake.asked) if _asks_about(each.request, b"blob")]
            assert methods.index("Apply") < min(asked)


def _asks_about(request: bytes, data: bytes) -> bool:
    return digest_of(data).hash_hex.encode() in request


async def test_each_record_is_told_once_and_a_resync_tells_all_again() -> None:
    async with FakeServer() as fake:
        fake.announces = OURS
        fake.does["Apply"] = taken
        async with remembering(peer(fake.address)) as here:
            await purge(here, *(digest_of(b"%d" % at) for at in range(230)))
            await here.until(lambda: len(told(fake)) == 230)
            assert len(fake.calls("Apply")) == 3
            await purge(here, digest_of(b"more"))
            await here.until(lambda: len(told(fake)) == 231)
            await here.ledger.want("there")
            await here.until(lambda: len(told(fake)) == 231 + 231)


async def test_a_resync_that_begins_while_the_peer_is_told_tells_all_again() -> None:
    storage, goes_on = MemoryStorage("here", SystemClock()), asyncio.Event()

    async def waits(request: bytes, context: Context) -> bytes:
        await goes_on.wait()
        return await taken(request, context)

    def known() -> int | None:
        record = storage.records.get(("there", Lane.ALWAYS))
        return None if record is None else record.purges

    async with FakeServer() as fake:
        fake.announces = OURS
        fake.does["Apply"] = taken
        async with remembering(peer(fake.address), storage=storage) as here:
            await purge(here, digest_of(b"first"))
            await here.until(lambda: known() == 1)
            fake.does["Apply"] = waits
            await purge(here, digest_of(b"second"))
            await here.until(lambda: len(told(fake)) == 2)
            await here.ledger.want("there")
            await here.until(lambda: known() == 0)
            goes_on.set()
            await here.until(lambda: known() == 2)
            again = {each.thing for each in told(fake)[2:]}
            assert again == {digest_of(b"first"), digest_of(b"second")}


async def test_names_go_under_the_instances_that_they_have_there() -> None:
    def entry(instance: str) -> EntryKey:
        return EntryKey(EntryKind.ASSET_BLOB, instance, b"name")

    async def tell(purges: Sequence[Purge], names: dict[str, str] | None) -> list[object]:
        async with FakeServer() as fake, remote_peer(fake, names) as target:
            fake.does["Apply"] = taken
            await target.tell_purges(purges)
            return [each.thing for each in told(fake)]

    stamp = Stamp(1, "we")
    things: list[Digest | EntryKey] = [digest_of(b"blob"), entry("main"), entry("other")]
    purges = [Purge(each, stamp) for each in things]
    assert await tell(purges, None) == things
    assert await tell(purges, {"main": "prod"}) == [things[0], entry("prod")]
