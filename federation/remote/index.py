"""The names a remote knows: action results, assets, and the references of BuildStream 1.x.

A miss is None. A service that the remote does not have is a miss for reads and Unsupported for
writes. Whether the blobs that an answer names exist is not checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.buildstream.v2 import buildstream_pb2 as references
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import InvalidRequest
from federation.core.index import FetchedAsset
from federation.remote.client import Remote
from federation.remote.codec import check_result, digest_in, function_number, parse, wire_digest
from federation.remote.failures import FailureKind, NotFound, Unsupported, failure
from federation.remote.methods import (
    FETCH_BLOB,
    FETCH_DIRECTORY,
    GET_REFERENCE,
    GET_RESULT,
    PUSH_BLOB,
    PUSH_DIRECTORY,
    UPDATE_REFERENCE,
    UPDATE_RESULT,
    Method,
)
from federation.remote.statuses import from_status
from federation.wire.digests import function_of
from federation.wire.protobuf import length_field
from federation.wire.timestamps import wall_s_of

_NANOS = 1_000_000_000
_ACTION_RESULT = 3  # UpdateActionResultRequest.action_result


class RemoteIndex:
    """Action results, assets and references of one remote. An IndexElsewhere."""

    def __init__(self, remote: Remote, *, lacking_is_miss: bool = True) -> None:
        """lacking_is_miss: False: reads of a missing service raise Unsupported, too."""
        self._remote = remote
        self._lacking_is_miss = lacking_is_miss

    def __repr__(self) -> str:
        return f"<RemoteIndex {self._remote!r}>"

    def instance_below(self, name: str) -> str:
        """Return the instance of this name below the remote's own, from the configuration."""
        own = self._instance(None)
        return f"{own}/{name}" if own and name else own or name

    async def get_action_result(self, action: Digest, instance: str | None = None) -> bytes | None:
        """Return the serialized ActionResult as it was sent, None where there is none.

        instance None: the remote's own, from the configuration; so for all methods here. Raises
        RemoteFailed.
        """
        request = reapi.GetActionResultRequest(
            instance_name=self._instance(instance),
            action_digest=wire_digest(action),
            digest_function=function_number(action.function),  # type: ignore[arg-type]
        )
        data = await self._ask(GET_RESULT, request)
        if data is not None:
            # Before it is kept: what cannot be read would be a result that no client can use.
            check_result(self._remote.name, data)
        return data

    async def update_action_result(
        self, action: Digest, result: bytes, instance: str | None = None
    ) -> None:
        """Store a serialized ActionResult, to the byte as it is. Raises RemoteFailed."""
        request = reapi.UpdateActionResultRequest(
            instance_name=self._instance(instance),
            action_digest=wire_digest(action),
            digest_function=function_number(action.function),  # type: ignore[arg-type]
        )
        # Written anew it could come out as other bytes, and be another value to those who compare.
        whole = request.SerializeToString() + length_field(_ACTION_RESULT, result)
        await self._push_bytes(UPDATE_RESULT, whole)

    async def fetch_blob(
        self,
        uris: Sequence[str],
        qualifiers: Mapping[str, str] | None = None,
        function: DigestFunction = DigestFunction.SHA256,
        oldest_content_accepted_s: float | None = None,
        instance: str | None = None,
    ) -> FetchedAsset | None:
        """Return the blob that any of the URIs names, None where there is none.

        oldest_content_accepted_s: wall clock; what was stored before is not wanted. Raises
        RemoteFailed.
        """
        request = asset.FetchBlobRequest()
        self._ask_for(request, uris, qualifiers, function, oldest_content_accepted_s, instance)
        data = await self._ask(FETCH_BLOB, request)
        if data is None:
            return None
        answer = parse(self._remote.name, asset.FetchBlobResponse, data)
        return self._fetched(answer, answer.blob_digest, function)

    async def fetch_directory(
        self,
        uris: Sequence[str],
        qualifiers: Mapping[str, str] | None = None,
        function: DigestFunction = DigestFunction.SHA256,
        oldest_content_accepted_s: float | None = None,
        instance: str | None = None,
    ) -> FetchedAsset | None:
        """Return the directory that any of the URIs names; else as fetch_blob."""
        request = asset.FetchDirectoryRequest()
        self._ask_for(request, uris, qualifiers, function, oldest_content_accepted_s, instance)
        data = await self._ask(FETCH_DIRECTORY, request)
        if data is None:
            return None
        answer = parse(self._remote.name, asset.FetchDirectoryResponse, data)
        return self._fetched(answer, answer.root_directory_digest, function)

    async def push_blob(self, push: asset.PushBlobRequest, instance: str | None = None) -> None:
        """Push a message as it is, but under this instance name. Raises RemoteFailed."""
        request = asset.PushBlobRequest()
        # A copy: the same message goes to other peers, under other instance names.
        request.CopyFrom(push)
        request.instance_name = self._instance(instance)
        await self._push(PUSH_BLOB, request)

    async def push_directory(
        self, push: asset.PushDirectoryRequest, instance: str | None = None
    ) -> None:
        """Push a message as it is, but under this instance name. Raises RemoteFailed."""
        request = asset.PushDirectoryRequest()
        request.CopyFrom(push)
        request.instance_name = self._instance(instance)
        await self._push(PUSH_DIRECTORY, request)

    async def get_reference(self, key: str, instance: str | None = None) -> Digest | None:
        """Return the root directory that a reference names, None where there is none.

        Raises RemoteFailed.
        """
        request = references.GetReferenceRequest(instance_name=self._instance(instance), key=key)
        data = await self._ask(GET_REFERENCE, request)
        if data is None:
            return None
        answer = parse(self._remote.name, references.GetReferenceResponse, data)
        return digest_in(self._remote.name, answer.digest, DigestFunction.SHA256)

    async def update_reference(
        self, keys: Sequence[str], digest: Digest, instance: str | None = None
    ) -> None:
        """Set references to a root directory. Raises RemoteFailed."""
        request = references.UpdateReferenceRequest(
            instance_name=self._instance(instance), keys=keys, digest=wire_digest(digest)
        )
        await self._push(UPDATE_REFERENCE, request)

    def _instance(self, instance: str | None) -> str:
        return self._remote.settings.instance_name if instance is None else instance

    async def _ask(self, method: Method, request: Message) -> bytes | None:
        try:
            return await self._remote.calls.unary(method, request.SerializeToString())
        except NotFound:
            return None
        except Unsupported:
            # A server of blobs alone has no entries. For replication "lacks" and "has nothing"
            # differ.
            if self._lacking_is_miss:
                return None
            raise

    async def _push(self, method: Method, request: Message) -> None:
        await self._push_bytes(method, request.SerializeToString())

    async def _push_bytes(self, method: Method, request: bytes) -> None:
        try:
            await self._remote.calls.unary(method, request)
        except NotFound as error:  # BuildGrid, if it lacks a blob that the entry names
            raise failure(self._remote.name, FailureKind.REFUSED, str(error)) from None

    def _ask_for(
        self,
        request: asset.FetchBlobRequest | asset.FetchDirectoryRequest,
        uris: Sequence[str],
        qualifiers: Mapping[str, str] | None,
        function: DigestFunction,
        oldest_s: float | None,
        instance: str | None,
    ) -> None:
        request.instance_name = self._instance(instance)
        request.uris.extend(uris)
        for name, value in (qualifiers or {}).items():
            request.qualifiers.add(name=name, value=value)
        request.digest_function = function_number(function)  # type: ignore[assignment]
        if oldest_s is not None:
            request.oldest_content_accepted.CopyFrom(_timestamp(oldest_s))

    def _fetched(
        self,
        answer: asset.FetchBlobResponse | asset.FetchDirectoryResponse,
        digest: reapi.Digest,
        function: DigestFunction,
    ) -> FetchedAsset | None:
        """Read an answer; its status field may be an error although the call was OK."""
        name = self._remote.name
        error = from_status(name, answer.status.code, answer.status.message)
        # Some servers report a miss this way, in an answer that is OK.
        if isinstance(error, NotFound):
            return None
        if error is not None:
            raise error
        try:
            # It may be another one than asked for; the caller decides whether that is of use.
            if answer.digest_function:
                function = function_of(answer.digest_function)
            expires_at_s = None
            if answer.HasField("expires_at"):
                expires_at_s = wall_s_of(answer.expires_at, "expires_at")
        except InvalidRequest as invalid:
            raise failure(name, FailureKind.MALFORMED, str(invalid)) from None
        qualifiers = {each.name: each.value for each in answer.qualifiers}
        found = digest_in(name, digest, function)
        return FetchedAsset(answer.uri, found, expires_at_s, qualifiers)


def _timestamp(wall_s: float) -> Timestamp:
    whole = math.floor(wall_s)
    # The product may round up to a whole second, which the field does not allow.
    nanos = min(int((wall_s - whole) * _NANOS), _NANOS - 1)
    return Timestamp(seconds=whole, nanos=nanos)
