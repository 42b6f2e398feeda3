"""Peers are told what is pinned here, where their configuration says so."""

from __future__ import annotations

from pathlib import Path

import grpc

from federation._proto.federation.v1 import pins_pb2
from federation.closure.pinned import pin_walk
from federation.config.model import LimitsConfig
from federation.core.digest import digest_of
from federation.core.index import NO_STAMP, Stamp
from federation.core.pins import Pin, PinKind, PinTarget
from federation.storage.admin import list_pins
from federation.storage.storage import Storage
from federation.wire import node_identity
from federation.wire.node_identity import LogPosition, NodeIdentity
from federation.wire.pins import decode_pins
from tests.remote.fake_server import Context, FakeServer, fails
from tests.replication.here import Here, asset_of, peer, remembering, remote_peer, replicating
from tests.support.process import serve

OURS = node_identity.headers(NodeIdentity("theirs", LogPosition("e", 1)))
TARGET = PinTarget(PinKind.ASSETS, None, "urn:test:*")


def told(fake: FakeServer) -> list[Pin]:
    """All records that a fake peer was sent."""
    requests = [pins_pb2.ApplyPinsRequest.FromString(e.request) for e in fake.calls("Apply")]
    return [pin for request in requests for pin in decode_pins(request)]


async def taken(_request: bytes, _context: Context) -> bytes:
    return pins_pb2.ApplyPinsResponse().SerializeToString()


async def pin(here: Here, target: PinTarget = TARGET) -> None:
    assert isinstance(here.storage, Storage)
    walker = here.storage.pin_walker(pin_walk(LimitsConfig()))
    await here.storage.ledger.pins.pin(Pin(target, NO_STAMP, "label"), walker)


async def test_a_pin_goes_there_keeps_what_it_names_and_goes_again(tmp_path: Path) -> None:
    with serve(tmp_path / "there", name="there") as there:
        async with replicating(tmp_path / "here", peer(there.address, pins=True)) as here:
            assert isinstance(here.storage, Storage)
            (digest,) = await here.push(b"x" * 5000)
            await here.put(asset_of("urn:test:a", digest))
            await here.caught_up()
            await pin(here)

            def kept() -> list[int]:
                found = list_pins(there.data_dir, here.storage.core.settings)  # type: ignore[union-attr]
                return [each.blobs for each in found.pins if each.is_settled]

            await here.until(lambda: kept() == [1])
            await here.storage.ledger.pins.unpin([TARGET], "bob")
            await here.until(lambda: kept() == [])


async def test_a_peer_is_told_all_when_it_is_met_and_only_if_it_is_to_be() -> None:
    async with FakeServer() as fake:
        fake.announces = OURS
        fake.does["Apply"] = taken
        async with remembering(peer(fake.address, pins=True)) as here:
            stamp = Stamp(5, "we")
            await here.ledger.pins.apply([Pin(TARGET, stamp)])
            await here.until(lambda: len(told(fake)) == 1)
            await here.ledger.pins.apply([Pin(TARGET, Stamp(6, "we"), is_removed=True)])
            await here.until(lambda: len(told(fake)) == 2)
            assert [each.is_removed for each in told(fake)] == [False, True]
            assert here.facts()["pins-not-taken"] == ""
        async with remembering(peer(fake.address)) as here:
            await here.ledger.pins.apply([Pin(TARGET, stamp)])
            await here.push(b"something else")
            await here.caught_up()
            assert len(told(fake)) == 2


async def test_a_peer_that_knows_no_pins_holds_nothing_up_and_status_says_so() -> None:
    async with FakeServer() as fake:
        fake.announces = OURS
        fake.does["Apply"] = fails(grpc.StatusCode.UNIMPLEMENTED)
        async with remembering(peer(fake.address, pins=True)) as here:
            await here.ledger.pins.apply([Pin(TARGET, Stamp(5, "we"))])
            await here.until(lambda: here.facts().get("pins-not-taken"))
            await here.push(b"something else")
            await here.caught_up()


async def test_targets_go_under_the_instances_that_they_have_there() -> None:
    blob = PinTarget(PinKind.BLOB, digest=digest_of(b"blob"))
    targets = [TARGET, PinTarget(PinKind.INSTANCE, "main"), PinTarget(PinKind.INSTANCE, "x"), blob]
    pins = [Pin(each, Stamp(1, "we")) for each in targets]

    async def tell(names: dict[str, str] | None) -> list[PinTarget]:
        async with FakeServer() as fake, remote_peer(fake, names) as target:
            fake.does["Apply"] = taken
            await target.tell_pins(pins)
            return [each.target for each in told(fake)]

    assert await tell(None) == targets
    assert await tell({"main": "prod", "": "default"}) == [
        TARGET._replace(instance="prod"),
        TARGET._replace(instance="default"),
        PinTarget(PinKind.INSTANCE, "prod"),
        blob,
    ]
