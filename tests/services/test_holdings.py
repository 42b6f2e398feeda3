"""federation.v1.Holdings over a change log in memory."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import pytest

from federation._proto.federation.v1 import holdings_pb2, holdings_pb2_grpc
from federation.access.rights import Instances, Rights, Role
from federation.core import uses
from federation.core.digest import digest_of
from federation.core.uses import Use
from federation.services.holdings import HoldingsService
from federation.wire.holdings import NAME_BYTES, NAMES_MAX, lacking_in, name_of
from tests.services.calls import refused
from tests.services.conftest import Serve, Served
from tests.support.memory_ledger import MemoryLedger, MemoryStorage

PEER = Rights("tokyo", Role.PEER)


class Watched(MemoryLedger):
    """Notes what each question counts as."""

    def __init__(self, storage: MemoryStorage) -> None:
        super().__init__(storage)
        self.counted: list[Use] = []

    async def held_like(self, names: Sequence[bytes]) -> set[bytes]:
        self.counted.append(uses.current())
        return await super().held_like(names)


async def ask(served: Served, names: bytes, instance: str = "") -> bytes:
    stub = holdings_pb2_grpc.HoldingsStub(served.channel)
    request = holdings_pb2.FindLackingRequest(instance_name=instance, names=names)
    response: holdings_pb2.FindLackingResponse = await stub.FindLacking(request)
    return response.SerializeToString()


async def test_a_peer_is_told_what_is_lacking_and_that_is_no_use(serve: Serve) -> None:
    storage = MemoryStorage()
    blobs = [b"%d" % at for at in range(20)]
    for data in blobs[::3]:
        storage.take(digest_of(data), data)
    log = Watched(storage)
    served = await serve(HoldingsService(log), rights=PEER)
    answer = await ask(served, b"".join(name_of(digest_of(data)) for data in blobs))
    assert lacking_in(answer, len(blobs)) == [at for at in range(20) if at % 3]
    assert storage.leased == set()
    assert log.counted == [Use.PEEK]
    assert lacking_in(await ask(served, b""), 0) == []


async def test_only_a_peer_is_told_and_where_it_is_one(serve: Serve) -> None:
    log = MemoryLedger(MemoryStorage())
    for rights, instance in (
        (Rights("ci", Role.PUSH), ""),
        (Rights("tokyo", Role.PEER, Instances(["main"])), "other"),
        (Rights("tokyo", Role.PEER, takes_writes=False), ""),
    ):
        served = await serve(HoldingsService(log), rights=rights)
        says = await refused(ask(served, b"", instance), grpc.StatusCode.PERMISSION_DENIED)
        assert "federation.v1.Holdings/FindLacking" in says


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (bytes(NAME_BYTES - 1), "no multiple of 17"),
        (bytes(NAME_BYTES * (NAMES_MAX + 1)), "at most 4096"),
    ],
)
async def test_what_is_no_list_of_names_is_refused_before_it_is_looked_up(
    serve: Serve, names: bytes, says: str
) -> None:
    log = Watched(MemoryStorage())
    served = await serve(HoldingsService(log), rights=PEER)
    assert says in await refused(ask(served, names), grpc.StatusCode.INVALID_ARGUMENT)
    assert log.counted == []
