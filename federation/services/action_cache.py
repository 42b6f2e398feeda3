"""ActionCache: results of actions, served only with everything they name.

The action's digest is an opaque key: what it points at is never looked at, and need not exist or
be an Action (moon keys its results by the digest of a JSON manifest). Clients of the HTTP cache
name actions by hash alone: a result that one of them gave may be kept with the size 0, and a
request with the size 0 is for the result of an action of any size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.closure.names import SLICE, names_of_action_result
from federation.core.digest import Digest
from federation.core.errors import EntryNotFound
from federation.core.index import Entry, EntryKey, Index
from federation.core.store import Store
from federation.observability.metrics import Metrics
from federation.services.call import Call
from federation.services.method import LIST_REQUEST, SMALL_ANSWER, Method, Unary
from federation.upstream.entry_finder import EntryQuery, Finder
from federation.upstream.questions import ActionQuestion, keys_with_size
from federation.wire.action_result import (
    check_inlined,
    key_of,
    key_prefix_of,
    read_update,
    to_inline,
    with_inlined,
)
from federation.wire.bounds import read_request
from federation.wire.digests import function_of, to_digest
from federation.wire.resource_name import check_instance

_PATH_BYTES = 16  # at least, on average, of a path to inline
_INLINE_BYTES = 128 * 1024  # hashing less costs less than handing it to a thread


def _asked(data: bytes, call: Call) -> tuple[reapi.GetActionResultRequest, EntryKey, Digest]:
    """Read a request that the caller may make. Raises as read_request and check_pull do."""
    request = read_request(reapi.GetActionResultRequest, data, _PATH_BYTES)
    call.check_pull(check_instance(request.instance_name))
    action = to_digest(request.action_digest, function_of(request.digest_function))
    return request, key_of(request.instance_name, action), action


class ActionCacheService:
    """build.bazel.remote.execution.v2.ActionCache."""

    name = "build.bazel.remote.execution.v2.ActionCache"

    def __init__(
        self,
        store: Store,
        index: Index,
        finder: Finder,
        metrics: Metrics,
        *,
        inlines: bool = True,
    ) -> None:
        """inlines: whether outputs are inlined into results for callers that ask for it."""
        self._inlines = inlines
        self._store = store
        self._index = index
        self._finder = finder
        self._traffic = metrics.traffic

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "GetActionResult": Unary(
                self._get, request_max=LIST_REQUEST, at_once=self._get_at_once
            ),
            "UpdateActionResult": Unary(self._update, writes=True),
        }

    def _get_at_once(self, data: bytes, call: Call) -> bytes | None:
        """Answer with a result that memory has, or that there is none. Raises EntryNotFound."""
        request, key, action = _asked(data, call)
        # Size 0 stands for any size, and finding those takes a look-up by prefix.
        if action.size_bytes and (entry := self._finder.recall(key)) is not None:
            wants_more = self._inlines and to_inline(entry.value, request, action.function)
            if wants_more or len(entry.value) > SMALL_ANSWER:
                return None
            self._traffic.named(key.instance).action_results.hits += 1
            return entry.value
        if action.size_bytes and self._finder.misses_at_once(keys_with_size(key, action)):
            raise self._miss(key, action)
        return None

    async def _get(self, data: bytes, call: Call) -> bytes:
        request, key, action = _asked(data, call)
        keys = await self._keys(key, action)

        async def is_result(entry: Entry) -> bool:
            return entry.key in keys  # not what the HTTP cache keeps beside results

        entry = await self._finder.find(EntryQuery(keys, is_result, ActionQuestion(key, action)))
        if entry is None:
            raise self._miss(key, action)
        places = to_inline(entry.value, request, action.function) if self._inlines else {}
        value = await self._inline(entry.value, places, key, action) if places else entry.value
        self._traffic.named(key.instance).action_results.hits += 1
        return value

    async def _keys(self, key: EntryKey, action: Digest) -> Sequence[EntryKey]:
        """Return what a result may be kept under, the action's own size first."""
        if action.size_bytes:
            return keys_with_size(key, action)
        # None is held: upstreams are asked for the action as it was named.
        return await self._finder.keys_like([key_prefix_of(key.instance, action)]) or [key]

    async def _inline(
        self, value: bytes, places: Mapping[int, Digest], key: EntryKey, action: Digest
    ) -> bytes:
        found = await self._store.read_small(list(places.values()))
        contents = {
            place: content
            for place, content in zip(places, found, strict=True)
            if content is not None
        }
        if len(contents) < len(places):  # found damaged just now: the result is not complete
            raise self._miss(key, action)
        return with_inlined(value, contents)

    def _miss(self, key: EntryKey, action: Digest) -> EntryNotFound:
        # of(), not named(): asking must not give an instance a series of its own in the metrics.
        self._traffic.of(key.instance).action_results.misses += 1
        return EntryNotFound(f"no result of action {action} that could be served")

    async def _update(self, data: bytes, call: Call) -> bytes:
        update = read_update(data)
        call.check_push(check_instance(update.key.instance))
        # Read for its errors: a malformed result is refused now, not at each later request for it.
        for names in names_of_action_result(update.value, update.function):
            if len(names.blobs) == SLICE:
                await asyncio.sleep(0)  # each step parses many digests; let other tasks run
        if len(update.value) <= _INLINE_BYTES:
            check_inlined(update.value, update.function)
        else:
            await asyncio.to_thread(check_inlined, update.value, update.function)
        entries = call.dated([Entry(update.key, update.value, str(update.action))])
        await self._index.put(entries, provenance=call.provenance)
        call.accepted(update.key.instance, action=update.action)
        return update.value
