"""federation.v1.Purges: what peers tell of purged names (protos/federation/v1)."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from federation._proto.federation.v1 import purges_pb2
from federation.core.digest import Digest
from federation.core.purges import Purges
from federation.services.call import Call
from federation.services.method import LIST_REQUEST, Method, Unary
from federation.wire.bounds import read_request
from federation.wire.purges import decode_purges

_log = structlog.get_logger(__name__)


class PurgesService:
    """Believes peers only."""

    name = "federation.v1.Purges"

    def __init__(self, purges: Purges) -> None:
        self._purges = purges

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {"Apply": Unary(self._apply, writes=True, request_max=LIST_REQUEST)}

    async def _apply(self, data: bytes, call: Call) -> bytes:
        request = read_request(purges_pb2.ApplyPurgesRequest, data)
        call.check_known_peer(request.instance_name)
        purges = decode_purges(request)
        for each in purges:
            # All instances share blobs.
            call.check_known_peer(None if isinstance(each.thing, Digest) else each.thing.instance)
        newer = await self._purges.apply(purges)
        if newer:
            call.accepted(request.instance_name, purges=newer)
            _log.info("purges_taken", identity=call.rights.identity, count=newer)
        return purges_pb2.ApplyPurgesResponse().SerializeToString()
