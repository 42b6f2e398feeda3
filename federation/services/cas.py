"""build.bazel.remote.execution.v2.ContentAddressableStorage.

SplitBlob and SpliceBlob are not offered, and Capabilities says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from federation.config import Limits
from federation.services.batch import BatchCalls
from federation.services.call import Call, Method, ServerStream, Unary
from federation.services.compute import Compute
from federation.services.tree import TreeCalls
from federation.status import Metrics
from federation.store import Store
from federation.wire.cas_codec import decode_find_missing, encode_missing


class CasService:
    """Blobs by digest, many in one call."""

    name = "build.bazel.remote.execution.v2.ContentAddressableStorage"

    def __init__(
        self,
        store: Store,
        limits: Limits,
        metrics: Metrics,
        compute: Compute,
        asked_by_pushers: Store | None = None,
    ) -> None:
        """Take the store; whoever may push asks another one what is missing, if it is given."""
        self._store = store
        self._asked_by_pushers = asked_by_pushers or store
        self._compute = compute
        self._batch = BatchCalls(store, limits, metrics, compute)
        self._tree = TreeCalls(store, limits, compute)
        self._hits = metrics.lookups.labels(kind="blob", result="hit")
        self._misses = metrics.lookups.labels(kind="blob", result="miss")

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "FindMissingBlobs": Unary(self.find_missing),
            "BatchUpdateBlobs": Unary(self._batch.update, writes=True),
            "BatchReadBlobs": Unary(self._batch.read),
            "GetTree": ServerStream(self._tree.get),
        }

    async def find_missing(self, request: bytes, call: Call) -> bytes:
        """Answer with each digest once that is not held; the others are leased."""
        asked = await self._compute.run(len(request) // 4, decode_find_missing, request)
        call.check_pull(asked.instance)
        digests = dict.fromkeys(asked.digests)
        pushes = call.rights.may_push(asked.instance)
        store = self._asked_by_pushers if pushes else self._store
        missing = await store.find_missing(digests.keys()) if digests else set()
        self._hits.inc(len(digests) - len(missing))
        self._misses.inc(len(missing))
        if not missing:
            return b""
        ordered = [digest for digest in digests if digest in missing]
        return await self._compute.run(64 * len(ordered), encode_missing, ordered)
