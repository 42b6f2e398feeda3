"""What a node keeps about who wrote, when the client of another node writes to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.access.rights import Rights, Role
from federation.core import hops
from federation.core.digest import digest_of
from federation.core.hops import Hops
from federation.core.index import Stamp
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from tests.remote.blobs import chunks, noise
from tests.remote.served import NODE_ID, Here, connected, serving
from tests.support.memory_ledger import MemoryStorage
from tests.support.messages import message_of

STAMP = Stamp(7, "first")
FROM_PEER = Provenance(Source.PEER, ("first", NODE_ID), "first")


@asynccontextmanager
async def node(role: Role) -> AsyncIterator[tuple[MemoryStorage, Here]]:
    storage = MemoryStorage("there")
    rights = Rights("a caller", role)
    async with serving(storage, storage, rights=rights) as address, connected(address) as here:
        yield storage, here


async def write_everything(here: Here) -> None:
    """Write by every call there is: two blobs, an action result, assets, a reference."""
    small, large = noise(100), noise(5_000_000)
    await here.store.write_small([(digest_of(small), small)])
    await here.store.write(digest_of(large), chunks(large))
    result = reapi.ActionResult(exit_code=1).SerializeToString()
    await here.index.update_action_result(digest_of(b"action"), result)
    named = message_of(digest_of(small))
    await here.index.push_blob(asset.PushBlobRequest(uris=["a", "b"], blob_digest=named))
    await here.index.push_directory(
        asset.PushDirectoryRequest(uris=["c"], root_directory_digest=named)
    )


def kept(storage: MemoryStorage) -> Sequence[Provenance]:
    return [Provenance(row.source, row.via, row.origin) for row in storage.log]


async def test_what_a_peer_writes_is_kept_as_a_peers_with_its_stamp() -> None:
    async with node(Role.PEER) as (storage, here):
        with hops.serving(Hops(("first",), "first", replicates=True, stamp=STAMP)):
            await write_everything(here)
        assert kept(storage) == [FROM_PEER] * 6
        assert {entry.stamp for entry in storage.entries.values()} == {STAMP}


async def test_a_caller_that_is_no_peer_is_a_client_whatever_it_says() -> None:
    async with node(Role.PUSH) as (storage, here):
        with hops.serving(Hops(("first",), "first", replicates=True, stamp=STAMP)):
            await write_everything(here)
        assert kept(storage) == [FROM_CLIENT] * 6
        assert {entry.stamp.node for entry in storage.entries.values()} == {"there"}


@pytest.mark.parametrize("stamp", [STAMP, None])
async def test_the_later_stamp_wins_whichever_comes_first(stamp: Stamp | None) -> None:
    action = digest_of(b"action")
    async with node(Role.PEER) as (storage, here):
        await here.index.update_action_result(action, b"\x20\x01")
        with hops.serving(Hops(("first",), "first", replicates=True, stamp=stamp)):
            await here.index.update_action_result(action, b"\x20\x02")
        (entry,) = storage.entries.values()
        # One without a stamp is as new as if a client had just written it.
        assert entry.value == (b"\x20\x01" if stamp is not None else b"\x20\x02")


async def test_a_blob_that_an_upstream_gave_is_the_peers_once_it_is_written() -> None:
    data = noise(100)
    digest, pulled = digest_of(data), Provenance(Source.UPSTREAM, origin="hq")
    async with node(Role.PEER) as (storage, here):
        storage.take(digest, data, pulled)
        for _ in range(2):
            await here.store.send(digest, lambda at: storage.open_read(digest, offset=at))
        from_here = Provenance(Source.PEER, (NODE_ID,), NODE_ID)
        assert kept(storage) == [pulled, from_here]


@pytest.mark.parametrize(("role", "heard"), [(Role.PEER, [NODE_ID]), (Role.PUSH, [])])
async def test_a_call_of_a_peer_is_a_sign_of_life(role: Role, heard: list[str]) -> None:
    seen: list[str] = []
    rights = Rights("a caller", role)
    serve = serving(MemoryStorage("there"), rights=rights, heard_from=seen.append)
    async with serve as address, connected(address) as here:
        await here.store.find_missing([digest_of(b"x")])
    assert list(dict.fromkeys(seen)) == heard
