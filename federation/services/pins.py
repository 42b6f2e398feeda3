"""federation.v1.Pins: what peers tell of their pins (protos/federation/v1)."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from federation._proto.federation.v1 import pins_pb2
from federation.core.pins import Pins
from federation.services.call import Call
from federation.services.method import LIST_REQUEST, Method, Unary
from federation.wire.bounds import read_request
from federation.wire.pins import decode_pins

_log = structlog.get_logger(__name__)


class PinsService:
    """Believes peers only."""

    name = "federation.v1.Pins"

    def __init__(self, pins: Pins) -> None:
        self._pins = pins

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {"Apply": Unary(self._apply, writes=True, request_max=LIST_REQUEST)}

    async def _apply(self, data: bytes, call: Call) -> bytes:
        request = read_request(pins_pb2.ApplyPinsRequest, data)
        call.check_known_peer(request.instance_name)
        pins = decode_pins(request)
        for each in pins:
            call.check_known_peer(each.target.instance)
        newer = await self._pins.apply(pins)
        if newer:
            call.accepted(request.instance_name, pins=newer)
            _log.info("pins_taken", identity=call.rights.identity, count=newer)
        return pins_pb2.ApplyPinsResponse().SerializeToString()
