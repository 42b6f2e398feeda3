"""federation.v1.Pins: who is believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import grpc
import pytest

from federation._proto.federation.v1 import pins_pb2, pins_pb2_grpc
from federation.access.rights import Instances, Rights, Role, everybody
from federation.core.digest import digest_of
from federation.core.index import Stamp
from federation.core.pins import Pin, PinKind, Pins, PinTarget
from federation.services.pins import PinsService
from federation.wire.pins import encode_pins
from tests.services.calls import refused
from tests.services.conftest import Serve

BLOB = Pin(PinTarget(PinKind.BLOB, digest=digest_of(b"blob")), Stamp(5 << 16, "a" * 32), "blob")


class Noting:
    """Takes all pins."""

    def __init__(self) -> None:
        self.taken: list[Pin] = []

    async def apply(self, pins: Sequence[Pin]) -> int:
        self.taken += pins
        return len(pins)


@pytest.mark.parametrize(
    ("rights", "is_taken"),
    [
        (Rights("tokyo", Role.PEER), True),
        (Rights("tokyo", Role.PEER, Instances(["main"])), False),  # of blobs, in all instances
        (Rights("ci", Role.PUSH), False),
        (everybody(push=True, is_local=True), True),
        (everybody(push=True, is_local=False), False),
    ],
)
async def test_only_known_peers_may(serve: Serve, rights: Rights, is_taken: bool) -> None:
    pins = Noting()
    served = await serve(PinsService(cast("Pins", pins)), rights=rights)
    apply: Any = pins_pb2_grpc.PinsStub(served.channel).Apply
    request = pins_pb2.ApplyPinsRequest.FromString(encode_pins("main", [BLOB]))
    if is_taken:
        await apply(request)
    else:
        await refused(apply(request), grpc.StatusCode.PERMISSION_DENIED)
    assert len(pins.taken) == is_taken
