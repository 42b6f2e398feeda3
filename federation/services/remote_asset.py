"""Remote Asset: Push names what is here, or soon will be; Fetch answers from what was pushed.

A push is taken whether or not what it refers to is here yet; Fetch hides it until then. Each URI
becomes an entry of its own, blobs and directories apart; the last push of a name wins.

No code here opens a URL that a request names. A miss is the status NOT_FOUND, never a status inside
a response that says OK, which some clients ignore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.closure.names import SLICE, names_of_entry
from federation.core.clock import Clock
from federation.core.errors import EntryNotFound, InvalidRequest
from federation.core.index import Entry, Index
from federation.observability.metrics import Metrics
from federation.services.call import Call
from federation.services.checksum import ChecksumVerifier
from federation.services.method import LIST_REQUEST, SMALL_ANSWER, Method, Unary
from federation.upstream.entry_finder import EntryQuery, Finder
from federation.upstream.questions import AssetQuestion, AssetRequest
from federation.wire.asset_request import (
    AssetQuery,
    Pushed,
    answer_with,
    content_of,
    entries_of,
    integrity_pushed,
    pushed_of,
    wanted_by,
)
from federation.wire.bounds import read_request


class FetchService:
    """build.bazel.remote.asset.v1.Fetch."""

    name = "build.bazel.remote.asset.v1.Fetch"

    def __init__(
        self, finder: Finder, checksums: ChecksumVerifier, clock: Clock, metrics: Metrics
    ) -> None:
        self._finder = finder
        self._checksums = checksums
        self._clock = clock
        self._traffic = metrics.traffic

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "FetchBlob": Unary(
                self._fetch_blob,
                request_max=LIST_REQUEST,
                at_once=partial(self._fetch_at_once, asset.FetchBlobRequest),
            ),
            "FetchDirectory": Unary(
                self._fetch_directory,
                request_max=LIST_REQUEST,
                at_once=partial(self._fetch_at_once, asset.FetchDirectoryRequest),
            ),
        }

    def _fetch_at_once(self, kind: type[AssetRequest], data: bytes, call: Call) -> bytes | None:
        """Answer if memory has an asset under the first URI."""
        request = read_request(kind, data)
        wanted = wanted_by(request)
        call.check_pull(request.instance_name)
        # Only the first URI: memory cannot show that the URIs before a later one name nothing.
        if wanted.integrity is not None or (entry := self._finder.recall(wanted.keys[0])) is None:
            return None
        if not self._is_current(wanted, entry):
            return None
        answer = answer_with(entry)
        if len(answer) > SMALL_ANSWER:
            return None
        self._traffic.named(request.instance_name).assets.hits += 1
        return answer

    async def _fetch_blob(self, data: bytes, call: Call) -> bytes:
        return await self.fetch(read_request(asset.FetchBlobRequest, data), call)

    async def _fetch_directory(self, data: bytes, call: Call) -> bytes:
        return await self.fetch(read_request(asset.FetchDirectoryRequest, data), call)

    async def fetch(self, request: AssetRequest, call: Call) -> bytes:
        """Return the encoded response to this Fetch.

        Raises EntryNotFound, InvalidRequest, and what Call.check_pull does.
        """
        # Before the rights: clients test a server by a request without URIs, and expect this error.
        wanted = wanted_by(request)
        call.check_pull(request.instance_name)
        acceptable = partial(self._acceptable, wanted)
        query = EntryQuery(wanted.keys, acceptable, AssetQuestion(request, wanted))
        entry = await self._finder.find(query)
        if entry is None:
            self._traffic.of(request.instance_name).assets.misses += 1
            raise EntryNotFound("none of the URIs names an asset that could be served")
        self._traffic.named(request.instance_name).assets.hits += 1
        return answer_with(entry)

    def _is_current(self, wanted: AssetQuery, entry: Entry) -> bool:
        if entry.expires_at_s is not None and entry.expires_at_s <= self._clock.wall_s():
            return False
        return wanted.oldest_s is None or entry.stored_at_s >= wanted.oldest_s

    async def _acceptable(self, wanted: AssetQuery, entry: Entry) -> bool:
        if not self._is_current(wanted, entry):
            return False
        if wanted.integrity is None:
            return True
        return await self._checksums.matches(content_of(pushed_of(entry)), wanted.integrity)


_DONE = b""  # PushBlobResponse and PushDirectoryResponse have no fields


class PushService:
    """build.bazel.remote.asset.v1.Push."""

    name = "build.bazel.remote.asset.v1.Push"

    def __init__(self, index: Index, checksums: ChecksumVerifier) -> None:
        self._index = index
        self._checksums = checksums

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
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
        # Read for its errors, as for action results; the entries of one push name the same.
        for names in names_of_entry(entries[0]):
            if len(names.blobs) + len(names.structures) == SLICE:
                await asyncio.sleep(0)  # each step parses many digests; let other tasks run
        integrity = integrity_pushed(pushed)
        # Only what the digest alone proves: the blob itself may come later.
        if integrity is not None and self._checksums.contradicts(content_of(pushed), integrity):
            raise InvalidRequest("checksum.sri is not that of blob_digest")
        await self._index.put(call.dated(entries), provenance=call.provenance)
        content = content_of(pushed)
        call.accepted(pushed.instance_name, uris=list(pushed.uris), digest=content)
        return _DONE
