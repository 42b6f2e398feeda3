"""The questions about index entries that this node puts to its upstreams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.core.digest import Digest
from federation.core.index import Entry, EntryKey, FetchedAsset, IndexElsewhere
from federation.wire.action_result import key_of
from federation.wire.asset_key import is_secret
from federation.wire.asset_request import AssetQuery, entries_of
from federation.wire.digests import function_of
from federation.wire.timestamps import timestamp_of, wall_s_of

AssetRequest = asset.FetchBlobRequest | asset.FetchDirectoryRequest


class AssetQuestion:
    """See AskUpstream in index_queries.py."""

    def __init__(self, request: AssetRequest, wanted: AssetQuery) -> None:
        """wanted: what the request was read as."""
        self._request = request
        self.keys = tuple(wanted.exact)

    @property
    def names(self) -> Sequence[str]:
        """The URIs."""
        return list(self._request.uris)

    async def put_to(self, index: IndexElsewhere) -> Entry | None:
        """Ask. An answer under a URI that was not asked for is none. Raises SourceUnavailable."""
        request = self._request
        # Credentials for an origin concern the caller and this node, not a cache behind it.
        qualifiers = {q.name: q.value for q in request.qualifiers if not is_secret(q.name)}
        function = function_of(request.digest_function)
        oldest_s = None
        if request.HasField("oldest_content_accepted"):
            oldest_s = wall_s_of(request.oldest_content_accepted, "oldest_content_accepted")
        is_blob = isinstance(request, asset.FetchBlobRequest)
        ask = index.fetch_blob if is_blob else index.fetch_directory
        answer = await ask(list(request.uris), qualifiers, function, oldest_s)
        # A server that does not know the field digest_function answers in SHA-256.
        if answer is None or answer.digest.function != function:
            return None
        (entry,) = entries_of(self._as_push(answer))
        # What is stored under a name comes from an answer about that very name.
        return entry if entry.key in self.keys else None

    def _as_push(self, answer: FetchedAsset) -> asset.PushBlobRequest | asset.PushDirectoryRequest:
        request = self._request
        pushed: asset.PushBlobRequest | asset.PushDirectoryRequest
        if isinstance(request, asset.FetchBlobRequest):
            pushed = asset.PushBlobRequest()
            content = pushed.blob_digest
        else:
            pushed = asset.PushDirectoryRequest()
            content = pushed.root_directory_digest
        content.hash, content.size_bytes = answer.digest.hash_hex, answer.digest.size_bytes
        pushed.instance_name = request.instance_name
        pushed.uris.append(answer.uri)
        pushed.qualifiers.extend(request.qualifiers)
        pushed.digest_function = request.digest_function
        if answer.expires_at_s is not None:
            pushed.expire_at.CopyFrom(timestamp_of(answer.expires_at_s))
        return pushed


class ActionQuestion(NamedTuple):
    """A GetActionResult for upstreams."""

    key: EntryKey
    action: Digest

    @property
    def keys(self) -> tuple[EntryKey, ...]:
        """See AskUpstream: of keys_with_size() only the one with the size that is asked for."""
        return (self.key,)

    @property
    def names(self) -> tuple[str, ...]:
        """See AskUpstream: actions have no names."""
        return ()

    async def put_to(self, index: IndexElsewhere) -> Entry | None:
        """See AskUpstream."""
        value = await index.get_action_result(self.action)
        return None if value is None else Entry(self.key, value, str(self.action))


def keys_with_size(key: EntryKey, action: Digest) -> Sequence[EntryKey]:
    """Return what the result of an action of known size may be kept under, that size first."""
    # A client of the HTTP cache knows an action's hash alone, and its result is kept under size 0.
    return [key, key_of(key.instance, action._replace(size_bytes=0))]
