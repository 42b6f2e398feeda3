"""BuildStream 1's ReferenceStorage: an older dialect of Remote Asset's directories.

A reference is answered only when its whole tree is here, like any asset: BuildStream 1 stops a push
at an equal reference without looking at its blobs, so an incomplete one would never be repaired.
"""

from __future__ import annotations

from collections.abc import Mapping

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.buildstream.v2 import buildstream_pb2 as bst
from federation.core.errors import InvalidRequest
from federation.services.call import Call
from federation.services.method import LIST_REQUEST, SMALL_REQUEST, Method, Unary
from federation.services.remote_asset import FetchService, PushService
from federation.wire.asset_key import uri_of
from federation.wire.bounds import read_request
from federation.wire.resource_name import check_instance


class ReferenceService:
    """buildstream.v2.ReferenceStorage."""

    name = "buildstream.v2.ReferenceStorage"

    def __init__(self, fetch: FetchService, push: PushService) -> None:
        self._fetch = fetch
        self._push = push

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "GetReference": Unary(self._get, request_max=SMALL_REQUEST),
            "UpdateReference": Unary(self._update, writes=True, request_max=LIST_REQUEST),
            "Status": Unary(self._status, request_max=SMALL_REQUEST),
        }

    async def _get(self, data: bytes, call: Call) -> bytes:
        request = read_request(bst.GetReferenceRequest, data)
        question = asset.FetchDirectoryRequest(
            instance_name=request.instance_name, uris=[uri_of(request.key)]
        )
        answer = asset.FetchDirectoryResponse.FromString(await self._fetch.fetch(question, call))
        found = bst.GetReferenceResponse(digest=answer.root_directory_digest)
        return found.SerializeToString()

    async def _update(self, data: bytes, call: Call) -> bytes:
        request = read_request(bst.UpdateReferenceRequest, data)
        if not request.keys:
            raise InvalidRequest("no key: give at least one in keys")
        pushed = asset.PushDirectoryRequest(
            instance_name=request.instance_name,
            uris=[uri_of(key) for key in request.keys],
            root_directory_digest=request.digest,
        )
        await self._push.push(pushed, call)
        return bst.UpdateReferenceResponse().SerializeToString()

    async def _status(self, data: bytes, call: Call) -> bytes:
        instance = check_instance(bst.StatusRequest.FromString(data).instance_name)
        call.check_pull(instance)
        may_push = call.rights.may_push(instance)
        return bst.StatusResponse(allow_updates=may_push).SerializeToString()
