"""Remote Asset Fetch: answers from what was pushed here.

There is no client code behind this file: the node never opens a URL that a request names. A miss
is the status NOT_FOUND, never a status inside a response that says OK, which some clients ignore.
"""

from __future__ import annotations

from collections.abc import Mapping

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.clock import Clock
from federation.errors import EntryNotFound
from federation.services.checksum import ChecksumVerifier
from federation.services.closure import ClosureChecker
from federation.services.rpc import Call, Method, Unary
from federation.status import Metrics
from federation.store import Entry, Index
from federation.wire.asset_request import Wanted, answer_with, content_of, wanted_by
from federation.wire.closure import pushed_of

_KEYS = 16  # looked up at once; clients name one or two URIs, and entries may be megabytes


class FetchService:
    """build.bazel.remote.asset.v1.Fetch."""

    name = "build.bazel.remote.asset.v1.Fetch"

    def __init__(
        self,
        index: Index,
        closures: ClosureChecker,
        checksums: ChecksumVerifier,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._index = index
        self._closures = closures
        self._checksums = checksums
        self._clock = clock
        self._hits = metrics.lookups.labels(kind="asset", result="hit")
        self._misses = metrics.lookups.labels(kind="asset", result="miss")

    def methods(self) -> Mapping[str, Method]:
        """See rpc.Service."""
        return {
            "FetchBlob": Unary(self._fetch_blob),
            "FetchDirectory": Unary(self._fetch_directory),
        }

    async def _fetch_blob(self, data: bytes, _call: Call) -> bytes:
        return await self._fetch(wanted_by(asset.FetchBlobRequest.FromString(data)))

    async def _fetch_directory(self, data: bytes, _call: Call) -> bytes:
        return await self._fetch(wanted_by(asset.FetchDirectoryRequest.FromString(data)))

    async def _fetch(self, wanted: Wanted) -> bytes:
        for at in range(0, len(wanted.keys), _KEYS):
            for entry in await self._index.get(wanted.keys[at : at + _KEYS]):
                if entry is not None and await self._answers(entry, wanted):
                    self._hits.inc()
                    return answer_with(entry)
        self._misses.inc()
        raise EntryNotFound("none of the URIs names an asset that could be served")

    async def _answers(self, entry: Entry, wanted: Wanted) -> bool:
        if entry.expires_at_s is not None and entry.expires_at_s <= self._clock.wall_s():
            return False
        if wanted.oldest_s is not None and entry.stored_at_s < wanted.oldest_s:
            return False
        if not await self._closures.complete(entry):
            return False
        if wanted.integrity is None:
            return True
        return await self._checksums.matches(content_of(pushed_of(entry)), wanted.integrity)
