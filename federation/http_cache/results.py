"""Action results by the hash of their action: /ac.

The path has no size of the action. If its blob is here, it tells; else the result is kept with the
size 0, which the gRPC face looks under, too. What is no action result is kept as a keyed entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import NamedTuple

from federation.closure.names import Names, names_of_action_result
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import EntryNotFound, InvalidRequest, RequestTooLarge
from federation.core.index import Entry, EntryKey, Index, IndexElsewhere
from federation.core.store import LocalStore
from federation.http_cache.entries import EntryCalls, KeyedQuestion, is_keyed, question_of
from federation.http_cache.http_call import http_of
from federation.http_cache.json_results import digests_in_json
from federation.http_cache.receiving import BodyReceiver, as_pieces, noting_size
from federation.http_cache.sizes import LEARNT_MAX, SizesByHash, learn_from
from federation.http_cache.target import Target
from federation.observability.metrics import Metrics
from federation.services.call import Call
from federation.services.method import Send
from federation.services.request_stream import RequestStream
from federation.upstream.entry_finder import EntryQuery, Finder
from federation.wire.action_result import RESPONSE_MAX_BYTES, check_inlined, key_of, key_prefix_of
from federation.wire.keyed_entry import decode_entry
from federation.wire.protobuf import LENGTH, VARINT, fields

_BINARY = (("Content-Type", "application/octet-stream"),)
_INLINE_BYTES = 128 * 1024  # hashing less costs less than handing it to a thread
_UNCOUNTED_BYTES = 64 * 1024  # the bound on the number of calls bounds bodies of this size, too
_RESULT_FIELDS = frozenset(range(1, 13))  # of build.bazel.remote.execution.v2.ActionResult
_EXIT_CODE = 4  # the only one of them that is a number
_LOOKED_AT = 8  # fields of a large body that tell whether it begins like a result


class _Asked(NamedTuple):
    """The questions of one GET to upstreams: for the result, or for what is no result."""

    result: EntryKey
    action: Digest
    keyed: KeyedQuestion

    @property
    def keys(self) -> tuple[EntryKey, ...]:
        """See AskUpstream."""
        return (self.result, self.keyed.key)

    @property
    def names(self) -> tuple[str, ...]:
        """See AskUpstream: action results have no names."""
        return ()

    async def put_to(self, index: IndexElsewhere) -> Entry | None:
        """See AskUpstream."""
        value, other = await asyncio.gather(
            index.get_action_result(self.action), self.keyed.put_to(index)
        )
        return other if value is None else Entry(self.result, value, str(self.action))


class ResultCalls:
    """GET, HEAD and PUT."""

    def __init__(
        self,
        store: LocalStore,
        index: Index,
        finder: Finder,
        entries: EntryCalls,
        receiver: BodyReceiver,
        sizes: SizesByHash,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._index = index
        self._finder = finder
        self._entries = entries
        self._receiver = receiver
        self._sizes = sizes
        self._traffic = metrics.traffic

    async def get(self, _requests: RequestStream, send: Send, call: Call) -> bytes:
        """Answer with the result, or with what is kept under the hash instead."""
        http = http_of(call)
        target = http.target
        call.check_pull(target.instance)
        keyed = question_of(target)
        entry = await call.in_time(self._find(target, keyed))
        if entry is None:
            self._traffic.of(target.instance).action_results.misses += 1
            raise EntryNotFound(f"nothing that could be served under ac/{target.key}")
        self._traffic.named(target.instance).action_results.hits += 1
        if entry.key == keyed.key:
            kept = decode_entry(entry.value)
            if http.method == "GET":
                await call.in_time(self._learn_json(kept.value, call))
            return await self._entries.answer(kept, send, call)
        self._learn(entry.value, _named(target).function)
        http.answers(200, _BINARY)
        if http.method == "HEAD":
            http.begin(len(entry.value))
            return b""
        if len(entry.value) <= _UNCOUNTED_BYTES:
            return entry.value
        await call.make_room(len(entry.value))
        http.begin(len(entry.value))
        await send(entry.value)
        return b""

    async def _find(self, target: Target, keyed: KeyedQuestion) -> Entry | None:
        named = _named(target)
        held = await self._finder.keys_like([key_prefix_of(target.instance, named), keyed.key])
        action = await self._action(named)
        if not action.size_bytes:
            # A size that a tree or result named is worth a question to upstreams, which need one.
            action = self._sizes.sized(named) or named
        result = key_of(target.instance, action)
        # Of what is here the newest comes first; upstreams are asked for both.
        keys = list(dict.fromkeys([*held, keyed.key, result]))

        async def acceptable(entry: Entry) -> bool:
            return entry.key != keyed.key or await is_keyed(entry)

        return await self._finder.find(EntryQuery(keys, acceptable, _Asked(result, action, keyed)))

    async def _action(self, named: Digest) -> Digest:
        """Return the action's digest; with the size 0 if its blob is not here."""
        size_bytes = await self._store.size_of(named.function, named.hash)
        return named if size_bytes is None else named._replace(size_bytes=size_bytes)

    def _learn(self, value: bytes, function: DigestFunction) -> None:
        """Remember the sizes of what a result names: its reader asks for it by hash alone."""
        learn_from(names_of_action_result(value, function), self._sizes)

    async def _learn_json(self, value: Digest, call: Call) -> None:
        """Do the same for a result that is kept in JSON. Raises what Store.open_read raises."""
        if value.size_bytes > RESPONSE_MAX_BYTES:
            return
        body = bytearray()
        async with self._store.open_read(value) as chunks:
            async for data in chunks:
                body += data
                # Not JSON, so it names nothing that could be learnt, and need not be read to its
                # end.
                if not body.startswith(b"{"):
                    return
                if len(body) > _UNCOUNTED_BYTES:
                    await call.hold(len(data))
        found = partial(digests_in_json, bytes(body), LEARNT_MAX, value.function)
        self._sizes.learn(found() if len(body) <= _INLINE_BYTES else await asyncio.to_thread(found))

    async def put(self, requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Store the body: as an action result if it is one, else as a keyed entry."""
        http = http_of(call)
        target = http.target
        call.check_push(target.instance)
        pieces = self._receiver.pieces(requests, call)
        begun = await self._begin(pieces, call)
        named = _named(target)
        # Action results are smaller, so this is a client's own value, unless it begins like one.
        if len(begun) > RESPONSE_MAX_BYTES:
            # Too large to be checked whole; taken for a value, it would hide a smaller result.
            if begins_like_result(begun):
                with noting_size(http):
                    raise RequestTooLarge(
                        "result.bytes", f"an action result of more than {RESPONSE_MAX_BYTES} bytes"
                    )
            return await self._entries.store(as_pieces(begun, pieces), call)
        if await self._is_result(begun, named.function):
            await self._store_result(begun, target, call)
            return b""
        return await self._entries.store(as_pieces(begun), call)

    async def _begin(self, pieces: AsyncIterator[bytes], call: Call) -> bytes:
        """Return the body, or of a larger one what is more than an action result may have."""
        found = bytearray()
        async for piece in pieces:
            found += piece
            if len(found) > _UNCOUNTED_BYTES:
                await call.hold(len(piece))
            if len(found) > RESPONSE_MAX_BYTES:
                break
        return bytes(found)

    async def _is_result(self, body: bytes, function: DigestFunction) -> bool:
        if len(body) <= _INLINE_BYTES:
            return is_result(body, function)
        return await asyncio.to_thread(is_result, body, function)

    async def _store_result(self, value: bytes, target: Target, call: Call) -> None:
        named = _named(target)
        action = await self._action(named)  # no size that only somebody claimed: it may hide this
        held: Sequence[Entry] = ()
        if not action.size_bytes:
            # A result that is here under its true size is replaced, not hidden behind a second one.
            held = await self._index.get_like([key_prefix_of(target.instance, named)])
        key = held[0].key if held else key_of(target.instance, action)
        label = held[0].label if held else str(action)
        await self._index.put(call.dated([Entry(key, value, label)]), provenance=call.provenance)
        # Whoever is told of the result may ask for its blobs at once, by hash alone.
        self._learn(value, named.function)
        call.accepted(target.instance, action=label)


def is_result(body: bytes, function: DigestFunction) -> bool:
    """Return whether a body is an action result that says what it names.

    Fields that are not known yet do not matter, as long as there is one that is. An empty body is
    the result of an action without any output.
    """
    try:
        parts: list[Names] = list(names_of_action_result(body, function))
        check_inlined(body, function)
        known = not body or any(number in _RESULT_FIELDS for number, *_ in fields(body))
    except InvalidRequest:
        return False
    return known and bool(parts)


def begins_like_result(body: bytes) -> bool:
    """Return whether the first fields of a body are those of an action result."""
    try:
        for count, (number, kind, _, _) in enumerate(fields(body)):
            if number not in _RESULT_FIELDS or kind != (VARINT if number == _EXIT_CODE else LENGTH):
                return False
            if count == _LOOKED_AT:
                return True
    except InvalidRequest:
        return False
    return True


def _named(target: Target) -> Digest:
    assert target.named is not None
    return target.named
