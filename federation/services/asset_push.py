"""Remote Asset Push: names for content that is here, or soon will be.

A push is taken whether or not what it refers to is here yet; Fetch hides it until then. Each URI
becomes an entry of its own, blobs and directories apart; the last push of a name wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.closure.names import SLICE, names_of_entry
from federation.core.errors import InvalidRequest
from federation.core.store import Index
from federation.services.call import Call
from federation.services.checksum import ChecksumVerifier
from federation.services.method import Method, Unary
from federation.wire.asset_request import Pushed, content_of, entries_of, integrity_pushed
from federation.wire.bounds import read_request

_DONE = b""  # PushBlobResponse and PushDirectoryResponse have no fields


class PushService:
    """build.bazel.remote.asset.v1.Push."""

    name = "build.bazel.remote.asset.v1.Push"

    def __init__(self, index: Index, checksums: ChecksumVerifier) -> None:
        self._index = index
        self._checksums = checksums

    def methods(self) -> Mapping[str, Method]:
        """See rpc.Service."""
        return {
            "PushBlob": Unary(self._push_blob, writes=True),
            "PushDirectory": Unary(self._push_directory, writes=True),
        }

    async def _push_blob(self, data: bytes, call: Call) -> bytes:
        return await self.push(read_request(asset.PushBlobRequest, data), call)

    async def _push_directory(self, data: bytes, call: Call) -> bytes:
        return await self.push(read_request(asset.PushDirectoryRequest, data), call)

    async def push(self, pushed: Pushed, call: Call) -> bytes:
        """Store, and return the encoded response.

        Raises InvalidRequest, StorageFull, and what Call.check_push does.
        """
        entries = entries_of(pushed)
        call.check_push(pushed.instance_name)
        for names in names_of_entry(entries[0]):
            if len(names.blobs) + len(names.structures) == SLICE:
                await asyncio.sleep(0)  # reading it checks all digests, and there may be many
        integrity = integrity_pushed(pushed)
        if integrity is not None and self._checksums.contradicts(content_of(pushed), integrity):
            raise InvalidRequest("checksum.sri is not that of blob_digest")
        await self._index.put(call.dated(entries), provenance=call.provenance)
        content = content_of(pushed)
        call.accepted(pushed.instance_name, uris=list(pushed.uris), digest=content)
        return _DONE
