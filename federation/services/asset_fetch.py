"""Remote Asset Fetch: answers from what was pushed here.

There is no client code behind this file: the node never opens a URL that a request names. A miss
is the status NOT_FOUND, never a status inside a response that says OK, which some clients ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.core.clock import Clock
from federation.core.errors import EntryNotFound
from federation.core.store import Entry
from federation.observability.metrics import Metrics
from federation.services.asset_question import AssetQuestion, Request
from federation.services.call import Call
from federation.services.checksum import ChecksumVerifier
from federation.services.method import LIST_REQUEST, Method, Unary
from federation.upstream.entry_finder import EntryQuery, Finder
from federation.wire.asset_request import AssetQuery, answer_with, content_of, pushed_of, wanted_by
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
        self._hits = metrics.lookups.labels(kind="asset", result="hit")
        self._misses = metrics.lookups.labels(kind="asset", result="miss")

    def methods(self) -> Mapping[str, Method]:
        """See rpc.Service."""
        return {
            "FetchBlob": Unary(self._fetch_blob, request_max=LIST_REQUEST),
            "FetchDirectory": Unary(self._fetch_directory, request_max=LIST_REQUEST),
        }

    async def _fetch_blob(self, data: bytes, call: Call) -> bytes:
        return await self.fetch(read_request(asset.FetchBlobRequest, data), call)

    async def _fetch_directory(self, data: bytes, call: Call) -> bytes:
        return await self.fetch(read_request(asset.FetchDirectoryRequest, data), call)

    async def fetch(self, request: Request, call: Call) -> bytes:
        """Return the encoded response to this Fetch.

        Raises EntryNotFound, InvalidRequest, and what Call.check_pull does.
        """
        wanted = wanted_by(request)
        call.check_pull(request.instance_name)
        acceptable = partial(self._acceptable, wanted)
        entry = await self._finder.find(
            EntryQuery(wanted.keys, acceptable, AssetQuestion(request, wanted.keys))
        )
        if entry is None:
            self._misses.inc()
            raise EntryNotFound("none of the URIs names an asset that could be served")
        self._hits.inc()
        return answer_with(entry)

    async def _acceptable(self, wanted: AssetQuery, entry: Entry) -> bool:
        if entry.expires_at_s is not None and entry.expires_at_s <= self._clock.wall_s():
            return False
        if wanted.oldest_s is not None and entry.stored_at_s < wanted.oldest_s:
            return False
        if wanted.integrity is None:
            return True
        return await self._checksums.matches(content_of(pushed_of(entry)), wanted.integrity)
