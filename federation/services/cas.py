"""build.bazel.remote.execution.v2.ContentAddressableStorage.

SplitBlob and SpliceBlob are not offered, and Capabilities says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from contextlib import suppress

from federation.config.model import LimitsConfig
from federation.core.store import DigestCodec, LocalStore
from federation.observability.metrics import Metrics
from federation.services.call import Call
from federation.services.cas_batch import BatchCalls
from federation.services.cas_tree import TreeCalls
from federation.services.cpu_pool import Compute
from federation.services.method import SMALL_REQUEST, Method, ServerStream, Unary
from federation.services.remembered import REMEMBERED_MAX_BYTES, RememberedRequests
from federation.wire.cas_codec import decode_find_missing, encode_missing
from federation.wire.digest_list import (
    DigestList,
    NotCanonical,
    decode_listed,
    encode_listed,
    hashes_of,
    size_of,
)

_LISTED = DigestCodec(hashes_of, size_of)
_LISTS_BYTES = 4 * 2**20  # of lists that are remembered: 12 MB with the names cut from them


class CasService:
    """Blobs by digest, many in one call."""

    name = "build.bazel.remote.execution.v2.ContentAddressableStorage"

    def __init__(
        self,
        store: LocalStore,
        limits: LimitsConfig,
        metrics: Metrics,
        compute: Compute,
        asked_by_pushers: LocalStore | None = None,
    ) -> None:
        """asked_by_pushers: tells callers with the right to push what is missing; None: store."""
        self._store = store
        self._asked_by_pushers = asked_by_pushers or store
        self._compute = compute
        self._lists = RememberedRequests(decode_listed, _LISTS_BYTES)
        self._batch = BatchCalls(store, limits, metrics, compute)
        self._tree = TreeCalls(store, limits, compute)
        self._traffic = metrics.traffic

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "FindMissingBlobs": Unary(self.find_missing, at_once=self.find_missing_at_once),
            "BatchUpdateBlobs": Unary(self._batch.update, writes=True),
            "BatchReadBlobs": Unary(self._batch.read),
            "GetTree": ServerStream(self._tree.get, request_max=SMALL_REQUEST),
        }

    async def find_missing(self, request: bytes, call: Call) -> bytes:
        """Answer with each digest once that is not held; the others are leased."""
        listed = await self._listed(request)
        if listed is not None:
            # Another spelling than this node's own, such as another digest function: the slower
            # decoder reads it.
            with suppress(NotCanonical):
                return await self._find_listed(listed, call)
        return await self._find_any(request, call)

    def find_missing_at_once(self, request: bytes, call: Call) -> bytes | None:
        """Answer as find_missing does; None if that has to wait."""
        listed = self._lists.decoded(request)
        if listed is None:
            return None
        call.check_pull(listed.instance)
        try:
            store = self._asked(listed.instance, call)
            missing = store.find_missing_at_once(listed.names, _LISTED)
        except NotCanonical:
            return None
        return None if missing is None else self._answer(listed, missing)

    async def _listed(self, request: bytes) -> DigestList | None:
        """Clients that build the same ask about the same lists, so the last ones are cached.

        That saves a third of the CPU of a call about 1,000 blobs.
        """
        if len(request) <= REMEMBERED_MAX_BYTES:
            return self._lists.decoded(request)
        return await self._compute.run(len(request) // 8, decode_listed, request)

    async def _find_listed(self, listed: DigestList, call: Call) -> bytes:
        call.check_pull(listed.instance)
        names = listed.names
        missing = await self._asked(listed.instance, call).find_missing_named(names, _LISTED)
        return self._answer(listed, missing)

    def _answer(self, listed: DigestList, missing: Set[bytes]) -> bytes:
        names = listed.names
        self._count(listed.instance, len(names), len(missing))
        return encode_listed([name for name in names if name in missing]) if missing else b""

    async def _find_any(self, request: bytes, call: Call) -> bytes:
        asked = await self._compute.run(len(request) // 4, decode_find_missing, request)
        call.check_pull(asked.instance)
        # REAPI leaves repeated digests open; here each is answered once, in the order of the
        # request.
        digests = dict.fromkeys(asked.digests)
        store = self._asked(asked.instance, call)
        missing = await store.find_missing(digests.keys()) if digests else set()
        self._count(asked.instance, len(digests), len(missing))
        if not missing:
            return b""
        # In the order of the request, which REAPI leaves open.
        ordered = [digest for digest in digests if digest in missing]
        return await self._compute.run(64 * len(ordered), encode_missing, ordered)

    def _asked(self, instance: str, call: Call) -> LocalStore:
        # See decisions, "Readers may be told what upstreams have, pushers may not".
        return self._asked_by_pushers if call.rights.may_push(instance) else self._store

    def _count(self, instance: str, asked: int, missing: int) -> None:
        presence = self._traffic.of(instance).presence
        presence.hits += asked - missing
        presence.misses += missing
