"""federation.v1.Holdings: what peers ask to compare all that is held (protos/federation/v1)."""

from __future__ import annotations

from collections.abc import Mapping

from federation._proto.federation.v1 import holdings_pb2 as holdings
from federation.core import uses
from federation.core.replication_log import ReplicationLog
from federation.core.uses import Use
from federation.services.call import Call
from federation.services.method import SMALL_REQUEST, Method, Unary
from federation.wire.bounds import read_request
from federation.wire.holdings import encode_answer, split_names


class HoldingsService:
    """Answers peers only: short names would let others find out what is held."""

    name = "federation.v1.Holdings"

    def __init__(self, log: ReplicationLog) -> None:
        """log: of the storage whose blobs are compared."""
        self._log = log

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {"FindLacking": Unary(self._find_lacking, request_max=SMALL_REQUEST)}

    async def _find_lacking(self, data: bytes, call: Call) -> bytes:
        request = read_request(holdings.FindLackingRequest, data)
        call.check_peer(request.instance_name)
        names = split_names(request.names)
        # Comparing is no use of what is compared, and promises nothing.
        with uses.counted_as(Use.PEEK):
            held = await self._log.held_like(names)
        return encode_answer([name not in held for name in names])
