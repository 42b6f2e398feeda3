"""federation.v1.Purges over records in memory."""

from __future__ import annotations

import grpc
import pytest

from federation._proto.federation.v1 import purges_pb2, purges_pb2_grpc
from federation.access.rights import Instances, Rights, Role, everybody
from federation.core.digest import digest_of
from federation.core.index import EntryKey, EntryKind, Stamp
from federation.core.purges import Purge
from federation.services.purges import PurgesService
from federation.wire.purges import encode_purges
from tests.services.calls import refused
from tests.services.conftest import Serve, Served
from tests.support.memory_ledger import MemoryStorage

STAMP = Stamp(5 << 16, "there")
BLOB = Purge(digest_of(b"blob"), STAMP)
KEY = EntryKey(EntryKind.ASSET_BLOB, "main", b"name")
ENTRY = Purge(KEY, STAMP, "urn:test")


async def apply(served: Served, *purges: Purge) -> None:
    stub = purges_pb2_grpc.PurgesStub(served.channel)
    request = purges_pb2.ApplyPurgesRequest.FromString(encode_purges("main", purges))
    await stub.Apply(request)


async def test_a_peer_is_believed(serve: Serve) -> None:
    storage = MemoryStorage()
    storage.take(digest_of(b"blob"), b"blob")
    served = await serve(PurgesService(storage.purges), rights=Rights("tokyo", Role.PEER))
    for _ in range(2):  # a repeated call changes nothing
        await apply(served, BLOB, ENTRY)
    assert storage.blobs == {}
    assert storage.purges.has(KEY)
    assert storage.purges.newest == 2


@pytest.mark.parametrize(
    ("rights", "purge", "is_taken"),
    [
        (Rights("ci", Role.PUSH), ENTRY, False),
        (Rights("tokyo", Role.PEER, Instances(["main"])), ENTRY, True),
        (Rights("tokyo", Role.PEER, Instances(["other", "main"])), BLOB, False),
        (Rights("tokyo", Role.PEER, Instances(["main"])),
         ENTRY._replace(thing=KEY._replace(instance="other")), False),
        (Rights("tokyo", Role.PEER, takes_writes=False), ENTRY, False),
        (Rights("root", Role.ADMIN), BLOB, True),
        (everybody(push=True, is_local=True), BLOB, True),
        (everybody(push=True, is_local=False), BLOB, False),
    ],
)  # fmt: skip
async def test_only_peers_may_and_blobs_concern_all_instances(
    serve: Serve, rights: Rights, purge: Purge, is_taken: bool
) -> None:
    storage = MemoryStorage()
    served = await serve(PurgesService(storage.purges), rights=rights)
    if is_taken:
        await apply(served, purge)
    else:
        await refused(apply(served, purge), grpc.StatusCode.PERMISSION_DENIED)
    assert storage.purges.newest == is_taken


async def test_a_malformed_record_is_refused_and_none_is_taken(serve: Serve) -> None:
    storage = MemoryStorage()
    served = await serve(PurgesService(storage.purges), rights=Rights("tokyo", Role.PEER))
    wrong = BLOB._replace(stamp=Stamp(0, "there"))
    await refused(apply(served, ENTRY, wrong), grpc.StatusCode.INVALID_ARGUMENT)
    assert storage.purges.newest == 0
