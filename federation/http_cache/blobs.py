"""Blobs by their hashes: /cas."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from federation.closure.names import Shape, names_of_structure
from federation.core.digest import Digest
from federation.core.errors import BlobNotFound, EntryNotFound, InvalidRequest
from federation.core.store import SMALL_BLOB_BYTES, LocalStore
from federation.http_cache.answer_head import Fields
from federation.http_cache.http_call import http_of
from federation.http_cache.reading import BlobSender
from federation.http_cache.receiving import BodyReceiver
from federation.http_cache.sizes import SizesByHash, learn_from
from federation.observability.metrics import Metrics
from federation.services.call import Call
from federation.services.method import Send
from federation.services.request_stream import RequestStream

_PARSED_HERE_BYTES = 64 * 1024  # more is parsed in a thread
# What is under a hash never changes, so whatever stands between may keep it. But only what is
# answered to everybody may be kept for everybody (RFC 9111, section 3.5).
_PUBLIC: Fields = (("Cache-Control", "public, max-age=31536000, immutable"),)
_PRIVATE: Fields = (("Cache-Control", "private, max-age=31536000, immutable"),)


class BlobCalls:
    """GET, HEAD and PUT."""

    def __init__(
        self,
        store: LocalStore,
        sender: BlobSender,
        receiver: BodyReceiver,
        sizes: SizesByHash,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._sender = sender
        self._receiver = receiver
        self._sizes = sizes
        self._traffic = metrics.traffic

    async def get(self, _requests: RequestStream, send: Send, call: Call) -> bytes:
        """Answer with the blob: one that is here, or at an upstream if its size is known."""
        target = http_of(call).target
        call.check_pull(target.instance)
        assert target.named is not None
        try:
            answer = await self._answer(target.named, send, call)
        except (BlobNotFound, EntryNotFound):
            self._traffic.of(target.instance).blobs.misses += 1
            raise
        self._traffic.of(target.instance).blobs.hits += 1
        return answer

    async def _answer(self, named: Digest, send: Send, call: Call) -> bytes:
        fields = _PUBLIC if call.rights.is_anonymous else _PRIVATE
        # A size that was learnt comes first: with it an upstream can be asked, too.
        learnt = self._sizes.sized(named)
        if learnt is not None:
            if (shape := self._sizes.shape_of(learnt)) is not None:
                await call.in_time(self._learn(learnt, shape))
            try:
                return await self._sender.answer(learnt, fields, send, call)
            except BlobNotFound:
                pass  # it may be here with another size than somebody claimed
        size_bytes = await call.in_time(self._store.size_of(named.function, named.hash))
        if size_bytes is None:
            raise EntryNotFound(f"no blob with the hash {named.hash_hex} is here")
        found = named._replace(size_bytes=size_bytes)
        answer = await self._sender.answer(found, fields, send, call)
        self._sizes.learn([found])
        return answer

    async def _learn(self, digest: Digest, shape: Shape) -> None:
        """Learn the sizes of what a tree or directory names: whoever asks for it asks for them."""
        # A larger one would have to be streamed and held; directories are rarely so large.
        if digest.size_bytes > SMALL_BLOB_BYTES:
            return
        (data,) = await self._store.read_small([digest])
        if data is None:
            return
        parts = names_of_structure(shape, data, digest.function)
        with suppress(InvalidRequest):
            if digest.size_bytes <= _PARSED_HERE_BYTES:
                learn_from(parts, self._sizes)
            else:
                learn_from(await asyncio.to_thread(list, parts), self._sizes)

    async def put(self, requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Store the body, which must have the hash."""
        target = http_of(call).target
        call.check_push(target.instance)
        assert target.named is not None
        digest = await self._receiver.receive(
            requests, call, target.named.function, target.named.hash
        )
        self._sizes.learn([digest])
        call.accepted(target.instance, digest=digest)
        return b""
