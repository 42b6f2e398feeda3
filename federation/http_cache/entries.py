"""Keyed entries: values under the keys that ccache, sccache, Gradle, Turborepo and Nx choose.

Each is kept as an action result (wire/keyed_entry.py), so whatever holds for those holds for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from federation.core.digest import Digest, digest_of
from federation.core.errors import EntryNotFound, InvalidRequest
from federation.core.index import Entry, EntryKey, Index, IndexElsewhere
from federation.core.store import LocalStore
from federation.http_cache.answer_head import Fields
from federation.http_cache.http_call import TEXT, HttpCall, http_of
from federation.http_cache.namespaces import Namespaces
from federation.http_cache.reading import BlobSender
from federation.http_cache.receiving import BodyReceiver
from federation.http_cache.target import ClientKind, Target
from federation.observability.metrics import Metrics
from federation.services.call import Call
from federation.services.method import Send
from federation.services.request_stream import RequestStream
from federation.upstream.entry_finder import EntryQuery, Finder
from federation.wire.action_result import key_of
from federation.wire.keyed_entry import (
    HEADERS_MAX_BYTES,
    KeyedValue,
    action_of,
    decode_entry,
    decode_headers,
    encode_entry,
    encode_headers,
    key_text,
)

# Of these Turborepo wants back what it sent: a signature, above all.
_KEPT_FIELDS = (
    "x-artifact-duration",
    "x-artifact-tag",
    "x-artifact-sha",
    "x-artifact-dirty-hash",
)
_KEPT_MAX_CHARS = 1024


class KeyedQuestion(NamedTuple):
    """A GetActionResult for a keyed entry, to be put to upstreams.

    An upstream is asked in the instance of the namespace, below the one it is asked in otherwise.
    """

    key: EntryKey
    action: Digest
    below: str  # the instance, without what a client put before the namespace

    @property
    def keys(self) -> tuple[EntryKey, ...]:
        """See AskUpstream."""
        return (self.key,)

    @property
    def names(self) -> tuple[str, ...]:
        """See AskUpstream: action results have no names."""
        return ()

    async def put_to(self, index: IndexElsewhere) -> Entry | None:
        """See AskUpstream."""
        value = await index.get_action_result(self.action, index.instance_below(self.below))
        return None if value is None else Entry(self.key, value, str(self.action))


async def is_keyed(entry: Entry) -> bool:
    """Whether an entry can be read as a keyed one."""
    try:
        decode_entry(entry.value)
    except InvalidRequest:
        return False
    return True


class EntryCalls:
    """GET, HEAD and PUT."""

    def __init__(
        self,
        store: LocalStore,
        index: Index,
        finder: Finder,
        sender: BlobSender,
        receiver: BodyReceiver,
        namespaces: Namespaces,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._index = index
        self._finder = finder
        self._sender = sender
        self._receiver = receiver
        self._namespaces = namespaces
        self._traffic = metrics.traffic

    async def get(self, _requests: RequestStream, send: Send, call: Call) -> bytes:
        """Answer with the value, and the headers that were kept with it."""
        target = http_of(call).target
        call.check_pull(target.instance)
        found = await call.in_time(self.find(target))
        if found is None:
            self._traffic.of(target.instance).keyed_entries.misses += 1
            raise EntryNotFound(f"no entry {target.namespace}/{target.key}")
        self._traffic.named(target.instance).keyed_entries.hits += 1
        return await self.answer(found, send, call)

    async def find(self, target: Target) -> KeyedValue | None:
        """Return the entry if there is one that can be served, here or at an upstream."""
        question = question_of(target)
        entry = await self._finder.find(EntryQuery([question.key], is_keyed, question))
        return None if entry is None else decode_entry(entry.value)

    async def answer(self, found: KeyedValue, send: Send, call: Call) -> bytes:
        """Answer with an entry that was found."""
        fields: Fields = tuple((await self.headers(found)).items())
        return await self._sender.answer(found.value, fields, send, call)

    async def headers(self, found: KeyedValue) -> Mapping[str, str]:
        """Return the headers that were kept with an entry."""
        # An upstream's entry may name anything as its headers.
        if found.headers is None or found.headers.size_bytes > HEADERS_MAX_BYTES:
            return {}
        (data,) = await self._store.read_small([found.headers])
        if data is None:
            raise EntryNotFound("the headers of the entry were found damaged just now")
        kept = decode_headers(data)
        # Checked again: an upstream's entry may have headers that would split the answer's head.
        return {name: kept[name] for name in _KEPT_FIELDS if _is_plain(kept.get(name, ""))}

    async def put(self, requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Store the body under the key, unless the namespace keeps the first value."""
        http = http_of(call)
        call.check_push(http.target.instance)
        return await self.store(self._receiver.pieces(requests, call), call)

    async def store(self, pieces: AsyncIterator[bytes], call: Call) -> bytes:
        """Store a value that is given in pieces."""
        http = http_of(call)
        target = http.target
        key = question_of(target).key
        if not self._namespaces.is_write_once(target.namespace):
            entry, value = await self._receive(pieces, call, http)
            await self._index.put([entry], provenance=call.provenance)
        else:
            # Read before its closure is checked: put_over stores only over the value checked then.
            (held,) = await self._index.get([key])
            if await call.in_time(self.find(target)) is not None:
                return _there_already(http)
            entry, value = await self._receive(pieces, call, http)
            # Others may have written the key while the value came.
            if not await self._index.put_over(entry, held, provenance=call.provenance):
                return _there_already(http)
        call.accepted(target.instance, namespace=target.namespace, key=target.key, digest=value)
        return b""

    async def _receive(
        self, pieces: AsyncIterator[bytes], call: Call, http: HttpCall
    ) -> tuple[Entry, Digest]:
        """Store a value and what its entry needs beside it; return the entry and the value."""
        target = http.target
        question = question_of(target)
        beside = [(question.action, key_text(target.namespace, target.key))]
        headers = None
        if kept := _kept_of(http):
            text = encode_headers(kept)
            headers = digest_of(text)
            beside.append((headers, text))
        # Both before the entry: it is served only when all that it names is here.
        value, _ = await asyncio.gather(
            self._receiver.store(pieces, call), self._store_beside(beside, call)
        )
        encoded = encode_entry(KeyedValue(value, headers))
        (entry,) = call.dated([Entry(question.key, encoded, str(question.action))])
        return entry, value

    async def _store_beside(self, blobs: list[tuple[Digest, bytes]], call: Call) -> None:
        """Store the text that the entry's digest is of, and its headers."""
        for refusal in await self._store.write_small(blobs, provenance=call.provenance):
            if refusal is not None:
                raise refusal


def question_of(target: Target) -> KeyedQuestion:
    """Return the key and the action that stand for a keyed entry."""
    action = action_of(target.namespace, target.key)
    # What is kept under /ac has no namespace in its instance: see the layout of paths in target.py.
    below = "" if target.client is ClientKind.BAZEL else target.namespace
    return KeyedQuestion(key_of(target.instance, action), action, below)


def _there_already(http: HttpCall) -> bytes:
    if http.target.client is ClientKind.NX:
        http.answers(409, TEXT)
        return b"there is a value under this key, and the first one stays\n"
    return b""


def _kept_of(http: HttpCall) -> dict[str, str]:
    if http.target.client is not ClientKind.TURBOREPO:
        return {}
    found = ((name, http.field(name)) for name in _KEPT_FIELDS)
    return {name: value for name, value in found if value is not None and _is_plain(value)}


def _is_plain(value: str) -> bool:
    return 0 < len(value) <= _KEPT_MAX_CHARS and value.isascii() and value.isprintable()
